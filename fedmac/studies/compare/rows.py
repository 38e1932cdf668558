"""Plots of a comparison that have a row for each series: what the target cost, and paired differences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import plotly.graph_objects as go

from fedmac.report.figures import base_figure, plain, style
from fedmac.studies.compare.drawn_curves import LOG_FROM
from fedmac.studies.compare.figures import GREY
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.readable_table import target_words
from fedmac.studies.compare.selection import marked
from fedmac.studies.compare.statistics import Estimate
from fedmac.studies.compare.words import called

ROW_HEIGHT = 44  # of a series, pixels: a name, and under it the dot
LINE_HEIGHT = 16  # of each further line of a name, pixels
LINE_LENGTH = 46  # of a name, so that it fits on a phone


def cost_figure(comparison: Comparison) -> go.Figure:
    """Draw what each series spent on x until it reached the target; one that did not has the words for it."""
    aimed = [one for one in comparison.series if one.target is not None]
    figure = _rows(aimed, [_reach(one) for one in aimed], called(comparison, comparison.x))
    for number, one in enumerate(comparison.series):
        if one.target is not None and one.target.cost is not None:
            _add_dot(figure, one, one.target.cost, style(number)["color"], "%{x:,.6~g}")
    means = [one.target.cost.mean for one in aimed if one.target is not None and one.target.cost is not None]
    if means and min(means) > 0 and max(means) > LOG_FROM * min(means):
        figure.update_xaxes(type="log")
    else:
        figure.update_xaxes(rangemode="tozero")
    return figure


def difference_figure(comparison: Comparison) -> go.Figure:
    """Draw each paired difference from the baseline with its 95 % interval; zero is no difference."""
    numbers = {one.name: number for number, one in enumerate(comparison.series)}
    pairs = [pair for pair in comparison.pairs if math.isfinite(pair.difference.mean) and pair.name in numbers]
    series = [comparison.series[numbers[pair.name]] for pair in pairs]
    title = f"difference in {called(comparison, comparison.y)}"
    figure = _rows(series, ["" for _ in pairs], title)
    for pair, one in zip(pairs, series, strict=True):
        color = style(numbers[pair.name])["color"]
        _add_dot(figure, one, pair.difference, color, f"%{{x:+.4g}} against {plain(pair.baseline)}")
    figure.add_vline(0.0, line={"color": GREY, "width": 1.5})
    return figure


def _reach(one: Series) -> str:
    target = one.target
    if target is None or target.reached == target.seeds:
        return ""
    return f"reached by {target.reached} of {target.seeds} seeds" if target.reached else target_words(one)


def _rows(series: Sequence[Series], notes: Sequence[str], x_title: str) -> go.Figure:
    """An empty figure with a row for each series, the first on top, its name and a note over its line.

    The names stand in the plot: beside it they would leave a phone no room for the dots.
    """
    figure = base_figure(x_title)
    names = [plain(one.name) for one in series]
    words = [f"{marked(one)}: {note}" if note else marked(one) for one, note in zip(series, notes, strict=True)]
    lines = [textwrap.wrap(text, LINE_LENGTH) for text in words]
    tallest = max(map(len, lines), default=1)
    height = 110 + (ROW_HEIGHT + LINE_HEIGHT * (tallest - 1)) * len(names)
    figure.update_layout(showlegend=False, height=max(440, height))
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names[::-1],
        range=[-0.5, len(names) - 0.2],
        showticklabels=False,
    )
    for name, text in zip(names, lines, strict=True):
        figure.add_annotation(
            text="<br>".join(map(plain, text)),
            x=0.01,
            xref="x domain",
            y=name,
            yshift=6,
            xanchor="left",
            yanchor="bottom",
            align="left",
            showarrow=False,
            font={"size": 12},
        )
    return figure


def _add_dot(figure: go.Figure, one: Series, value: Estimate, color: str, hover: str) -> None:
    half = value.half_width
    figure.add_trace(
        go.Scatter(
            x=[value.mean],
            y=[plain(one.name)],
            error_x=None if half is None else {"type": "data", "array": [half], "thickness": 2, "width": 5},
            mode="markers",
            marker={"color": color, "size": 10},
            name=plain(marked(one)),
            hovertemplate=f"{hover}{'' if half is None else f' ± {half:.3g}'}",
        )
    )
