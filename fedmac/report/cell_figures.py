"""A cell in figures: its map, how strong its channels are, and what distance does to who is heard and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.figures import PALETTE, base_figure, plain, style
from fedmac.report.over_seeds import thin

MAX_POINTS = 150  # devices drawn of a variant over distance; the line through them counts all
STEPS = 200  # of the share of gains below a level
RINGS = 10  # of as many devices each, whose means are the line over distance
SMALLEST, LARGEST = 6.0, 12.0  # marks of devices never and always heard, pixels
SIGHT = {True: ("line of sight", "circle"), False: ("no line of sight", "diamond"), None: ("device", "circle")}
"""Whether a device saw the base station, None where the record does not say: what it is called, and its mark."""


def map_figure(table: pd.DataFrame, colours: tuple[float, float], energy_unit: str | None = None) -> go.Figure:
    """Draw where devices are: colour is the mean gain, size the share of rounds heard; hollow ones never were.

    Parameters
    ----------
    table
        Of :func:`fedmac.report.placement.placement_tables`.
    colours
        Gains in dB at the ends of the colour scale.
    energy_unit
        Such as ``J``.
    """
    figure = base_figure("x (m)")
    for sees, (name, symbol) in SIGHT.items():
        devices = table[table["line_of_sight"].eq(sees) if sees is not None else table["line_of_sight"].isna()]
        if len(devices):
            _add_devices(figure, devices, name, symbol, energy_unit)
    figure.add_trace(
        go.Scatter(
            x=[0],
            y=[0],
            name="base station",
            mode="markers",
            marker={"symbol": "star", "size": 15, "color": PALETTE[3], "line": {"width": 1, "color": "#808080"}},
            hovertemplate="base station<extra></extra>",
        )
    )
    # Equal metres both ways, whatever the width of the page.
    figure.update_xaxes(constrain="domain")
    figure.update_yaxes(title_text="y (m)", scaleanchor="x", scaleratio=1, constrain="domain")
    # The scale of colours above: beside the map it would take a third of a phone's width.
    bar = {
        "title": {"text": "mean gain (dB)", "side": "top"},
        "orientation": "h",
        "thickness": 14,
        "lenmode": "pixels",
        "len": 240,
        "y": 1.0,
        "yanchor": "bottom",
    }
    figure.update_layout(
        height=560,
        margin={"t": 90},
        coloraxis={"colorscale": "Viridis", "cmin": colours[0], "cmax": colours[1], "colorbar": bar},
    )
    return figure


def gain_figure(
    table: pd.DataFrame, devices: NDArray[np.intp], gains: NDArray[np.float64], noise_level: float | None
) -> go.Figure:
    """Draw the share of gains (a device in a round it took part in, dB) at or below each level.

    All together, and by line of sight where `table` knows of it. A vertical line stands at `noise_level`: there a
    device at its power limit arrives as strong as the noise.
    """
    figure = base_figure("gain (dB)")
    figure.update_yaxes(title_text="share of gains at or below", range=[0, 1.02])
    sees = table["line_of_sight"].to_numpy()[devices]
    groups = {"all devices": np.ones(len(gains), dtype=np.bool_)}
    if len(np.unique(sees[~np.isnan(sees)])) > 1:
        groups |= {name: sees == value for value, (name, _) in SIGHT.items() if value is not None}
    for index, (name, chosen) in enumerate(groups.items()):
        if not chosen.any():
            continue
        levels = np.linspace(0.0, 1.0, min(STEPS, int(chosen.sum())) + 1)
        figure.add_trace(
            go.Scatter(
                x=np.quantile(gains[chosen], levels).astype(np.float32),
                y=levels.astype(np.float32),
                name=name,
                mode="lines",
                line=style(index),
                hovertemplate="%{y:.1%} at or below %{x:.1f} dB",
            )
        )
    if noise_level is not None and len(figure.data):
        figure.add_vline(
            x=noise_level,
            line={"dash": "dash", "width": 1.5, "color": "#808080"},
            annotation={"text": "as strong as noise", "font": {"size": 12}, "yref": "paper", "y": 1.0},
            annotation_position="top",
        )
    return figure


def distance_figure(
    tables: dict[str, pd.DataFrame], column: str, title: str, hover: str, *, logarithmic: bool = False
) -> go.Figure:
    """Draw a column of the tables over the distance from the base station: a point a device, and the mean by ring.

    A ring holds a tenth of the devices. A log axis leaves out what is zero.
    """
    figure = base_figure("distance from the base station (m)")
    figure.update_yaxes(title_text=title, rangemode="tozero")
    if logarithmic:
        figure.update_yaxes(type="log", rangemode="normal", exponentformat="power")
    for index, (name, table) in enumerate(tables.items()):
        known = table[np.isfinite(table[column])].sort_values("distance_m", kind="stable")
        if len(known):
            _add_over_distance(figure, name, known, column, style(index), hover)
    return figure


def _add_devices(figure: go.Figure, devices: pd.DataFrame, name: str, symbol: str, energy_unit: str | None) -> None:
    heard = devices["heard"].to_numpy()
    size = SMALLEST + (LARGEST - SMALLEST) * np.nan_to_num(heard)
    details = np.column_stack([devices.index, devices[["distance_m", "mean_gain_db", "heard", "energy"]]])
    lines = ["device %{customdata[0]:.0f}", f"{name}, %{{customdata[1]:.0f}} m", "mean gain %{customdata[2]:.1f} dB"]
    if np.isfinite(heard).any():
        lines.append("heard in %{customdata[3]:.1%} of the rounds")
    if np.isfinite(devices["energy"]).any():
        lines.append(f"energy %{{customdata[4]:.3g}}{f' {plain(energy_unit)}' if energy_unit else ''}")
    figure.add_trace(
        go.Scatter(
            x=devices["x_m"].to_numpy(np.float32),
            y=devices["y_m"].to_numpy(np.float32),
            customdata=details.astype(np.float32),
            name=name,
            legendgroup=name,
            showlegend=False,
            mode="markers",
            marker={
                "opacity": 1.0,  # where sizes differ plotly would make it less
                "symbol": [symbol if share != 0 else f"{symbol}-open" for share in heard],
                "size": size.astype(np.float32),
                "color": devices["mean_gain_db"].to_numpy(np.float32),
                "coloraxis": "coloraxis",
                "line": {"width": 1, "color": "#808080"},
            },
            hovertemplate="<br>".join(lines) + "<extra></extra>",
        )
    )
    # The legend has no colour for a trace of many, and shows this one in its place.
    mark = {"symbol": symbol, "size": 10, "color": "#808080"}
    figure.add_trace(
        go.Scatter(x=[None], y=[None], name=name, legendgroup=name, mode="markers", marker=mark, hoverinfo="skip")
    )


def _add_over_distance(
    figure: go.Figure, name: str, known: pd.DataFrame, column: str, line: dict[str, Any], hover: str
) -> None:
    shared = {"legendgroup": name, "name": plain(name)}
    shown = known.iloc[thin(len(known), MAX_POINTS)]
    figure.add_trace(
        go.Scatter(
            x=shown["distance_m"].to_numpy(np.float32),
            y=shown[column].to_numpy(np.float32),
            text=[str(device) for device in shown.index],
            mode="markers",
            marker={"color": line["color"], "size": 5, "opacity": 0.5},
            showlegend=False,
            hovertemplate=f"device %{{text}}, %{{x:.0f}} m: {hover}",
            **shared,
        )
    )
    ring = np.arange(len(known)) * min(RINGS, len(known)) // len(known)
    means = known[["distance_m", column]].groupby(ring).mean()
    figure.add_trace(
        go.Scatter(
            x=means["distance_m"].to_numpy(np.float32),
            y=means[column].to_numpy(np.float32),
            mode="lines",
            line=line,
            hovertemplate=f"mean around %{{x:.0f}} m: {hover}",
            **shared,
        )
    )
