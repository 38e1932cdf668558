"""Curves as figures draw them: with a band that stays possible, on a linear or a log axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmac.studies.compare.curves import Curve
from fedmac.studies.compare.findings import Series

LOG_FROM = 20.0
"""Series whose costs differ by more than this factor are drawn over a log axis."""


def band(curve: Curve, y: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Lower and upper edge of the 95 % band, shape (points,) each; None for one seed.

    Student's t knows no limits; of an accuracy only what lies between 0 and 1 is drawn.
    """
    if curve.half_width is None:
        return None
    limits = (0.0, 1.0) if "accuracy" in y else (-math.inf, math.inf)
    low, high = (np.clip(curve.mean + sign * curve.half_width, *limits) for sign in (-1.0, 1.0))
    return low, high


def log_axis(series: Sequence[Series], axis: str) -> bool:
    """Whether series spend so differently on an axis that a log axis shows them better."""
    ends = [float(one.curves[axis].x[-1]) for one in series if axis in one.curves]
    return axis != "round" and bool(ends) and min(ends) > 0 and max(ends) > LOG_FROM * min(ends)


def beyond_zero(curve: Curve) -> Curve:
    """The part of a curve that a log axis can show."""
    there = curve.x > 0
    half_width = None if curve.half_width is None else curve.half_width[there]
    return replace(curve, x=curve.x[there], mean=curve.mean[there], half_width=half_width)
