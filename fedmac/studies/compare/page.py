"""The page of a comparison: who leads, what it cost, which differences can be claimed, and what was run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fedmac.report.page import document, figure_section
from fedmac.report.value_axis import log_note
from fedmac.studies.compare.figures import (
    axis_views,
    grid_views,
    group_views,
    pareto_figure,
    swept_grid,
)
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.page_table import series_table
from fedmac.studies.compare.rows import cost_figure, difference_figure
from fedmac.studies.compare.selection import MAX_BEST, MAX_LINES, best_and_baseline
from fedmac.studies.compare.words import called, facts, verdict

MAX_SENTENCES = 12  # on differences; more are folded away
MAX_ROWS = 60  # of a plot that lists series


def comparison_page(comparison: Comparison) -> str:
    """The comparison as one HTML document that needs no other file and makes no request.

    Parameters
    ----------
    comparison : Comparison
        What :func:`~fedmac.studies.compare.comparison.compare` returned.

    Returns
    -------
    str
        HTML.
    """
    sections = [_verdict(comparison), *_curves(comparison), _grid(comparison), _cost(comparison)]
    sections += [_differences(comparison), _pareto(comparison), _setting(comparison)]
    names = ", ".join(source.name for source in comparison.sources)
    return document(f"Comparison of {names}", facts(comparison), comparison.notices, sections)


def _verdict(comparison: Comparison) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(comparison))
    return f"<section><h2>Verdict</h2>{sentences}{series_table(comparison)}</section>"


def _curves(comparison: Comparison) -> Iterator[str]:
    y = called(comparison, comparison.y)
    shown = best_and_baseline(comparison)
    some = (
        f" {len(shown)} of {len(comparison.series)} series are drawn, the best by their last value"
        f"{' and the baseline' if len(shown) > MAX_BEST else ''}; the table has all."
        if len(shown) < len(comparison.series)
        else ""
    )
    views = axis_views(comparison)
    yield figure_section(
        "curves",
        f"{_capital(y)} over its cost",
        f"Mean over seeds with its 95 % confidence band (Student's t).{some} Choose the axis: a fair comparison is one"
        f" at equal cost, not at equal rounds.{log_note(views.values())}",
        views,
        summary=_finals(shown),
    )
    if len(comparison.series) > MAX_LINES:
        yield figure_section(
            "groups",
            f"{_capital(y)}, a part of the sweep at a time",
            f"The same curves over {called(comparison, comparison.x)}, those that belong together in one view.",
            group_views(comparison),
        )


def _grid(comparison: Comparison) -> str:
    grid = swept_grid(comparison)
    if grid is None:
        return ""
    keys = " and ".join(grid.keys)
    reading = (
        "Bars: 95 % confidence interval over seeds."
        if len(grid.keys) == 1
        else "Bright is high; the scale is the same in all views."
    )
    views = grid_views(comparison)
    return figure_section(
        "grid",
        f"Final {called(comparison, comparison.y)} over {keys}",
        f"Mean over seeds after the last round, for each value swept. {reading}{log_note(views.values())}",
        views,
    )


def _cost(comparison: Comparison) -> str:
    if comparison.target is None:
        return ""
    key, value = comparison.target
    heading = f"Cost to reach {called(comparison, key)} {value:g}"
    reached = [one for one in comparison.series if one.target is not None and one.target.reached]
    if not reached:
        return f"<section><h2>{escape(heading)}</h2><p>No series reached the target under any seed.</p></section>"
    if len(comparison.series) > MAX_ROWS:
        return f"<section><h2>{escape(heading)}</h2><p>Too many series to draw; the table above has it.</p></section>"
    return figure_section(
        "cost",
        heading,
        f"What was spent ({called(comparison, comparison.x)}) when it was first recorded at the target: mean over the"
        " seeds that reached it, bars: 95 % confidence interval. Left is better.",
        {"cost": cost_figure(comparison)},
        summary="; ".join(f"{one.name} {one.target.cost!s}" for one in reached if one.target and one.target.cost),
    )


def _differences(comparison: Comparison) -> str:
    if not comparison.pairs:
        return ""
    items = [f"<li>{escape(pair.sentence)}</li>" for pair in comparison.pairs]
    below = f"<ul>{''.join(items[:MAX_SENTENCES])}</ul>"
    if len(items) > MAX_SENTENCES:
        below += (
            f"<details><summary>{len(items) - MAX_SENTENCES} more differences</summary>"
            f"<ul>{''.join(items[MAX_SENTENCES:])}</ul></details>"
        )
    heading = "Differences from the baseline"
    section = ""
    if len(comparison.pairs) <= MAX_ROWS:
        section = figure_section(
            "differences",
            heading,
            "Mean over seeds of the difference under the same seed, bars: 95 % confidence interval. A bar that crosses"
            " the line at zero leaves open which is better. The claims below count how many were made (Holm).",
            {"differences": difference_figure(comparison)},
            below=below,
        )
    return section or f"<section><h2>{heading}</h2>{below}</section>"


def _pareto(comparison: Comparison) -> str:
    front = comparison.pareto
    if front is None:
        return ""
    good = ", ".join(
        f"{called(comparison, column)} {best}" for column, best in zip(front.columns, front.best, strict=True)
    )
    names = "; ".join(front.points.loc[front.points["on_front"], "name"])
    third = f" Colour: {called(comparison, front.columns[2])}." if len(front.columns) == 3 else ""
    return figure_section(
        "pareto",
        "Pareto front",
        f"A series is on the front if no other is at least as good in every column and better in one; good is: {good}."
        f" On it (diamonds; circles are beaten): {names}.{third}",
        {"front": pareto_figure(comparison)},
        summary=f"On the front: {names}",
    )


def _setting(comparison: Comparison) -> str:
    parts = []
    for source in comparison.sources:
        name = escape(source.name)
        parts.append(f"<details><summary>Scenario of {name}</summary><pre>{escape(source.scenario)}</pre></details>")
        if source.environment:
            rows = "".join(
                f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
                for key, value in _flat(source.environment)
            )
            parts.append(
                f"<details><summary>Versions and machine of {name}</summary>"
                '<div class="scroll" tabindex="0" role="region" aria-label="Versions">'
                f"<table><tbody>{rows}</tbody></table></div></details>"
            )
    return f"<section><h2>What was run</h2>{''.join(parts)}</section>"


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item)


def _finals(series: Sequence[Series]) -> str:
    known = [one for one in series if math.isfinite(one.final.mean)]
    return "Last values: " + ", ".join(f"{one.name} {one.final.mean:.4g}" for one in known)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
