"""Curves as figures draw them: on linear or log axes, with a band that stays possible and in sight."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmac.report.value_axis import Limits, band_edges, log_limits
from fedmac.studies.compare.curves import Curve
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.statistics import Estimate

LOG_FROM = 20.0
"""Series whose costs differ by more than this factor are drawn over a log axis."""


@dataclass(frozen=True)
class Axes:
    """The axes that a plot draws curves on.

    Attributes
    ----------
    x, y : str
        The cost, of :data:`fedmac.axes.AXES` (empty where final values are drawn over a swept key), and the figure.
    log_x : bool
        Whether the axis of costs is logarithmic.
    limits : (float, float) or None
        Ends of a logarithmic axis of values; None if it is linear.
    target : float or None
        The target's place on the axis of values; None if it has none.
    """

    x: str
    y: str
    log_x: bool
    limits: Limits | None
    target: float | None

    def curve(self, one: Series) -> Curve | None:
        """The part of a series' curve that the axes can show; None if it has none over this cost."""
        curve = _over(one, self.x, self.log_x)
        return curve if curve is None or self.limits is None else _part(curve, curve.mean > 0)

    def band(self, curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Lower and upper edge of the 95 % band, shape (points,) each; None for one seed."""
        return None if curve.half_width is None else band_edges(self.y, curve.mean, curve.half_width, self.limits)

    def bar(self, final: Estimate) -> tuple[float, float]:
        """How far the 95 % interval of a final value is drawn below and above it; zero for one seed."""
        if final.half_width is None:
            return 0.0, 0.0
        mean, half_width = np.asarray(final.mean), np.asarray(final.half_width)
        low, high = band_edges(self.y, mean, half_width, self.limits)
        return max(0.0, float(mean - low)), max(0.0, float(high - mean))


def axes_for(comparison: Comparison, series: Collection[Series], x: str, *, linear: bool = False) -> Axes:
    """The axes on which a plot of some series over x shows them best, and the target with them.

    `linear` asks for a linear axis of values whatever they are.
    """
    log_x = _log_costs(series, x)
    curves = [curve for one in series if (curve := _over(one, x, log_x)) is not None]
    means = np.concatenate([curve.mean for curve in curves]) if curves else np.empty(0)
    return _axes(comparison, x, log_x, means, linear)


def final_axes(comparison: Comparison, *, linear: bool = False) -> Axes:
    """As :func:`axes_for`, of a plot of final values over a swept key."""
    finals = np.array([one.final.mean for one in comparison.series], dtype=np.float64)
    return _axes(comparison, "", False, finals, linear)


def _axes(comparison: Comparison, x: str, log_x: bool, means: NDArray[np.float64], linear: bool) -> Axes:
    key, target = comparison.target or ("", None)
    limits = None if linear else log_limits(comparison.y, means)
    if key != comparison.y or (limits is not None and target is not None and target <= 0):
        target = None
    if limits is not None and target is not None:
        limits = (min(limits[0], target / 2), max(limits[1], target * 2))
    return Axes(x, comparison.y, log_x, limits, target)


def _log_costs(series: Collection[Series], x: str) -> bool:
    """Whether series spend so differently on an axis that a log axis shows them better."""
    ends = [float(one.curves[x].x[-1]) for one in series if x in one.curves]
    return x != "round" and bool(ends) and min(ends) > 0 and max(ends) > LOG_FROM * min(ends)


def _over(one: Series, x: str, log_x: bool) -> Curve | None:
    curve = one.curves.get(x)
    return _part(curve, curve.x > 0) if curve is not None and log_x else curve


def _part(curve: Curve, there: NDArray[np.bool_]) -> Curve:
    half_width = None if curve.half_width is None else curve.half_width[there]
    return replace(curve, x=curve.x[there], mean=curve.mean[there], half_width=half_width)
