"""The minimum of the error under peak power limits, by sorting."""

from __future__ import annotations

import numpy as np

from channel.power.power_control import AllocationProblem


def optimal_receive_scale(problem: AllocationProblem) -> float:
    r"""Receive scale a* of least error; amplitudes follow as :math:`\min(\sqrt{P_i}, w_i/(a^*|h_i|))`.

    With devices sorted by :math:`c_i/w_i`, weakest first,

    .. math:: a^* = \max_k \frac{\sum_{i\le k} w_i c_i}{\sigma^2 + \sum_{i\le k} c_i^2}.

    For a fixed, the best error is :math:`F(a) = \sum_i \max(0, w_i - a c_i)^2 + \sigma^2 a^2`, convex and
    smooth; the fractions are the stationary points of its pieces. Theorem 1 of Cao, Zhu, Xu and Huang (IEEE
    Trans. Wireless Commun. 19(11), 2020), weighted; equation 1a of docs/equations.md. O(K log K).
    """
    wanted = problem.wanted
    reach, weights = problem.reach[wanted], problem.weights[wanted]
    weakest_first = np.argsort(reach / weights, kind="stable")
    reach, weights = reach[weakest_first], weights[weakest_first]
    candidates = np.cumsum(weights * reach) / (problem.noise_power + np.cumsum(reach**2))
    return float(candidates.max())


def stationarity(problem: AllocationProblem, receive_scale: float) -> float:
    """|a F'(a)| / (2 w.w): 0 at the optimum. What a solver's answer is judged by."""
    reach, weights = problem.reach, problem.weights
    short = np.maximum(0.0, weights - receive_scale * reach)
    slope = problem.noise_power * receive_scale - float(short @ reach)
    return abs(receive_scale * slope) / float(weights @ weights)
