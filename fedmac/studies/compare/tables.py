"""Tables of a comparison: full figures for programs, and words for people, LaTeX and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from fedmac.record import put_in_place, write_atomically, writing
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.readable_table import (
    COSTS,
    area_heading,
    axis_heading,
    budget_words,
    readable_table,
    table_notes,
    target_heading,
    target_words,
)
from fedmac.studies.compare.statistics import Estimate

__all__ = [
    "area_heading", "budget_words", "curve_table", "full_table", "latex", "markdown", "readable_table", "table_notes",
    "target_heading", "target_words", "terminal_table", "write_tables",
]  # fmt: skip

NARROWEST = {"budget": 16, "name": 20}
"""Columns of words wrap, but not to less than this."""

_FRAME = 2  # characters between columns, and at the edges

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
        "±": r"$\pm$", "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\n": " ",
    }
)  # fmt: skip
_MARKDOWN = str.maketrans({"|": r"\|", "\n": " ", "<": "&lt;", "\\": r"\\", "`": r"\`", "*": r"\*", "_": r"\_"})


def full_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each series with every figure at full precision.

    Returns
    -------
    DataFrame
        ``name``, ``variant``, the swept keys, ``seeds`` (how many), y and its ``_low`` and ``_high`` (95 % interval),
        the same of ``target_cost`` (with ``target_reached``) and ``area``, of every axis' final cost, then
        ``budget_channel_uses``, ``budget_energy``, ``budget_examples`` and ``unequal`` (words; empty if equal).
    """
    return pd.DataFrame([_full_row(series, comparison) for series in comparison.series]).pipe(_storable)


def curve_table(comparison: Comparison) -> pd.DataFrame:
    """All curves, a row for each point: ``series``, ``axis``, ``x``, ``mean``, ``low``, ``high`` (nan for one seed)."""
    parts = [
        pd.DataFrame(
            {
                "series": series.name,
                "axis": axis,
                "x": curve.x,
                "mean": curve.mean,
                "low": curve.mean - (math.nan if curve.half_width is None else curve.half_width),
                "high": curve.mean + (math.nan if curve.half_width is None else curve.half_width),
            }
        )
        for series in comparison.series
        for axis, curve in series.curves.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def markdown(comparison: Comparison) -> str:
    """The readable table as Markdown, with a line on its headings."""
    table = readable_table(comparison)
    heading, *rows = [
        f"| {' | '.join(str(cell).translate(_MARKDOWN) for cell in row)} |"
        for row in [list(table.columns), *table.to_numpy().tolist()]
    ]
    rule = f"|{' --- |' * len(table.columns)}"
    notes = "; ".join(table_notes(comparison, table.columns)).translate(_MARKDOWN)
    return "\n".join([heading, rule, *rows, *(["", notes] if notes else []), ""])


def latex(comparison: Comparison) -> str:
    r"""The readable table as a LaTeX ``tabular`` (package: booktabs), text escaped, ± and − in math.

    What the headings mean stands above it in comments, for the caption.
    """
    table = readable_table(comparison).map(lambda cell: str(cell).translate(_LATEX))
    notes = "".join(f"% {note}\n" for note in table_notes(comparison, table.columns))
    table.columns = pd.Index([str(heading).translate(_LATEX) for heading in table.columns])
    layout = "l" + "r" * (len(table.columns) - 2) + "l"
    return notes + str(table.to_latex(index=False, escape=False, column_format=layout))


def terminal_table(comparison: Comparison, width: int = 80) -> Table:
    """The readable table for a terminal; columns that do not fit into `width` characters are left to the files."""
    table = readable_table(comparison)
    unequal = any(series.unequal for series in comparison.series)
    costs = [axis_heading(comparison, axis) for axis in COSTS if axis in comparison.axes]
    optional = [*costs[2:], "area", *costs[:2], "seeds"]
    columns = {heading: _Column(heading, list(table[heading])) for heading in map(str, table.columns)}
    for heading in ["", *([] if unequal else ["budget"]), *optional]:
        columns.pop(heading, None)
        room = width - _FRAME * (len(columns) + 1) - sum(column.least for column in columns.values())
        if room >= 0:
            break
    return _rich(columns, max(0, room), comparison)


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``table.csv``, ``.parquet``, ``.tex``, ``.md`` and ``curves.parquet``; each whole or not at all.

    Raises
    ------
    RecordError
        If one cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    full = full_table(comparison)
    texts = {"csv": full.to_csv(index=False), "tex": latex(comparison), "md": markdown(comparison)}
    for kind, text in texts.items():
        write_atomically(folder / f"table.{kind}", text)
    frames = {"table.parquet": full, "curves.parquet": curve_table(comparison)}
    for name, frame in frames.items():
        with put_in_place(folder / name) as part:
            frame.to_parquet(part, index=False)
    return [folder / name for name in (*(f"table.{kind}" for kind in texts), *frames)]


def _full_row(series: Series, comparison: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {"name": series.name, "variant": series.variant, **series.settings}
    row["seeds"] = len(series.seeds)
    row |= _interval(comparison.y, series.final)
    if series.target is not None:
        row["target_reached"] = series.target.reached
        row |= _interval("target_cost", series.target.cost)
    row |= _interval("area", series.area)
    axes = dict.fromkeys(axis for each in comparison.series for axis in each.costs)
    for axis in axes:
        row |= _interval(axis, series.costs.get(axis))
    budget = series.budget
    row |= {"budget_channel_uses": budget.channel_uses, "budget_energy": budget.energy}
    return row | {"budget_examples": budget.examples, "unequal": ", ".join(series.unequal)}


def _interval(name: str, found: Estimate | None) -> dict[str, float]:
    found = found or Estimate(math.nan, None, 0)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _storable(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns of mixed types, which Parquet does not take, as text."""
    table["budget_examples"] = table["budget_examples"].astype("Int64")
    for name in table.columns:
        if pd.api.types.is_object_dtype(table[name]):
            table[name] = [
                None if _is_nothing(value) else value if isinstance(value, str) else json.dumps(value)
                for value in table[name]
            ]
    return table


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


class _Column:
    """A column of the terminal's table: how wide it would be, and how wide it must be."""

    def __init__(self, heading: str, cells: list[str]) -> None:
        self.cells = cells
        widest = max(map(len, cells), default=0)
        self.lines = _broken(heading, widest)
        self.longest = max(widest, *map(len, self.lines))
        # "not reached (best 0.871)" may wrap at its bracket, a number and its ± may not.
        pieces = [piece for cell in cells for piece in cell.replace(" (", "\n(").split("\n")]
        unbroken = max(map(len, [*pieces, *" ".join(self.lines).split(" ")]))
        self.least = min(self.longest, NARROWEST.get(heading, unbroken))


def _rich(columns: Mapping[str, _Column], room: int, comparison: Comparison) -> Table:
    """The table with `room` characters given to the columns that want more than they need."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left")
    shown.caption = Text("; ".join(table_notes(comparison, columns)))
    words = {"name", "variant", "budget", *comparison.series[0].settings}
    widths = {}
    for heading in sorted(columns, key=lambda heading: heading in words):  # words wrap with less harm
        more = min(room, columns[heading].longest - columns[heading].least)
        widths[heading] = columns[heading].least + more
        room -= more
    for heading, column in columns.items():
        justify: Literal["left", "right"] = "left" if heading in words else "right"
        shown.add_column(Text("\n".join(column.lines)), justify=justify, width=widths[heading], overflow="fold")
    for row in zip(*(column.cells for column in columns.values()), strict=True):
        shown.add_row(*map(Text, row))
    return shown


def _broken(heading: str, room: int) -> list[str]:
    """A heading on two lines if one has no room: ``channel.snr_db`` after its dot, words in the middle."""
    if len(heading) <= room:
        return [heading]
    if " " not in heading:
        return heading.replace(".", ".\n", 1).split("\n")
    words = heading.split(" ")
    middle = (len(words) + 1) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]
