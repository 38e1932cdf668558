"""Least error where power has a price: what average and total power budgets come down to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from channel.power.power_control import PowerControlError, Real

MAXIMUM_STEPS = 200
ROUNDING = 1e-12  # of the pull of all devices: one this close to that of the noise is no more than it
LARGEST_STEP = 20.0  # of log a^2 downwards into the unknown, so that a^2 does not become 0
TOLERANCE = 1e-9  # of log a^2: a Newton step this small leaves an error of about its square


def priced_scale(reach: Real, weights: Real, price: Real, peak: float, start: Real | None = None) -> Real:
    r"""Squared receive scales x = a^2 that minimise error plus priced power, one for each of T states.

    .. math:: \min_{a,\,0 \le b_i \le B}\ \sum_i (a g_i b_i - w_i)^2 + a^2 + \sum_i \mu_i b_i^2

    in units where each device's limit and the noise are 1 (:math:`g_i = |h_i|\sqrt{P_i}/\sigma`). For a given a,
    :math:`b_i = \min(B, a g_i w_i/(a^2 g_i^2 + \mu_i))`. What is left is convex in x, with and without the peak: on
    either side of it a device's share is :math:`w_i^2\mu_i/(x g_i^2 + \mu_i)` or :math:`(\sqrt x g_i B - w_i)^2 +
    \mu_i B^2`, both convex, and they join smoothly. So x is where the slope :math:`1 - \sum_i (g_i b_i/a)(w_i - a g_i
    b_i)` is zero; x = 0, nobody sends, where it is never negative. Equation 1f of docs/equations.md; without a peak
    the inner problem of Cao, Zhu, Xu and Huang (IEEE Trans. Wireless Commun. 19(11), 2020).

    Parameters
    ----------
    reach : ndarray, shape (T, K)
        g_i.
    weights : ndarray, shape (T, K)
        w_i >= 0, not all 0 in a state.
    price : ndarray, shape (K,)
        mu_i >= 0.
    peak : float
        B > 0; may be infinite where every price is positive.
    start : ndarray, shape (T,), optional
        Where to begin, for example the solution at other prices; values of 0 are replaced.

    Raises
    ------
    PowerControlError
        The search did not end, which only numbers near the limits of floating point should cause.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        initial = np.where(reach * weights > 0, (reach * weights) ** 2 / price, 0.0).sum(-1)
    heard = initial > 1.0 + ROUNDING
    squared = np.zeros(len(reach))
    if heard.any():
        highest = np.log(np.square(weights[heard]).sum(-1))  # x is no more than the error of hearing nobody
        begin = (
            highest if start is None else np.where(start[heard] > 0, np.log(np.maximum(start[heard], 1e-300)), highest)
        )
        squared[heard] = np.exp(_zero_slope(reach[heard], weights[heard], price, peak, begin, highest))
    return squared


def priced_amplitudes(squared: Real, reach: Real, weights: Real, price: Real, peak: float) -> Real:
    """b_i in units of the root of the limit, shape (T, K), at squared receive scales of shape (T,)."""
    return np.minimum(_free_amplitudes(squared, reach, weights, price), peak)


def _free_amplitudes(squared: Real, reach: Real, weights: Real, price: Real) -> Real:
    """What each would send without a peak."""
    arriving = np.sqrt(squared)[:, None] * reach
    cost = np.square(arriving) + price
    free: Real = np.divide(arriving * weights, cost, out=np.zeros_like(cost), where=cost > 0)
    return free


def _zero_slope(reach: Real, weights: Real, price: Real, peak: float, begin: Real, highest: Real) -> Real:
    """Log x where the pull of the devices equals that of the noise, by Newton's method within a bracket."""
    position = np.minimum(begin, highest)
    low, high = np.full_like(position, -np.inf), highest.copy()
    last = np.full_like(position, np.inf)
    moving = np.arange(len(position))
    for _ in range(MAXIMUM_STEPS):
        here = position[moving]
        pull, decline = _pull(np.exp(here), reach[moving], weights[moving], price, peak)
        with np.errstate(divide="ignore", invalid="ignore"):
            above = np.log(pull)  # nearly linear in log x: Newton's method needs a few steps
            step = above * pull / decline
        low[moving] = np.where(above > 0, here, low[moving])
        high[moving] = np.where(above > 0, high[moving], here)
        position[moving] = _safeguarded(here, step, low[moving], high[moving], last[moving])
        last[moving] = np.abs(position[moving] - here)
        moving = moving[(last[moving] > TOLERANCE) & ~(np.abs(step) <= TOLERANCE)]
        if not moving.size:
            return position
    raise PowerControlError(
        f"the receive scale of {moving.size} states was not found in {MAXIMUM_STEPS} steps; check the units of gains, "
        "power limits and noise"
    )


def _safeguarded(here: Real, step: Real, low: Real, high: Real, last: Real) -> Real:
    """The step where it stays in the bracket and halves the one before; else the middle of the bracket.

    Where no lower end is known yet: the step, but not further down than a known distance.
    """
    known = np.isfinite(low)
    middle = 0.5 * (np.where(known, low, high - 4.0) + high)
    reached = here + np.where(known, step, np.maximum(step, -LARGEST_STEP))
    taken = (reached >= low) & (reached <= high) & (~known | (np.abs(step) <= 0.5 * last))
    return np.where(taken, reached, middle)


def _pull(squared: Real, reach: Real, weights: Real, price: Real, peak: float) -> tuple[Real, Real]:
    """Sum of (g b/a)(w - a g b), by which a larger x lowers the misalignment, and minus its slope over log x."""
    scale = np.sqrt(squared)[:, None]
    signal = np.square(scale * reach)
    cost = signal + price
    safe = np.where(cost > 0, cost, 1.0)
    free: Real = scale * reach * weights / safe
    clipped: NDArray[np.bool_] = free > peak
    inner = weights * price * reach / safe * (weights * reach / safe)
    decline = 2.0 * inner * signal / safe
    if clipped.any():
        arriving = reach * peak / scale
        inner = np.where(clipped, arriving * (weights - scale * reach * peak), inner)
        decline = np.where(clipped, 0.5 * arriving * weights, decline)
    return inner.sum(-1), decline.sum(-1)
