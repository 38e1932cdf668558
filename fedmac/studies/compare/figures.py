"""Plots of a comparison on the page: curves over each cost, the Pareto front, the swept grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.figures import MARKED_POINTS, PALETTE, base_figure, plain, style
from fedmac.report.value_axis import make_logarithmic
from fedmac.studies.compare.curves import Curve
from fedmac.studies.compare.drawn_curves import Axes, axes_for, final_axes
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.selection import (
    UNEQUAL,
    Swept,
    as_numbers,
    best_and_baseline,
    groups,
    marked,
    swept,
    value_text,
    wide,
)
from fedmac.studies.compare.words import called

Edges = tuple[NDArray[np.float64], NDArray[np.float64]]

GREY = "#808080"  # seen on white and on black


def axis_views(comparison: Comparison) -> dict[str, go.Figure]:
    """Curves of y over every axis, a view for each; of more than 12 series the best 10 and the baseline."""
    shown = best_and_baseline(comparison)
    return {called(comparison, axis): curve_figure(comparison, shown, axis) for axis in comparison.axes}


def group_views(comparison: Comparison) -> dict[str, go.Figure]:
    """Curves of y over x, a view for each cell of a sweep (or each value of its first key if it has one variant)."""
    return {name: curve_figure(comparison, members, comparison.x) for name, members in groups(comparison).items()}


def curve_figure(comparison: Comparison, series: Sequence[Series], axis: str) -> go.Figure:
    """Draw the series that have the axis: mean over seeds and 95 % band, and the target if it is one of y."""
    figure = base_figure(called(comparison, axis))
    figure.update_yaxes(title_text=called(comparison, comparison.y))
    axes = axes_for(comparison, series, axis)
    if axes.log_x:
        figure.update_xaxes(type="log")
    if axes.limits is not None:
        make_logarithmic(figure, axes.limits)
    for number, one in enumerate(series):
        curve = axes.curve(one)
        if curve is not None:
            _add_curve(figure, plain(marked(one)), curve, axes.band(curve), style(number))
    if figure.data and axes.target is not None:
        _add_target(figure, axes.target, axes)
    return figure


def _add_target(figure: go.Figure, value: float, axes: Axes) -> None:
    figure.add_hline(
        value,
        line={"color": GREY, "width": 1.5, "dash": "dot"},
        annotation={"text": f"target {value:g}", "font": {"size": 11}},
        annotation_position="bottom right",
    )
    if axes.limits is not None:  # on a log axis plotly places a line by its value, but a text by its logarithm
        figure.update_annotations(y=math.log10(value))


def pareto_figure(comparison: Comparison) -> go.Figure:
    """Draw the series over two columns, those that none beats joined by a line; a third column is the colour."""
    front = comparison.pareto
    if front is None:
        return base_figure("")
    first, second = front.columns[:2]
    figure = base_figure(called(comparison, first))
    figure.update_yaxes(title_text=called(comparison, second))
    on = front.points[front.points["on_front"]].sort_values([first, second])
    off = front.points[~front.points["on_front"]]
    third: dict[str, Any] = {}
    if len(front.columns) == 3:
        figure.update_layout(coloraxis=_scale(called(comparison, front.columns[2])))
        third = {"coloraxis": "coloraxis"}
    for rows, name, look in (
        (off, "beaten by another", {"symbol": "circle-open", "size": 9, "color": GREY}),
        (on, "on the front", {"symbol": "diamond", "size": 11, "color": PALETTE[0]}),
    ):
        if len(rows):
            marker = look
            if third:  # filled, and with a rim: the scale's dark end is lost on a dark page
                values = {"color": rows[front.columns[2]].to_numpy(), "line": {"color": GREY, "width": 1.5}}
                marker = look | values | third | {"symbol": str(look["symbol"]).removesuffix("-open")}
            line = name == "on the front" and not third
            figure.add_trace(
                go.Scatter(
                    x=rows[first].to_numpy(),
                    y=rows[second].to_numpy(),
                    mode="lines+markers" if line else "markers",
                    line={"dash": "dot", "width": 1.5, "color": PALETTE[0]},
                    marker=marker,
                    name=name,
                    showlegend=not third,  # a legend shows one colour, not a scale of them
                    text=[plain(each) for each in rows["name"]],
                    hovertemplate=f"%{{text}}<br>{plain(called(comparison, first))}: %{{x:,.6~g}}"
                    f"<br>{plain(called(comparison, second))}: %{{y:.5~g}}<extra></extra>",
                )
            )
    return figure


def grid_views(comparison: Comparison) -> dict[str, go.Figure]:
    """Final y over the grid of a sweep: a line for one key, a map for two (a view for each variant)."""
    grid = swept_grid(comparison)
    if grid is None:
        return {}
    if len(grid.keys) == 1:
        return {"final": _final_lines(comparison, grid)}
    z = [one.final.mean for one in comparison.series if math.isfinite(one.final.mean)]
    limits = (min(z), max(z)) if z else (0.0, 1.0)
    return {name: _map(comparison, grid, name, limits) for name in grid.lines}


def swept_grid(comparison: Comparison) -> Swept | None:
    """The grid of one or two keys that the series lie on, if that is what was compared."""
    grid = swept(comparison.series)
    return grid if grid is not None and len(grid.keys) in (1, 2) else None


def _add_curve(figure: go.Figure, name: str, curve: Curve, edges: Edges | None, line: Mapping[str, Any]) -> None:
    if edges is not None:
        low, high = edges
        figure.add_trace(
            go.Scatter(
                x=_drawn(np.concatenate([curve.x, curve.x[::-1]])),
                y=_drawn(np.concatenate([high, low[::-1]])),
                fill="toself",
                fillcolor=line["color"],
                opacity=0.2,
                mode="none",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
                name=f"{name}: 95 % band",
            )
        )
    spread = "" if curve.half_width is None else " ± %{customdata:.2g}"
    figure.add_trace(
        go.Scatter(
            x=_drawn(curve.x),
            y=_drawn(curve.mean),
            customdata=None if curve.half_width is None else _drawn(curve.half_width),
            name=name,
            legendgroup=name,
            mode="lines+markers" if len(curve.x) <= MARKED_POINTS else "lines",
            line=dict(line),
            hovertemplate=f"%{{y:.4g}}{spread} (seeds: {curve.seeds})<br>%{{xaxis.title.text}}: %{{x:,.6~g}}",
        )
    )


def _drawn(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Seven digits: to spare for a point's place, and half the page."""
    return values.astype(np.float32)


def _final_lines(comparison: Comparison, grid: Swept) -> go.Figure:
    ((key, values),) = grid.keys.items()
    numbers = as_numbers(values)
    places: dict[str, Any] = dict(zip(map(value_text, values), numbers or map(value_text, values), strict=True))
    figure = base_figure(plain(key))
    figure.update_yaxes(title_text=f"final {called(comparison, comparison.y)}")
    figure.update_xaxes(type="category" if numbers is None else "log" if wide(numbers) else "linear")
    axes = final_axes(comparison)
    if axes.limits is not None:
        make_logarithmic(figure, axes.limits)
    for number, (name, cells) in enumerate(grid.lines.items()):
        known = [(place, cells[(place,)]) for place in places if (place,) in cells]
        below, above = zip(*(axes.bar(one.final) for _, one in known), strict=True)
        unequal = any(one.unequal for _, one in known)
        figure.add_trace(
            go.Scatter(
                x=[places[place] for place, _ in known],
                y=[one.final.mean for _, one in known],
                error_y={"type": "data", "array": above, "arrayminus": below},
                name=plain(f"{name} {UNEQUAL}" if unequal else name),
                mode="lines+markers",
                line=style(number),
                hovertemplate=f"{plain(key)} = %{{x}}: %{{y:.4g}}",
            )
        )
    return figure


def _map(comparison: Comparison, grid: Swept, variant: str, limits: tuple[float, float]) -> go.Figure:
    first, second = grid.keys
    rows, columns = ([value_text(value) for value in values] for values in grid.keys.values())
    cells = grid.lines[variant]
    z = [[cells[r, c].final.mean if (r, c) in cells else math.nan for c in columns] for r in rows]
    figure = base_figure(plain(second))
    figure.add_trace(
        go.Heatmap(
            x=[plain(column) for column in columns],
            y=[plain(row) for row in rows],
            z=np.asarray(z, dtype=np.float64),
            zmin=limits[0],
            zmax=limits[1],
            colorscale="Cividis",
            colorbar={"title": {"text": called(comparison, comparison.y), "side": "right"}, "thickness": 14},
            texttemplate="%{z:.3g}" if len(rows) * len(columns) <= 100 else None,
            hovertemplate=f"{plain(first)} = %{{y}}<br>{plain(second)} = %{{x}}: %{{z:.4g}}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", title_text=plain(first))
    return figure


def _scale(title: str) -> dict[str, Any]:
    return {"colorscale": "Cividis", "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 14}}
