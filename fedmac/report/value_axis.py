"""The axis of a figure's values: linear or logarithmic, and what of a curve and its band it can show."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.axes import falls_to_zero

LOG_SPAN = 100.0
"""Losses, gaps and norms that differ by more than this factor are drawn on a log axis."""

LOG_NOTE = (
    " On the logarithmic axis, too, means are arithmetic; what is not above zero has no place there, and a band cut"
    " off at the bottom goes on below."
)

_MARGIN = 10**0.1  # of a log axis beyond the lowest and the highest mean

Limits = tuple[float, float]
"""Lower and upper end of a log axis, both positive."""


def log_limits(key: str, means: NDArray[np.float64]) -> Limits | None:
    """The ends of the log axis on which means of a figure are drawn; None if a linear axis shows them.

    A log axis is for figures that training brings towards zero (:func:`fedmac.axes.falls_to_zero`) once the highest
    is more than :data:`LOG_SPAN` times the lowest positive one. Rounding can leave such a figure at zero or a little
    below, where a log axis has no place; one that goes further below than a linear axis could show (the highest over
    :data:`LOG_SPAN`) is of another kind and stays on a linear axis.

    Parameters
    ----------
    key : str
        The figure's key in the record.
    means : ndarray, shape (points,)
        Of all curves drawn; values that are not finite do not count.
    """
    means = means[np.isfinite(means)]
    positive = means[means > 0]
    if not falls_to_zero(key) or not len(positive):
        return None
    low, high = float(positive.min()), float(positive.max())
    if high <= LOG_SPAN * low or means.min() < -high / LOG_SPAN:
        return None
    return low / _MARGIN, high * _MARGIN


def band_edges(
    key: str, mean: NDArray[np.float64], half_width: NDArray[np.float64], limits: Limits | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper edge of a confidence band, kept to what the figure can be and its axis can show.

    Student's t knows no limits: of an accuracy what lies between 0 and 1 is drawn, and on a log axis (`limits` of
    :func:`log_limits`) nothing below its lower end, where an edge at or below zero would cut the band open.

    Parameters
    ----------
    key : str
        The figure's key in the record.
    mean, half_width : ndarray, shape (points,)
    limits : (float, float) or None
        Ends of the log axis; None for a linear one.
    """
    lowest, highest = (0.0, 1.0) if "accuracy" in key else (-math.inf if limits is None else limits[0], math.inf)
    low, high = (np.clip(mean + sign * half_width, lowest, highest) for sign in (-1.0, 1.0))
    return low, high


def make_logarithmic(figure: go.Figure, limits: Limits) -> None:
    """Give a plotly figure a logarithmic axis of values from one limit to the other, its ticks powers of ten."""
    figure.update_yaxes(type="log", range=[math.log10(end) for end in limits], exponentformat="power")


def log_note(figures: Iterable[go.Figure]) -> str:
    """What a caption says where one of the figures has a logarithmic axis of values; else nothing."""
    return LOG_NOTE if any(figure.layout.yaxis.type == "log" for figure in figures) else ""
