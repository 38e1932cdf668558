"""Learning curves: accuracy and loss of each variant against rounds and against what they cost."""

from __future__ import annotations

from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.axes import AXES, label
from fedmac.report.over_seeds import finite, mean_over_seeds, numbers, thin
from fedmac.report.value_axis import Limits, band_edges, log_limits, make_logarithmic

FloatArray = NDArray[np.float64]

X_AXES = MappingProxyType(
    {
        "round": "round",
        "exchange": "exchange",
        "channel_uses": "channel uses",
        "bits_per_device_mean": "bits per device",
        "energy_j_per_device_mean": "energy per device",
        "air_time_s": "air time (s)",
        "clock_s": "clock (s)",
        "wall_s": "wall time (s)",
    }
)

SHORT_NAMES = MappingProxyType({axis: key for axis, (key, _) in AXES.items() if axis != key})

# Okabe & Ito's palette: told apart with every common colour vision. Black is left out (lost on a dark page)
# and yellow comes last (pale on a white one); from the eighth variant on the dash changes.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
DASHES = ("solid", "dash", "dot", "dashdot")

MAX_POINTS = 300  # of a curve: about one a pixel column of the plot, and keeps the page small
MARKED_POINTS = 25  # curves of up to so many points show them, so that a run of one round is seen


def accuracy_figure(rounds: pd.DataFrame, x: str = "round", *, energy_unit: str | None = None) -> go.Figure:
    """Draw test accuracy, the mean over seeds with its 95 % confidence band, for each variant.

    Parameters
    ----------
    rounds
        A row per variant, seed and round with the columns ``variant``, ``seed``, ``round``, ``test_accuracy``
        and `x`; costs are cumulative over rounds.
    x
        What to draw against: a key of ``X_AXES`` or of ``SHORT_NAMES``, such as ``round``, ``channel_uses``,
        ``energy`` or ``clock``.
    energy_unit
        Written behind "energy per device" on the axis, such as ``J`` or ``normalised``.

    Returns
    -------
    plotly.graph_objects.Figure
        A line per variant that has both values and spends something on a cost axis, and its band (Student's t)
        where it has several seeds.

    Raises
    ------
    ValueError
        `x` is none of the above, or a column is missing.
    """
    return curve_figure(rounds, "test_accuracy", x, energy_unit=energy_unit)


def loss_figure(rounds: pd.DataFrame, x: str = "round", *, energy_unit: str | None = None) -> go.Figure:
    """Draw test loss as :func:`accuracy_figure` does accuracy, on a log axis beyond a factor of 100."""
    return curve_figure(rounds, "test_loss", x, energy_unit=energy_unit)


def curve_figure(rounds: pd.DataFrame, y: str, x: str = "round", *, energy_unit: str | None = None) -> go.Figure:
    """Draw any column `y` as :func:`accuracy_figure` does accuracy; losses, gaps and norms may get a log axis.

    They do beyond a factor of 100, see :func:`fedmac.report.value_axis.log_limits`; points at or below zero are then
    left out.
    """
    given, x = x, SHORT_NAMES.get(x, x)
    if x not in X_AXES:
        raise ValueError(f"x: got {given!r}, expected one of {', '.join([*X_AXES, *SHORT_NAMES])}")
    require_columns(rounds, "variant", "seed", "round", y, x)
    unit = f" ({plain(energy_unit)})" if energy_unit and x.startswith("energy") else ""
    figure = base_figure(X_AXES[x] + unit)
    figure.update_layout(yaxis_title_text=label(y))
    drawn: list[tuple[str, pd.DataFrame, dict[str, Any]]] = []
    for index, (name, rows) in enumerate(rounds.groupby("variant", sort=False)):
        curve = mean_over_seeds(rows, y, x)
        # A variant that spends nothing would stand as a line on the axis.
        if len(curve) and (x == "round" or curve["x"].any()):
            drawn.append((str(name), curve.iloc[thin(len(curve), MAX_POINTS)], style(index)))
    if not drawn:
        return figure
    # On a phone each name of the legend takes a row.
    figure.update_layout(height=440 + 20 * min(max(len(drawn) - 6, 0), 12))
    limits = _scale(figure, pd.concat([curve for _, curve, _ in drawn]), y)
    for name, curve, line in drawn:
        _add_curve(figure, name, curve[curve["mean"] > 0] if limits else curve, line, y, limits)
    return figure


def _scale(figure: go.Figure, curves: pd.DataFrame, y: str) -> Limits | None:
    """Scale the axis by the means: with two seeds a band may be many times as high as all curves together.

    Returns the ends of a log axis, None for a linear one.
    """
    mean, width = curves["mean"].to_numpy(), curves["half_width"].fillna(0.0).to_numpy()
    limits = log_limits(y, mean)
    if limits is not None:
        make_logarithmic(figure, limits)
        return limits
    low, high = float(mean.min()), float(mean.max())
    room = (high - low) or abs(high) or 1.0
    bottom, top = (
        max(float((mean - width).min()), low - 0.25 * room),
        min(float((mean + width).max()), high + 0.25 * room),
    )
    figure.update_yaxes(range=[bottom - 0.04 * room, top + 0.04 * room])
    return None


def axes_of(rounds: pd.DataFrame) -> dict[str, str]:
    """Return the x axes that say something, column to label: those with a value that is not zero.

    Exchanges are left out where each round is one.
    """
    axes = {"round": X_AXES["round"]}
    for column, name in X_AXES.items():
        if column in rounds.columns and finite(rounds[column]).any():
            axes[column] = name
    if "exchange" in axes and not _exchanges_differ(rounds):
        del axes["exchange"]
    return axes


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
    # Without a template: the page brings its own colours, and to copy one costs more than to draw.
    figure = go.Figure(layout={"template": "none"})
    figure.update_layout(
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


def _exchanges_differ(rounds: pd.DataFrame) -> bool:
    exchange, number = numbers(rounds["exchange"]), numbers(rounds["round"])
    known = np.isfinite(exchange)
    return bool((exchange[known] != number[known]).any())


def _add_curve(
    figure: go.Figure, name: str, curve: pd.DataFrame, line: dict[str, Any], y: str, limits: Limits | None
) -> None:
    banded = curve[curve["seeds"] > 1]
    if len(banded):
        edges = band_edges(y, banded["mean"].to_numpy(), banded["half_width"].to_numpy(), limits)
        figure.add_traces(_band(name, banded["x"].to_numpy(), *edges, line["color"]))
    # float32 has digits to spare for the height of a point and halves the page.
    details = curve[["round", "half_width", "seeds"]].fillna(0.0).to_numpy(np.float32)
    figure.add_trace(
        go.Scatter(
            x=curve["x"].to_numpy(),
            y=curve["mean"].to_numpy(np.float32),
            customdata=details,
            name=plain(name),
            legendgroup=name,
            mode="lines+markers" if len(curve) <= MARKED_POINTS else "lines",
            line=line,
            hovertemplate="%{y:.4g} ± %{customdata[1]:.2g} (seeds: %{customdata[2]})"
            "<br>round %{customdata[0]}, %{xaxis.title.text}: %{x:,.6~g}",
        )
    )


def _band(name: str, x: FloatArray, low: FloatArray, high: FloatArray, color: str) -> list[go.Scatter]:
    """Return the band's lower edge and, filled down to it, the upper one."""
    shared = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    shared["legendgroup"] = name
    return [
        go.Scatter(y=low.astype(np.float32), name=f"{plain(name)}, low", **shared),
        go.Scatter(
            y=high.astype(np.float32),
            name=f"{plain(name)}, high",
            fill="tonexty",
            fillcolor=_faint(color),
            **shared,
        ),
    ]


def _faint(color: str) -> str:
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.2)"
