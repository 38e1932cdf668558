"""What each device got out of the air: rounds heard, mean gain, energy spent, weight in the mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.air_figures import device_ids, first_seed
from fedmac.report.figures import base_figure, style
from fedmac.report.over_seeds import thin

MAX_DEVICES = 100  # drawn; the table under the figure counts all
PANEL_HEIGHT = 130  # pixels


@dataclass(frozen=True)
class Panel:
    """A quantity of the figure: column of the table, heading, how a value reads, and its mark."""

    column: str
    heading: str
    hover: str
    bar: bool = True


PANELS = (
    Panel("heard", "share of the rounds in which it was heard", "heard in %{y:.1%} of the rounds"),
    Panel("gain_db", "mean power gain (dB)", "mean gain %{y:.1f} dB", bar=False),
    Panel("energy", "energy spent", "energy %{y:.4g}"),
    Panel("weight", "share of the data (mean weight when it sent)", "weight %{y:.3g}"),
)


def device_tables(rounds: pd.DataFrame, totals: dict[str, int]) -> dict[str, pd.DataFrame]:
    r"""Sum up each device of each variant over the rounds of its first seed.

    Parameters
    ----------
    rounds
        As :class:`fedmac.report.folder.Record` has them.
    totals
        Variant name to number of devices, so that devices never heard of count; may be left out for a variant.

    Returns
    -------
    dict
        Variant name to a table with a row per device (index: its number) and the columns ``heard`` (share of
        the rounds), ``gain_db`` (:math:`10 \log_{10}` of the mean of :math:`|h_k|^2`), ``energy`` (sum) and
        ``weight`` (mean over the rounds it sent in); NaN where the record does not have it.
    """
    tables = {}
    for name, rows in first_seed(rounds, "devices").items():
        highest = max(int(ids.max()) for ids in rows["devices"]) + 1
        # A round in which nobody sent has no list, but it is a round in which nobody was heard.
        of_variant = rounds[(rounds["variant"] == name) & (rounds["seed"] == rows["seed"].iloc[0])]
        trained = int((of_variant["round"] > 0).sum())
        tables[name] = _table(rows, trained, max(highest, totals.get(name, 0)))
    return tables


def device_figures(tables: dict[str, pd.DataFrame], energy_unit: str | None = None) -> dict[str, go.Figure]:
    """Draw, per variant, the panels that its table fills over the same devices, sorted by gain.

    Without gains they are sorted by the share heard. At most ``MAX_DEVICES`` are drawn, evenly spaced.
    """
    return {name: _figure(table, index, energy_unit) for index, (name, table) in enumerate(tables.items())}


def _table(rows: pd.DataFrame, trained: int, devices: int) -> pd.DataFrame:
    heard, sent = np.zeros(devices), np.zeros(devices)
    sums = {key: np.zeros(devices) for key in ("gains", "energies", "weights")}
    known = dict.fromkeys(sums, False)
    for row in rows.itertuples():
        ids = np.asarray(row.devices, dtype=np.intp)
        sent[ids] += 1
        silent: list[int] = row.silent if isinstance(row.silent, list) else []
        # Older records do not say whether anything was heard: only a zero says no.
        if row.heard != 0:
            heard[np.setdiff1d(ids, np.asarray(silent, dtype=np.intp))] += 1
        for key, total in sums.items():
            values = getattr(row, key)
            if isinstance(values, np.ndarray) and values.size:
                device_ids(row.devices, values)  # as many values as devices, or an error that says so
                known[key] = True
                total[ids] += np.square(values) if key == "gains" else values
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "heard": heard / max(trained, 1),
            "gain_db": _known(10.0 * np.log10(sums["gains"] / sent), known["gains"]),
            "energy": _known(sums["energies"], known["energies"]),
            "weight": _known(sums["weights"] / sent, known["weights"]),
        }
    return pd.DataFrame(columns)


def _known(values: NDArray[np.float64], known: bool) -> NDArray[np.float64]:
    return values if known else np.full(len(values), np.nan)


def _figure(table: pd.DataFrame, index: int, energy_unit: str | None) -> go.Figure:
    # Where the channel is the same for all there is no gain to show, and order must not hang on rounding.
    table = table.assign(key=table["gain_db"].fillna(-np.inf).round(6) if table["gain_db"].notna().any() else 0.0)
    table = table.sort_values(["key", "heard"], ascending=False, kind="stable")
    table = table.iloc[thin(len(table), MAX_DEVICES)]
    fading = table["key"].nunique() > 1
    panels = [panel for panel in PANELS if np.isfinite(table[panel.column]).any() and (panel.bar or fading)]
    figure = base_figure("device, best channel first" if fading else "device")
    for place, panel in enumerate(panels, start=1):
        _add_panel(figure, panel, table, place, style(index)["color"])
        _place_axis(figure, panel, place, len(panels), energy_unit)
    figure.update_layout(height=110 + PANEL_HEIGHT * len(panels), showlegend=False, bargap=0.25)
    figure.update_xaxes(
        type="category", title_standoff=6, anchor="y" if len(panels) == 1 else f"y{len(panels)}", showgrid=False
    )
    return figure


def _add_panel(figure: go.Figure, panel: Panel, table: pd.DataFrame, place: int, color: str) -> None:
    shared = {
        "x": [str(device) for device in table.index],
        "y": table[panel.column].replace([np.inf, -np.inf], np.nan).to_numpy(np.float32),
        "yaxis": "y" if place == 1 else f"y{place}",
        "name": panel.column,
        "hovertemplate": f"device %{{x}}: {panel.hover}<extra></extra>",
    }
    if panel.bar:
        figure.add_trace(go.Bar(marker={"color": color}, **shared))
    else:
        figure.add_trace(go.Scatter(mode="markers", marker={"color": color, "size": 6}, **shared))


def _place_axis(figure: go.Figure, panel: Panel, place: int, panels: int, energy_unit: str | None) -> None:
    """Stack the panels from the top, each with its heading above it: a title beside it would not fit."""
    unit = f" ({energy_unit})" if energy_unit and panel.column == "energy" else ""
    top, room = 1 - (place - 1) / panels, 0.72 / panels
    axis = {"domain": [top - room - 0.06 / panels, top - 0.06 / panels], "automargin": True, "nticks": 4}
    axis["rangemode"] = "tozero" if panel.bar else "normal"
    if panel.column == "heard":
        axis["range"] = [0, 1.02]
    figure.update_layout({"yaxis" if place == 1 else f"yaxis{place}": axis})
    figure.add_annotation(
        text=f"{panel.heading}{unit}",
        x=0,
        y=top - 0.06 / panels,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 12},
    )
