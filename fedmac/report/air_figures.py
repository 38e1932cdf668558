"""What happened on the air: error of the received mean, transmit power, channel gains, devices not heard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.figures import MARKED_POINTS, MAX_POINTS, base_figure, plain, style
from fedmac.report.over_seeds import mean_over_seeds, thin

MAX_MAP_ROUNDS = 150  # columns of a heat map
MAX_MAP_DEVICES = 100  # rows of a heat map
MAX_CELLS = 60_000  # of the heat maps of all variants together: 320 kB of the page

UNHEARD = {"silent": ("silent", "solid"), "failures": ("failed", "dot"), "not_asked": ("not asked", "dash")}
"""Devices that were not heard, by key of the record: what they are called, and how their line is drawn."""


def error_figure(rounds: pd.DataFrame) -> go.Figure:
    """Draw the squared error of the received mean update per round, measured and predicted, on a log axis.

    ``mse_measured`` is ``||received - true mean||^2`` in the squared unit of the update; ``mse_predicted`` is
    its expectation by theory. Means over seeds; a round without a positive value (a link without error) has
    no point.
    """
    figure = base_figure("round")
    figure.update_yaxes(type="log", title_text="squared error", exponentformat="power", minor={"ticks": "outside"})
    for index, (name, rows) in enumerate(rounds.groupby("variant", sort=False)):
        for value, label, dash in (("mse_measured", "measured", "solid"), ("mse_predicted", "theory", "dot")):
            curve = mean_over_seeds(rows, value)
            curve = curve[curve["mean"] > 0]
            if len(curve):
                add_line(figure, str(name), label, curve, {**style(index), "dash": dash})
    return figure


def silence_figure(rounds: pd.DataFrame) -> go.Figure:
    """Draw how many devices were silent, how many failed, and how many were not asked in each round (mean over seeds).

    Those whose packets did not arrive are silent; that the record also says why makes no failures of them. What never
    happened in a variant has no line.
    """
    figure = base_figure("round")
    figure.update_yaxes(title_text="devices", rangemode="tozero")
    pairs = list(zip(rounds["silent"], rounds["failures"], strict=True))
    counts = rounds.assign(
        silent=[_length(silent) for silent, _ in pairs],
        failures=[_failed(*pair) for pair in pairs],
        not_asked=[_length(not_asked) for not_asked in rounds["not_asked"]],
    )
    counts["trained"] = rounds["round"] > 0
    for index, (name, rows) in enumerate(counts.groupby("variant", sort=False)):
        for value, (label, dash) in UNHEARD.items():
            if rows[value].any():
                curve = mean_over_seeds(rows[rows["trained"]], value)
                add_line(figure, str(name), label, curve, {**style(index), "dash": dash})
    return figure


def power_figures(rounds: pd.DataFrame) -> dict[str, go.Figure]:
    """Draw, per variant, each device's transmit power as a share of its limit, ``b_k^2 / P_k``, over rounds.

    Returns
    -------
    dict
        Variant name to heat map (rounds across, devices down; first seed), for the variants that recorded
        ``amplitudes`` and a positive ``power_limit``.
    """
    figures = {}
    chosen = first_seed(rounds, "amplitudes")
    for name, rows in chosen.items():
        pairs = zip(rows["amplitudes"], rows["power_limit"], strict=True)
        values = [_power_share(amplitudes, limit) for amplitudes, limit in pairs]
        figure = _heat_map(rows, values, "power / limit", "%{z:.3f} of the limit", len(chosen))
        if figure is not None:
            top = max(1.0, float(np.nanmax(figure.data[0].z)))
            figure.update_traces(zmin=0.0, zmax=top)
            figures[name] = figure
    return figures


def gain_figures(rounds: pd.DataFrame) -> dict[str, go.Figure]:
    """Draw, per variant, each device's gain ``20 log10 |h_k|`` (dB) as :func:`power_figures` does power."""
    figures = {}
    chosen = first_seed(rounds, "gains")
    for name, rows in chosen.items():
        with np.errstate(divide="ignore"):
            values = [20.0 * np.log10(np.abs(gains)) for gains in rows["gains"]]
        figure = _heat_map(rows, values, "gain (dB)", "%{z:.1f} dB", len(chosen))
        if figure is not None:
            figures[name] = figure
    return figures


def unheard_reasons(rounds: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Count why devices failed, or were not asked, by variant and reason, most frequent first.

    Reasons that differ in numbers alone (bits of a packet) count as one, with an ellipsis for the numbers.
    """
    exact: dict[tuple[str, str], set[str]] = {}
    reasons: Counter[tuple[str, str]] = Counter()
    for key in ("failures", "not_asked"):
        for name, devices in zip(rounds["variant"], rounds[key], strict=True):
            for device in devices if isinstance(devices, list) else ():
                reason = device.get("reason") if isinstance(device, Mapping) else device
                alike = str(name), re.sub(r"\b\d+\b", "…", str(reason))
                exact.setdefault(alike, set()).add(str(reason))
                reasons[alike] += 1
    words = {alike: next(iter(those)) if len(those) == 1 else alike[1] for alike, those in exact.items()}
    return [(alike[0], words[alike], times) for alike, times in reasons.most_common()]


def add_line(figure: go.Figure, name: str, label: str, curve: pd.DataFrame, line: dict[str, Any]) -> None:
    """Add one of a variant's lines; the legend shows the variant once, and a click on it hides them all."""
    curve = curve.iloc[thin(len(curve), MAX_POINTS)]
    listed = any(trace.legendgroup == name for trace in figure.data)
    figure.add_trace(
        go.Scatter(
            x=curve["round"].to_numpy(),
            y=curve["mean"].to_numpy(),
            name=plain(name),
            mode="lines+markers" if len(curve) <= MARKED_POINTS else "lines",
            line=line,
            legendgroup=name,
            showlegend=not listed,
            hovertemplate=f"{label}, round %{{x}}: %{{y:.4g}}",
        )
    )


def first_seed(rounds: pd.DataFrame, key: str) -> dict[str, pd.DataFrame]:
    """Return, per variant, the rounds of its first seed that carry per-device values under `key`."""
    known = [isinstance(value, np.ndarray) and value.size > 0 for value in rounds[key]]
    carrying = rounds[np.array(known, dtype=bool)]  # a bare empty list would choose no columns
    return {
        str(name): rows[rows["seed"] == rows["seed"].iloc[0]].sort_values("round")
        for name, rows in carrying.groupby("variant", sort=False)
    }


def _power_share(amplitudes: NDArray[np.float64], limit: object) -> NDArray[np.float64]:
    limits = np.asarray(np.nan if limit is None else limit, dtype=np.float64)
    if limits.shape not in ((), amplitudes.shape):
        raise ValueError(f"power_limit: got shape {limits.shape}, expected one value or {amplitudes.shape}")
    # A limit of zero or infinity has no share to show.
    return amplitudes**2 / np.where((limits > 0) & np.isfinite(limits), limits, np.nan)


def _heat_map(
    rows: pd.DataFrame, values: list[NDArray[np.float64]], title: str, hover: str, maps: int
) -> go.Figure | None:
    """Draw a value per device (down) and round (across); None if no value is finite."""
    ids = [device_ids(known, value) for known, value in zip(rows["devices"], values, strict=True)]
    devices = np.unique(np.concatenate(ids))
    devices = devices[thin(len(devices), MAX_MAP_DEVICES)]
    shown = thin(len(rows), min(MAX_MAP_ROUNDS, max(20, MAX_CELLS // (maps * len(devices)))))
    # float32 has digits to spare for a colour and halves the page.
    z = np.full((len(devices), len(shown)), np.nan, dtype=np.float32)
    for column, index in enumerate(shown):
        present = np.isin(ids[index], devices)
        z[np.searchsorted(devices, ids[index][present]), column] = values[index][present]
    z[~np.isfinite(z)] = np.nan
    if np.isnan(z).all():
        return None
    figure = base_figure("round")
    figure.add_trace(
        go.Heatmap(
            x=rows["round"].to_numpy()[shown],
            y=[f"{device:g}" for device in devices],
            z=z,
            colorscale="Cividis",
            colorbar={"title": {"text": title, "side": "right"}, "thickness": 14},
            hovertemplate=f"round %{{x}}, device %{{y}}: {hover}<extra></extra>",
        )
    )
    figure.update_yaxes(title_text="device", type="category")
    if len(shown) <= 10:  # else the axis would mark halves of rounds
        figure.update_xaxes(tickvals=rows["round"].to_numpy()[shown])
    return figure


def device_ids(ids: object, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the devices that `values` belong to; without a list of them, they are counted from zero."""
    if not isinstance(ids, np.ndarray):
        return np.arange(values.size, dtype=np.float64)
    if ids.shape != values.shape:
        raise ValueError(f"devices: got {ids.size} ids for {values.size} values, expected one id a value")
    return ids


def _failed(silent: object, failures: object) -> float:
    """How many devices failed, less those that are silent."""
    known = set(silent) if isinstance(silent, (list, tuple)) else set()
    listed = failures if isinstance(failures, (list, tuple)) else ()
    return float(sum(not (isinstance(f, Mapping) and f.get("device") in known) for f in listed))


def _length(value: object) -> float:
    return float(len(value)) if isinstance(value, (list, tuple)) else 0.0
