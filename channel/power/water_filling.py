"""Water-filling: the least sum of inverse proportions under a total and limits on each share, exactly."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Whole = NDArray[np.int64]


def water_fill(slopes: Real, lower: Real, upper: Real, total: float) -> Real:
    r"""The :math:`v_t = \mathrm{clip}(k s_t, l_t, u_t)` that add up to a total.

    They minimise :math:`\sum_t s_t^2 / v_t` subject to :math:`\sum_t v_t \le` total and :math:`l \le v \le u`: all
    shares strictly inside their limits have the same price :math:`(s_t/v_t)^2 = 1/k^2`. The sum is piecewise linear in
    k, so the piece is found by bisection over its 2T corners and k by one division.

    Parameters
    ----------
    slopes : ndarray, shape (T,)
        s_t >= 0. What the positive ones cannot take, their limits reached, is spread evenly over those of slope zero.
    lower, upper : ndarray, shape (T,)
        Limits, 0 <= l_t <= u_t; upper may be infinite.
    total : float
        What there is to share out.

    Returns
    -------
    ndarray, shape (T,)
        The shares; they add up to the total or, where that is less, to the sum of the upper limits.

    Raises
    ------
    ValueError
        A total below the sum of the lower limits.
    """
    if total < lower.sum():
        raise ValueError(f"total is {total}; accepted: at least the sum of the lower limits, {lower.sum()}")
    if total >= upper.sum():
        return upper.copy()
    growing = slopes > 0
    most = np.where(growing, upper, lower).sum()
    if total <= most:
        return _clipped(slopes / slopes.max(), lower, upper, total) if growing.any() else lower.copy()
    rest = ~growing
    shares = upper.copy()
    shares[rest] = _clipped(np.ones(int(rest.sum())), lower[rest], upper[rest], total - upper[growing].sum())
    return shares


def _clipped(slopes: Real, lower: Real, upper: Real, total: float) -> Real:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        starts = np.where(slopes > 0, lower / slopes, np.inf)  # the k at which a share leaves its lower limit
        ends = np.where(slopes > 0, upper / slopes, np.inf)
    corners = np.unique(np.concatenate([[0.0], starts, ends]))
    corners = corners[np.isfinite(corners)]

    def filled(k: float) -> float:
        return float(np.clip(k * slopes, lower, upper).sum())

    left = float(corners[max(0, bisect_left(corners, total, key=filled) - 1)])
    free = (starts <= left) & (ends > left)
    if not free.any():  # the total is reached at the corner itself
        return np.clip(left * slopes, lower, upper)
    fixed = np.where(ends <= left, upper, lower)[~free].sum()
    shares: Real = np.clip((total - fixed) / slopes[free].sum() * slopes, lower, upper)
    return shares


def whole_water_fill(worths: Real, lower: Whole, upper: Whole, total: int) -> Whole:
    r"""The whole numbers :math:`l \le m \le u` of a given sum that minimise :math:`\sum_t q_t / m_t`.

    From the real solution rounded down, one use at a time goes to where it saves most, :math:`q/(m(m+1))`, and then
    from where it is worth least to where it is worth most while that gains. The sum is separable and convex, so where
    no single exchange gains, nothing does (Ibaraki, Katoh, *Resource Allocation Problems*, MIT Press 1988).

    Parameters
    ----------
    worths : ndarray, shape (T,)
        q_t >= 0.
    lower, upper : ndarray of int, shape (T,)
        Limits, 1 <= l_t <= u_t.
    total : int
        Sum of the result, or the sum of the upper limits where that is less. Of equal claims the earlier wins.

    Raises
    ------
    ValueError
        A total below the sum of the lower limits.
    """
    worths = worths / worths.max() if worths.max() > 0 else np.ones_like(worths)
    shares = water_fill(np.sqrt(worths), lower.astype(np.float64), upper.astype(np.float64), float(total))
    uses = np.clip(np.floor(shares + 1e-9), lower, upper).astype(np.int64)
    return _exchanged(worths, uses, lower, upper, min(total, int(upper.sum())))


def _exchanged(worths: Real, uses: Whole, lower: Whole, upper: Whole, total: int) -> Whole:
    left = total - int(uses.sum())
    while True:
        gains = np.where(uses < upper, worths / (uses * (uses + 1.0)), -np.inf)
        losses = np.where(uses > lower, worths / (uses * np.maximum(uses - 1.0, 0.5)), np.inf)
        to, source = int(np.argmax(gains)), len(uses) - 1 - int(np.argmin(losses[::-1]))
        if left > 0:
            uses[to] += 1
            left -= 1
        elif left < 0:
            uses[source] -= 1
            left += 1
        elif gains[to] > losses[source] * (1 + 1e-12):  # rounding must not make two rounds swap for ever
            uses[to] += 1
            uses[source] -= 1
        else:
            return uses
