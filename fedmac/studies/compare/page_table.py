"""The table of a comparison on its page: a row for each series."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.readable_table import area_heading, budget_words, target_heading, target_words
from fedmac.studies.compare.words import called, figure_words

ABSENT = "\N{EN DASH}"


class Column(NamedTuple):
    """A column: its heading, a sentence on it, and a series' cell."""

    heading: str
    note: str
    cell: Callable[[Series], str]


def series_table(comparison: Comparison) -> str:
    """The table with a note on each column, as HTML; a row whose budget is unequal says so under its name."""
    columns = [*_figures(comparison), *_costs(comparison)]
    heads = "".join(f'<th scope="col">{escape(column.heading)}</th>' for column in columns)
    body = "".join(_row(one, columns) for one in comparison.series)
    notes = "".join(f"<div><dt>{escape(c.heading)}</dt><dd>{escape(c.note)}</dd></div>" for c in columns if c.note)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdict table"><table class="verdict">'
        f'<thead><tr><th scope="col">series</th>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><dl class="notes">{notes}</dl>'
    )


def _figures(comparison: Comparison) -> list[Column]:
    y = called(comparison, comparison.y)
    columns = [
        Column("seeds", "", lambda one: str(len(one.seeds))),
        Column(
            f"final {y}",
            "After the last round: mean over seeds ± half its 95 % confidence interval (Student's t).",
            lambda one: figure_words(comparison.y, one.final),
        ),
    ]
    if comparison.target is not None:
        columns.append(
            Column(
                target_heading(comparison),
                "Spent when the target was first recorded, over the seeds that reached it.",
                target_words,
            )
        )
    if any(one.area is not None for one in comparison.series):
        note = (
            f"The {area_heading(comparison)}: area under the curve divided by its length, where all series have values."
        )
        columns.append(
            Column("mean height", note, lambda one: figure_words(comparison.y, one.area) if one.area else ABSENT)
        )
    return columns


def _costs(comparison: Comparison) -> list[Column]:
    return [
        Column(called(comparison, axis), "", lambda one, axis=axis: _cost(one, axis))  # type: ignore[misc]
        for axis in comparison.axes
        if any(axis in one.costs for one in comparison.series)
    ]


def _cost(one: Series, axis: str) -> str:
    return str(one.costs[axis]) if axis in one.costs else ABSENT


def _row(one: Series, columns: list[Column]) -> str:
    unequal = f"<br><small>{escape(budget_words(one))}</small>" if one.unequal else ""
    baseline = "<br><small>baseline</small>" if one.is_baseline else ""
    cells = "".join(f"<td>{escape(column.cell(one))}</td>" for column in columns)
    return f'<tr><th scope="row" style="min-width: 9rem">{escape(one.name)}{unequal}{baseline}</th>{cells}</tr>'
