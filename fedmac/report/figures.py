"""Learning curves: accuracy and loss of each variant against rounds and against what they cost."""

from __future__ import annotations

from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

X_AXES = MappingProxyType(
    {
        "round": "round",
        "channel_uses": "channel uses",
        "energy_j_per_device_mean": "energy per device",
        "air_time_s": "air time (s)",
    }
)

SHORT_NAMES = MappingProxyType({"energy": "energy_j_per_device_mean", "air_time": "air_time_s"})

# Okabe & Ito's palette: told apart with every common colour vision. Black is left out (lost on a dark page)
# and yellow comes last (pale on a white one); from the eighth variant on the dash changes.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")

MAX_POINTS = 300  # of a curve: about one a pixel column of the plot, and keeps the page small
MARKED_POINTS = 25  # curves of up to so many points show them, so that a run of one round is seen


def accuracy_figure(rounds: pd.DataFrame, x: str = "round", *, energy_unit: str | None = None) -> go.Figure:
    """Draw test accuracy, the mean over seeds with a band of one standard deviation, for each variant.

    Parameters
    ----------
    rounds
        A row per variant, seed and round with the columns ``variant``, ``seed``, ``round``, ``test_accuracy``
        and `x`; costs are cumulative over rounds.
    x
        What to draw against: ``round``, ``channel_uses``, ``energy_j_per_device_mean`` (or ``energy``) or
        ``air_time_s`` (or ``air_time``; s).
    energy_unit
        Written behind "energy per device" on the axis, such as ``J`` or ``normalised``.

    Returns
    -------
    plotly.graph_objects.Figure
        A line per variant that has both values, and its band where it has several seeds.

    Raises
    ------
    ValueError
        `x` is none of the above, or a column is missing.
    """
    figure = _curves(rounds, "test_accuracy", x, energy_unit)
    figure.update_layout(yaxis_title_text="test accuracy")
    return figure


def loss_figure(rounds: pd.DataFrame, x: str = "round", *, energy_unit: str | None = None) -> go.Figure:
    """Draw test loss as :func:`accuracy_figure` does accuracy, on a log axis beyond a factor of 100."""
    figure = _curves(rounds, "test_loss", x, energy_unit)
    figure.update_layout(yaxis_title_text="test loss")
    losses = finite(rounds["test_loss"])
    if len(losses) and losses.min() > 0 and losses.max() > 100 * losses.min():
        figure.update_yaxes(type="log")
    return figure


def mean_over_seeds(rows: pd.DataFrame, value: str, x: str = "round") -> pd.DataFrame:
    """Average one variant's `value` and `x` over seeds, round by round.

    Returns
    -------
    DataFrame
        Columns ``round``, ``x``, ``mean``, ``std`` (of the sample, n - 1; NaN for one seed) and ``seeds``,
        for the rounds in which `value` and `x` are finite for at least one seed.
    """
    table = pd.DataFrame({"round": numbers(rows["round"]), "x": numbers(rows[x]), "value": numbers(rows[value])})
    # Before training nothing was sent: a cost that round 0 does not carry is zero.
    table.loc[(table["round"] == 0) & table["x"].isna(), "x"] = 0.0
    known = np.isfinite(table.to_numpy()).all(axis=1)
    grouped = table.loc[known].groupby("round", as_index=False)
    averages: pd.DataFrame = grouped.agg(
        x=("x", "mean"), mean=("value", "mean"), std=("value", "std"), seeds=("value", "size")
    )
    return averages


def thin(length: int, limit: int) -> NDArray[np.intp]:
    """Return at most `limit` evenly spaced indices into a sequence of `length`, first and last included."""
    return np.unique(np.linspace(0, length - 1, min(length, limit)).round()).astype(np.intp)


def numbers(column: Any) -> NDArray[np.float64]:
    """Return a column as float64, null as NaN."""
    return np.asarray(pd.to_numeric(column), dtype=np.float64)


def finite(column: Any) -> NDArray[np.float64]:
    """Return the finite values of a column."""
    values = numbers(column)
    return values[np.isfinite(values)]


def style(index: int) -> dict[str, Any]:
    """Return the line of the variant with this index: its colour, width and dash."""
    dash = DASHES[index // len(PALETTE) % len(DASHES)]
    return {"color": PALETTE[index % len(PALETTE)], "width": 2.5, "dash": dash}


def plain(text: object) -> str:
    """Return text as plotly shows it literally: it reads a few HTML tags in names and titles."""
    return escape(str(text), quote=False)


def require_columns(rounds: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError naming the columns that `rounds` lacks."""
    missing = [column for column in columns if column not in rounds.columns]
    if missing:
        raise ValueError(f"rounds: got a table without {', '.join(missing)}, expected columns {', '.join(columns)}")


def base_figure(x_title: str) -> go.Figure:
    """Return an empty figure with the look that all figures of the report share."""
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        height=440,
        margin={"l": 60, "r": 16, "t": 36, "b": 56},
        hovermode="closest",
        # Below the axis title and across, however many rows it takes: beside the plot it would fill a phone.
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        showlegend=True,
        xaxis={"title": {"text": x_title}, "automargin": True},
        yaxis={"automargin": True},
    )
    return figure


def _curves(rounds: pd.DataFrame, value: str, x: str, energy_unit: str | None) -> go.Figure:
    given, x = x, SHORT_NAMES.get(x, x)
    if x not in X_AXES:
        raise ValueError(f"x: got {given!r}, expected one of {', '.join([*X_AXES, *SHORT_NAMES])}")
    require_columns(rounds, "variant", "seed", "round", value, x)
    unit = f" ({plain(energy_unit)})" if energy_unit and x.startswith("energy") else ""
    figure = base_figure(X_AXES[x] + unit)
    for index, (name, rows) in enumerate(rounds.groupby("variant", sort=False)):
        curve = mean_over_seeds(rows, value, x)
        if len(curve):
            curve = curve.iloc[thin(len(curve), MAX_POINTS)]
            _add_curve(figure, str(name), curve, style(index))
    return figure


def _add_curve(figure: go.Figure, name: str, curve: pd.DataFrame, line: dict[str, Any]) -> None:
    banded = curve[curve["seeds"] > 1]
    if len(banded):
        figure.add_trace(_band(name, banded, line["color"]))
    figure.add_trace(
        go.Scatter(
            x=curve["x"].to_numpy(),
            y=curve["mean"].to_numpy(),
            customdata=curve[["round", "std", "seeds"]].fillna(0.0).to_numpy(),
            name=plain(name),
            legendgroup=name,
            mode="lines+markers" if len(curve) <= MARKED_POINTS else "lines",
            line=line,
            hovertemplate="%{y:.4g} ± %{customdata[1]:.2g} (seeds: %{customdata[2]})"
            "<br>round %{customdata[0]}, %{xaxis.title.text}: %{x:,.6~g}",
        )
    )


def _band(name: str, curve: pd.DataFrame, color: str) -> go.Scatter:
    x, mean, std = (curve[column].to_numpy() for column in ("x", "mean", "std"))
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([mean + std, (mean - std)[::-1]]),
        fill="toself",
        fillcolor=color,
        opacity=0.2,
        mode="none",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        name=f"{plain(name)} ± 1 std",
    )
