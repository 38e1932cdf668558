"""Scenarios as they travel in a Flower run's configuration: a path, or the TOML text itself."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_toml import parsed


def scenario_from_text(text: str, overrides: str = "") -> Scenario:
    """Read a scenario from TOML text (more than one line) or from a path.

    A relative path is looked for where modules are (Flower unpacks an app into such a place), in the working
    directory, and beside the package.
    `overrides` holds ``key=value`` pairs, one a line or separated by semicolons.
    """
    changes = parse_settings(part for part in overrides.replace("\n", ";").split(";") if part.strip())
    if "\n" in text:
        return Scenario.load(parsed(text, "scenario"), changes)
    path = Path(text)
    if not path.is_absolute():
        places = [*map(Path, sys.path), Path(), Path(__file__).resolve().parent.parent]
        path = next((place / path for place in places if (place / path).is_file()), path)
    return Scenario.load(path, changes)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``["data.devices=5", "strategy.name=fedadam"]`` as ``{"data.devices": 5, "strategy.name": "fedadam"}``.

    Values are read as TOML; what is not valid TOML is taken as a string.

    Raises
    ------
    ScenarioError
        If a setting has no equals sign.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ScenarioError(f"--set {setting!r}: accepted: key=value, for example training.learning_rate=0.1")
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            changes[key.strip()] = value.strip()
    return changes
