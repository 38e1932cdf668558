"""Grids: which settings a sweep tries, and its cells, one for each combination."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fedmac.scenario_errors import ScenarioError, shown

Grid = dict[str, list[Any]]
"""Values by dotted key, in the order given."""

NOT_IN_GRIDS = {
    "seed": "the same for all cells, so that they can be compared; accepted: --seed",
    "seeds": "the same for all cells, so that they can be compared; accepted: --seeds",
    "name": "names the sweep, not a cell; accepted: --set name=…",
    "description": "changes nothing in a run; accepted: a key that does",
    "variants": "run side by side in every cell; accepted: a key, which is then set in all variants",
    "engine": "says where devices run, which changes no result; accepted: --set or --engine",
}
"""Keys that no grid may have, with the reason and what to do instead."""

WHOLE_NAME = "base"
"""The name of the one cell of a sweep without a grid."""

_LONGEST_NAME = 100
_HASH = 8
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
_EXAMPLE = "accepted: KEY=VALUE,VALUE,…, for example channel.snr_db=0,10,20"


def parse_grid(words: Iterable[str]) -> Grid:
    """``["uplink.ratio=0.05,0.1", "strategy.name=fedavg,fedadam"]`` as a grid.

    Values are read as TOML, one by one; what is not valid TOML is taken as a string. Commas within quotes and
    brackets do not separate.

    Raises
    ------
    ScenarioError
        If a word has no equals sign or no values, or :func:`check_grid` refuses what it says.
    """
    grid: Grid = {}
    for word in words:
        key, equals, values = word.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ScenarioError(f"--grid {word!r}: {_EXAMPLE}")
        if key in grid:
            raise ScenarioError(
                f"--grid {word!r}: {key} is in the grid already; accepted: all its values in one --grid"
            )
        parts = [part.strip() for part in _split(values)]
        if "" in parts:
            raise ScenarioError(f"--grid {word!r}: a value is empty; {_EXAMPLE}")
        grid[key] = [_value(part) for part in parts]
    return check_grid(grid)


def check_grid(grid: Mapping[str, Iterable[Any]]) -> Grid:
    """A grid as lists, once it is clear that a sweep can have it; whether scenarios accept its values, they say.

    Raises
    ------
    ScenarioError
        If a key is not a dotted key or cannot be in a grid, or if values are missing, tables or the same.
    """
    checked: Grid = {}
    for key, values in grid.items():
        if not _KEY.fullmatch(key):
            raise ScenarioError(f"grid: {key!r} is not a key; accepted: a dotted key, for example channel.snr_db")
        reason = NOT_IN_GRIDS.get(key.split(".")[0])
        if reason is not None:
            raise ScenarioError(f"grid: {key}: {reason}")
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise ScenarioError(f"grid: {key} = {shown(values)}: accepted: a list of values")
        # NumPy's numbers as Python's own: np.linspace makes a good grid.
        checked[key] = [value.item() if isinstance(value, np.generic) else value for value in values]
        _check_values(key, checked[key])
    return checked


def cells_of(grid: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """The settings of each cell: all combinations, the last key changing fastest; one without settings if no keys."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def cell_name(settings: Mapping[str, Any]) -> str:
    """A cell's name, ``channel.snr_db=0,uplink.ratio=0.05``, which names its folder as well.

    It ends with a hash of the settings where it had to be cut, holds what a folder's name may not, or differs from
    another's perhaps by case only.
    """
    if not settings:
        return WHOLE_NAME
    whole = ",".join(f"{key}={value_text(value)}" for key, value in settings.items())
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "_", whole)[:_LONGEST_NAME]
    if name == whole.lower():
        return name
    digest = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:_HASH]
    return f"{name[: _LONGEST_NAME - _HASH - 1]}-{digest}"


def value_text(value: Any) -> str:
    """A value as a person would write it after ``KEY=``: a text without quotes, lists and the rest as in TOML."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def _check_values(key: str, values: list[Any]) -> None:
    if not values:
        raise ScenarioError(f"grid: {key} has no values; {_EXAMPLE}")
    for number, value in enumerate(values):
        if value is None:
            raise ScenarioError(f"grid: {key} = None: no value; accepted: what TOML can write")
        if isinstance(value, Mapping):
            raise ScenarioError(f"grid: {key} = {shown(value)}: a table; accepted: a grid for each of its keys")
        for earlier in values[:number]:
            if value_text(earlier) == value_text(value) or (type(value) is not bool and earlier == value):
                raise ScenarioError(f"grid: {key} = {shown(value)}: given twice; accepted: each value once")


def _split(text: str) -> list[str]:
    """Parts between the commas that are not within quotes or brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += character
    return parts


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
