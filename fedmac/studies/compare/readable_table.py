"""The table of a comparison in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial

import pandas as pd

from fedmac.axes import label
from fedmac.studies.compare.contenders import brief
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.statistics import Estimate
from fedmac.studies.compare.words import figure_words

COSTS = ("channel_uses", "energy", "clock")
"""Costs that readable tables show; the full table has them all."""

EQUAL, UNEQUAL = "equal", "unequal budget: "
NOT_REACHED, UNKNOWN = "not reached", "\N{EN DASH}"


def readable_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each series in words: mean ± half width, cost to target or "not reached", budget; no empty columns.

    In a sweep the swept keys stand in columns of their own, with the variant where there are several, instead of the
    name. Headings are short; :func:`table_notes` says what they mean.
    """
    columns: dict[str, Callable[[Series], str]] = _which(comparison)
    columns["seeds"] = lambda series: str(len(series.seeds))
    columns[comparison.labels[comparison.y]] = lambda series: figure_words(comparison.y, series.final)
    if comparison.target:
        columns[target_heading(comparison)] = target_words
    if any(series.area for series in comparison.series):
        columns["area"] = lambda series: figure_words(comparison.y, series.area) if series.area else UNKNOWN
    for axis in COSTS:
        if axis in comparison.axes:
            columns[axis_heading(comparison, axis)] = partial(_cost_words, axis)
    columns["budget"] = budget_words
    rows = [{heading: text(series) for heading, text in columns.items()} for series in comparison.series]
    return pd.DataFrame(rows, columns=list(columns))


def axis_heading(comparison: Comparison, axis: str) -> str:
    """``energy (J)``, ``channel uses``: an axis' name with the unit of its label."""
    _, bracket, unit = comparison.labels[axis].rpartition(" (")
    return axis.replace("_", " ") + bracket + (unit if bracket else "")


def target_heading(comparison: Comparison) -> str:
    """``energy (J) to 0.88``."""
    value = comparison.target[1] if comparison.target else math.nan
    return f"{axis_heading(comparison, comparison.x)} to {value:g}"


def area_heading(comparison: Comparison) -> str:
    """``mean test accuracy over energy per device (J) from 0 to 116``: what the area is."""
    text = f"mean {comparison.labels[comparison.y]} over {comparison.labels[comparison.x]}"
    return text + (" from {:.4g} to {:.4g}".format(*comparison.shared) if comparison.shared else "")


def table_notes(comparison: Comparison, columns: Collection[str]) -> list[str]:
    """What the headings and half widths mean, of the columns that are shown."""
    notes = []
    if comparison.target and target_heading(comparison) in columns:
        key, value = comparison.target
        cost = comparison.labels[comparison.x]
        notes.append(f"to {value:g}: {cost} until {label(key)} was first {value:g} or better")
    if "area" in columns:
        notes.append(f"area: {area_heading(comparison)}")
    if any(series.final.half_width is not None for series in comparison.series):
        notes.append("±: 95 % confidence of the mean over seeds")
    return notes


def target_words(series: Series) -> str:
    """``200 ± 13``, with ``(3 of 5)`` behind it if not all seeds reached the target; ``not reached (best 0.871)``."""
    target = series.target
    if target is None:
        return UNKNOWN
    if not target.reached:
        return NOT_REACHED + (f" (best {target.best:.3g})" if math.isfinite(target.best) else "")
    some = f" ({target.reached} of {target.seeds})" if target.reached < target.seeds else ""
    return (str(target.cost) if target.cost else "reached, cost not recorded") + some


def budget_words(series: Series) -> str:
    """``equal``, or ``unequal budget: energy +31 %``."""
    return UNEQUAL + ", ".join(series.unequal) if series.unequal else EQUAL


def _which(comparison: Comparison) -> dict[str, Callable[[Series], str]]:
    """The columns that say which series a row is."""
    keys = list(comparison.series[0].settings)
    swept = bool(keys) and all(list(series.settings) == keys for series in comparison.series)
    if not swept or len(comparison.sources) > 1:
        return {"name": lambda series: series.name}
    columns: dict[str, Callable[[Series], str]] = {key: partial(_setting, key) for key in keys}
    if len({series.variant for series in comparison.series}) > 1:
        columns["variant"] = lambda series: series.variant
    return columns


def _setting(key: str, series: Series) -> str:
    return brief(series.settings[key])


def _cost_words(axis: str, series: Series) -> str:
    return _words(series.costs.get(axis))


def _words(found: Estimate | None) -> str:
    return UNKNOWN if found is None else str(found)
