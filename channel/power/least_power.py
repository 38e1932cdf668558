"""The least power that reaches an error, with and without peak limits, by finding roots."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from channel.power.closed_form import optimal_receive_scale
from channel.power.power_control import AllocationProblem, Real

LARGEST_EXPONENT = 80.0  # of the multiplier: beyond it every device sends all it may


def least_power(problem: AllocationProblem, error: float) -> tuple[Real, float]:
    r"""Amplitudes and receive scale of least :math:`\sum b_i^2` with :math:`MSE \le` ``error`` and peak limits.

    Without peaks, lambda solves :math:`\sum w_i^2/(1 + \lambda h_i^2) = \epsilon`, then :math:`a^{-2} = \sigma^2/
    (\epsilon - \sum w_i^2/(1 + \lambda h_i^2)^2)` and :math:`b_i = \lambda |h_i| w_i/(a(1 + \lambda h_i^2))`. If that
    stays below the peaks it is the answer; if not, :func:`peak_limited`. Equation 1d of docs/equations.md.

    Parameters
    ----------
    problem : AllocationProblem
        With noise, sigma^2 > 0.
    error : float
        Epsilon: from the optimum of equation 1a, which must be reachable, to below ||w||^2.
    """
    amplitudes, scale = without_peaks(problem, error)
    if (amplitudes <= problem.peaks).all():
        return amplitudes, scale
    return peak_limited(problem, error)


def without_peaks(problem: AllocationProblem, error: float) -> tuple[Real, float]:
    """The closed form without peak limits; amplitudes are infinite where the error needs more than the channel."""
    gains, unit = _relative_gains(problem)
    weights, squares = problem.weights, np.square(gains)
    if float(np.square(weights[gains == 0.0]).sum()) >= error:
        return np.where(gains > 0, np.inf, 0.0), 1.0

    def excess(log_multiplier: float) -> float:
        return float(np.sum(np.square(weights) / (1.0 + math.exp(log_multiplier) * squares))) - error

    multiplier = math.exp(_root(excess, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    share = 1.0 + multiplier * squares
    misalignment = float(np.sum(np.square(weights / share)))
    inverse_scale = math.sqrt(problem.noise_power / (error - misalignment))
    return inverse_scale * multiplier * gains / unit * weights / share, 1.0 / inverse_scale


def peak_limited(problem: AllocationProblem, error: float) -> tuple[Real, float]:
    r"""The same with peaks :math:`\sqrt{P_i}`: one multiplier within one receive scale.

    For a given r = 1/a the least power reaches the error with :math:`b_i = \min(\sqrt{P_i}, L |h_i| w_i r/(1 + L
    h_i^2))`, that is with shortfalls :math:`m_i = \max(w_i/(1 + L h_i^2), w_i - a c_i)` and L from :math:`\sum m_i^2 +
    \sigma^2 a^2 = \epsilon`, which falls in L. The power is convex in r (what is left of a convex program when the
    amplitudes are minimised over), and its slope has the sign of :math:`\sum w_i m_i - \epsilon`. So both roots are
    bracketed and this is exact.
    """
    lowest_error_scale = optimal_receive_scale(problem)
    gains, _ = _relative_gains(problem)
    weights, squares = problem.weights, np.square(gains)
    reach = np.where(gains > 0, problem.reach, 0.0)

    def shortfalls(scale: float, log_multiplier: float) -> Real:
        wanted = weights / (1.0 + math.exp(log_multiplier) * squares)
        return np.maximum(wanted, weights - scale * reach)

    def multiplier(scale: float) -> float:
        def excess(log_multiplier: float) -> float:
            missing = shortfalls(scale, log_multiplier)
            return float(missing @ missing) + problem.noise_power * scale**2 - error

        return _root(excess, -LARGEST_EXPONENT, LARGEST_EXPONENT)

    def falling(scale: float) -> float:
        """Positive where a larger a needs less power."""
        return float(weights @ shortfalls(scale, multiplier(scale))) - error

    def lost(scale: float) -> float:
        missing = np.maximum(0.0, weights - scale * reach)
        return float(missing @ missing) + problem.noise_power * scale**2 - error

    if lost(lowest_error_scale) >= 0.0:  # the target is the optimum itself
        return problem.invert(lowest_error_scale, problem.wanted), lowest_error_scale
    smallest = _root(lost, 0.0, lowest_error_scale)
    largest = _root(lost, lowest_error_scale, 2.0 * math.sqrt(error / problem.noise_power))
    scale = _root(falling, smallest, largest)
    missing = shortfalls(scale, multiplier(scale))
    arriving = np.divide(weights - missing, scale * problem.magnitudes, out=np.zeros_like(weights), where=gains > 0)
    return np.minimum(arriving, problem.peaks), scale


def _relative_gains(problem: AllocationProblem) -> tuple[Real, float]:
    """Magnitudes of the devices that count, in units of the largest."""
    gains = np.where(problem.wanted, problem.magnitudes, 0.0)
    unit = float(gains.max())
    return gains / unit, unit


def _root(function: Callable[[float], float], left: float, right: float) -> float:
    """Where the function changes sign; the end nearer to it where rounding has moved the root outside."""
    from scipy.optimize import brentq

    at_left, at_right = function(left), function(right)
    if at_left * at_right > 0.0:
        return left if abs(at_left) < abs(at_right) else right
    return float(brentq(function, left, right, xtol=1e-300, rtol=1e-14))
