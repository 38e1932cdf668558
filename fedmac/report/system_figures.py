"""Workers and their updates: how stale these were, whether they counted, how busy the devices were."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.air_figures import add_line, first_seed
from fedmac.report.figures import base_figure, plain, style
from fedmac.report.over_seeds import finite, mean_over_seeds, thin

FATES = {"accepted": "solid", "rejected": "dash", "late": "dot"}
"""What becomes of an update, by key of the record, and how its line is drawn."""

MAX_STALENESS = 50  # drawn; updates beyond it stand in one bar
MAX_DEVICES = 100  # of a figure of devices


def staleness_table(rounds: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """How many updates of each variant had staleness 0, 1, … : all rounds and seeds together, rejected ones too."""
    tables = {}
    for name, values in rounds.groupby("variant", sort=False)["staleness"]:
        counts = [value for value in values if isinstance(value, np.ndarray) and value.any()]
        if counts:
            total = np.zeros(max(map(len, counts)))
            for one in counts:
                total[: len(one)] += one
            tables[str(name)] = total
    return tables


def staleness_figure(tables: dict[str, NDArray[np.float64]]) -> go.Figure:
    """Draw the histogram of staleness of each variant of :func:`staleness_table`, as shares of its updates."""
    figure = base_figure("staleness: how many times the model had moved since the worker got it")
    longest = max(map(len, tables.values()), default=0)
    for index, (name, counts) in enumerate(tables.items()):
        shares = counts / counts.sum()
        if longest > MAX_STALENESS + 1:
            shares = np.append(shares[:MAX_STALENESS], shares[MAX_STALENESS:].sum())
        figure.add_trace(
            go.Bar(
                x=np.arange(len(shares)),
                y=shares,
                name=plain(name),
                marker={"color": style(index)["color"]},
                hovertemplate=f"{plain(name)}: %{{y:.2%}} had staleness %{{x}}<extra></extra>",
            )
        )
    figure.update_layout(barmode="group", bargap=0.2)
    figure.update_yaxes(title_text="share of the updates", rangemode="tozero", tickformat=".0%")
    if longest > MAX_STALENESS + 1:
        ticks = [*range(0, MAX_STALENESS, 10), MAX_STALENESS]
        figure.update_xaxes(tickvals=ticks, ticktext=[*map(str, ticks[:-1]), f"{MAX_STALENESS} or more"])
    elif longest <= 20:
        figure.update_xaxes(dtick=1)
    return figure


def updates_figure(rounds: pd.DataFrame) -> go.Figure:
    """Draw how many updates were accepted, rejected and late in each round (mean over seeds).

    What never happened in a variant has no line.
    """
    figure = base_figure("round")
    figure.update_yaxes(title_text="updates", rangemode="tozero")
    trained = rounds[rounds["round"] > 0]
    for index, (name, rows) in enumerate(trained.groupby("variant", sort=False)):
        for key, dash in FATES.items():
            if finite(rows[key]).any():
                add_line(figure, str(name), key, mean_over_seeds(rows, key), {**style(index), "dash": dash})
    return figure


def utilisation_tables(rounds: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Variant name to the share of its time connected that each device computed, at the end of its first seed."""
    return {name: rows["utilisation"].iloc[-1] for name, rows in first_seed(rounds, "utilisation").items()}


def utilisation_figures(tables: dict[str, NDArray[np.float64]]) -> dict[str, go.Figure]:
    """Draw the utilisation of each device, a bar each; at most ``MAX_DEVICES`` are drawn, evenly spaced."""
    figures = {}
    for index, (name, values) in enumerate(tables.items()):
        shown = thin(len(values), MAX_DEVICES)
        figure = base_figure("device")
        figure.add_trace(
            go.Bar(
                x=[str(device) for device in shown],
                y=values[shown].astype(np.float32),
                name=plain(name),
                marker={"color": style(index)["color"]},
                hovertemplate="device %{x}: computed %{y:.1%} of its time<extra></extra>",
            )
        )
        figure.update_layout(height=300, showlegend=False, bargap=0.25)
        figure.update_xaxes(type="category", showgrid=False)
        figure.update_yaxes(title_text="utilisation", range=[0.0, 1.0], tickformat=".0%")
        figures[name] = figure
    return figures
