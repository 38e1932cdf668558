"""Figures of a restructured model: weights as blocks, the front of sends and accuracy, each worker's load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.figures import PALETTE, base_figure
from strategies.repurpose.accounts import Accounts
from strategies.repurpose.calibration import Calibration
from strategies.repurpose.front import Point, pareto
from strategies.repurpose.network import Step
from strategies.repurpose.plan import Plan

MOST_CELLS = 160
"""Rows and columns of a picture; larger matrices show the largest weight of each cell."""


def block_views(calibration: Calibration, plan: Plan, step: Step) -> dict[str, go.Figure]:
    """A layer's weights before, in the model's order, and after, each worker's together."""
    values = plan.ownership.of_value
    rows = plan.permutations[values[plan.network.steps.index(step) + 1]]
    units = plan.permutations[values[step.sources[0]]]
    before = _sizes(calibration.network.matrix(step).numpy())
    after = _sizes(plan.network.matrix(step).numpy())
    top = float(before.max())
    return {
        "after": _picture(after[rows][:, units], top, _ends(plan.owner_after(step)), _ends(plan.owner_before(step))),
        "before": _picture(before, top, [], []),
    }


def front_views(points: Sequence[Point], picked: Point, accuracy: float) -> dict[str, go.Figure]:
    """Accuracy of all points over sends, and over latency; the Pareto front as a line, the pick in a ring."""
    sends, latencies = [p.accounts.sends for p in points], [1e3 * p.latency for p in points]
    return {
        "sends": _front(points, picked, accuracy, sends, "activations sent for one input"),
        "latency": _front(points, picked, accuracy, latencies, "latency, estimate (ms)"),
    }


def load_figure(accounts: Accounts) -> go.Figure:
    """Multiply-adds of each worker, layer on layer."""
    figure = _figure("worker", "multiply-adds for one input")
    workers = [str(q) for q in range(len(accounts.multiply_adds))]
    for number, layer in enumerate(accounts.layers):
        colour = PALETTE[number % len(PALETTE)]
        figure.add_bar(x=workers, y=layer.multiply_adds.tolist(), name=layer.name, marker_color=colour)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(type="category")
    return figure


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = base_figure(x_title)
    figure.update_yaxes(title_text=y_title)
    return figure


def _front(points: Sequence[Point], picked: Point, accuracy: float, costs: Sequence[float], label: str) -> go.Figure:
    figure, front = _figure(label, "accuracy"), pareto(points)
    told = [f"lambda {p.communication_cost:.3g}" for p in points]
    judged = [p.accuracy for p in points]
    figure.add_scatter(x=costs, y=judged, mode="markers", name="plans", text=told, marker_color=PALETTE[1])
    best = sorted((cost, p.accuracy) for p, cost in zip(points, costs, strict=True) if p in front)
    x, y = [cost for cost, _ in best], [value for _, value in best]
    figure.add_scatter(x=x, y=y, mode="lines+markers", name="not beaten", marker_color=PALETTE[0])
    place = points.index(picked)
    ring = {"size": 16, "symbol": "circle-open", "color": PALETTE[3], "line": {"width": 3}}
    figure.add_scatter(x=[costs[place]], y=[picked.accuracy], mode="markers", name="the pick", marker=ring)
    ends = [min(costs), max(costs)]
    figure.add_scatter(x=ends, y=[accuracy] * 2, mode="lines", name="the model", line_dash="dot")
    return figure


def _picture(sizes: NDArray[np.float64], top: float, rows: list[int], columns: list[int]) -> go.Figure:
    figure = _figure("unit of the input", "neuron or channel")
    cells = _coarse(sizes)
    grey = np.round(255 * np.sqrt(cells / max(top, 1e-300))).astype(int)
    figure.add_heatmap(z=grey.tolist(), colorscale="Viridis", showscale=False, hoverinfo="skip", zmin=0, zmax=255)
    scale = np.array(cells.shape) / np.array(sizes.shape)
    for end in rows:
        figure.add_hline(y=end * scale[0] - 0.5, line_width=1, line_color="white")
    for end in columns:
        figure.add_vline(x=end * scale[1] - 0.5, line_width=1, line_color="white")
    figure.update_yaxes(autorange="reversed", showticklabels=False)
    figure.update_xaxes(showticklabels=False)
    return figure


def _sizes(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.abs(matrix).max(axis=2))


def _coarse(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        if sizes.shape[axis] > MOST_CELLS:
            starts = np.linspace(0, sizes.shape[axis], MOST_CELLS, endpoint=False).astype(int)
            sizes = np.maximum.reduceat(sizes, starts, axis=axis)
    return sizes


def _ends(owners: NDArray[np.int64]) -> list[int]:
    """Where one worker's units end and the next one's begin; nothing where all have all."""
    if (owners < 0).any():
        return []
    return [int(end) for end in np.cumsum(np.bincount(owners))[:-1]]
