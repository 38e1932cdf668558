"""Which series a figure shows: the grid they lie on, the groups they fall into, the best of too many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedmac.axes import best_direction
from fedmac.studies.compare.findings import Comparison, Series

MAX_LINES = 12  # lines in one plot that a reader can still follow
UNEQUAL = "(unequal budget)"
MAX_BEST = 10  # of more series, the best so many are drawn, and the baseline


@dataclass(frozen=True)
class Swept:
    """The grid that the series of a sweep lie on.

    Attributes
    ----------
    keys
        Each swept key with its values, in the order of the sweep.
    lines
        Name of a line through the grid (a variant) -> its series by their values, in the order of `keys`.
    """

    keys: Mapping[str, tuple[Any, ...]]
    lines: Mapping[str, Mapping[tuple[str, ...], Series]]


def swept(series: Sequence[Series]) -> Swept | None:
    """The grid that the series lie on; None if they have no swept keys in common or share a place in it."""
    names = list(dict.fromkeys(key for one in series for key in one.settings))
    if not names or any(set(one.settings) != set(names) for one in series):
        return None
    values = {key: _distinct([one.settings[key] for one in series]) for key in names}
    keys = {key: found for key, found in values.items() if len(found) > 1}
    places = Counter((one.variant, *_place(one, names)) for one in series)
    if not keys or max(places.values()) > 1:
        return None
    lines: dict[str, dict[tuple[str, ...], Series]] = {}
    for one in series:
        lines.setdefault(one.variant, {})[_place(one, keys)] = one
    return Swept(keys, lines)


def as_numbers(values: Sequence[Any]) -> list[float] | None:
    """The values of a swept key as numbers, or None if they are not all finite numbers."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    numbers = [float(value) for value in values]
    return numbers if all(map(math.isfinite, numbers)) else None


def wide(numbers: Sequence[float]) -> bool:
    """Whether positive numbers span more than two decades, so that a log axis shows them better."""
    return min(numbers) > 0 and max(numbers) > 100 * min(numbers)


def short(key: str, keys: Iterable[str]) -> str:
    """A swept key without its table, ``snr_db``, unless another of the keys ends alike."""
    last = key.rsplit(".", 1)[-1]
    return key if sum(other.rsplit(".", 1)[-1] == last for other in keys) > 1 else last


def value_text(value: Any) -> str:
    """A swept value as an axis or a legend says it: ``0.05``, ``true``, ``rayleigh``."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def marked(one: Series) -> str:
    """A series' name in a legend, with the words that its budget is unequal."""
    return f"{one.name} {UNEQUAL}" if one.unequal else one.name


def best_and_baseline(comparison: Comparison) -> list[Series]:
    """All series; of more than :data:`MAX_LINES` the best :data:`MAX_BEST`, and the baseline if all have one."""
    if len(comparison.series) <= MAX_LINES:
        return list(comparison.series)
    sign = 1.0 if best_direction(comparison.y) == "low" else -1.0
    known = [one for one in comparison.series if math.isfinite(one.final.mean)]
    best = {one.name for one in sorted(known, key=lambda one: sign * one.final.mean)[:MAX_BEST]}
    baselines = [one.name for one in comparison.series if one.is_baseline]
    best |= set(baselines) if len(baselines) == 1 else set()
    return [one for one in comparison.series if one.name in best]


def groups(comparison: Comparison) -> dict[str, list[Series]]:
    """Series that belong on one plot: the variants of a cell, or of one variant the cells of the first key's value."""
    grid = swept(comparison.series)
    if grid is None:
        return {}
    first = next(iter(grid.keys))
    found: dict[str, list[Series]] = {}
    for one in comparison.series:
        keys = grid.keys if len(grid.lines) > 1 else [first]
        label = ", ".join(f"{short(key, grid.keys)} = {value_text(one.settings[key])}" for key in keys)
        found.setdefault(label, []).append(one)
    return found


def _place(one: Series, keys: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(value_text(one.settings[key]) for key in keys)


def _distinct(values: Sequence[Any]) -> tuple[Any, ...]:
    """The different values as they read, each once; numbers sorted, others in the order met."""
    found = tuple({value_text(value): value for value in values}.values())
    return tuple(sorted(found)) if as_numbers(found) is not None else found
