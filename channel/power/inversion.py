"""Channel inversion: every active device arrives at its weight, whatever its channel."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from channel.power.power_control import AllocationProblem, PowerControl, Real


class ChannelInversion(PowerControl):
    r"""Zero-forcing: :math:`a = \max_i w_i/c_i`, :math:`b_i = w_i/(a|h_i|)`; unbiased.

    The error is :math:`\sigma^2 a^2`. The weakest device sets the level of all; under Rayleigh fading the
    error has no finite mean. Devices that cannot be heard (no gain, no power) are silent and the rest is
    inverted. Equation 1b of docs/equations.md.
    """

    name = "channel-inversion"

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        active = problem.wanted
        receive_scale = float(np.max(problem.weights[active] / problem.reach[active]))
        return problem.invert(receive_scale, active), receive_scale


class TruncatedInversion(PowerControl):
    r"""Invert the channels of the devices that are good enough; the others stay silent.

    * ``threshold`` a number: devices with :math:`|h_i|^2 \ge g_{th}` are active and arrive at the level that
      a device
      right at the threshold could reach, :math:`1/a = \min_i \sqrt{P_i g_{th}}/w_i`, so the level does not
      move with the fading.
    * ``threshold`` a number and ``average_power``: broadband analog aggregation (Zhu, Wang, Huang 2020,
      arXiv:1812.11494). P_i limits the average over unit-mean Rayleigh fading instead of the peak:
      :math:`1/a = \min_i \sqrt{P_i/E_1(g_{th})}/w_i`, with :math:`E_1(x) = \int_x^\infty e^{-t}/t\,dt`.
      Single rounds may exceed P_i.
    * ``threshold="best"``: the k devices of largest :math:`c_i/w_i`, k by least error,
      :math:`\sum_{silent} w_i^2 + \sigma^2 \max_{active}(w_i/c_i)^2`.

    Equation 1c of docs/equations.md.

    Parameters
    ----------
    threshold : float or "best"
        Power gain |h|^2 below which a device stays silent, >= 0 and in the unit of the gains (path loss
        included), > 0 where it sets the level.
    average_power : bool
        Read the power limits as averages over Rayleigh fading; needs a number as threshold.

    Raises
    ------
    ValueError
        Another threshold, or ``average_power`` with "best".
    """

    name = "truncated-inversion"

    def __init__(self, threshold: float | Literal["best"] = "best", average_power: bool = False) -> None:
        number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (threshold == "best" or (number and 0 < float(threshold) < math.inf)):
            raise ValueError(f"threshold is {threshold!r}; accepted: 'best' or a number > 0")
        if average_power and threshold == "best":
            raise ValueError("average_power=True needs a number as threshold, not 'best': it sets the level")
        self.threshold = threshold
        self.average_power = average_power

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        if self.threshold == "best":
            return _best_truncation(problem)
        threshold = float(self.threshold)
        active = problem.wanted & (problem.magnitudes**2 >= threshold)
        amplitudes = np.zeros_like(problem.weights)
        if not active.any():
            return amplitudes, 0.0
        weights = problem.weights[active]
        reference_gain = 1.0 / _exponential_integral(threshold) if self.average_power else threshold
        level = float(np.min(np.sqrt(problem.power_limits[active] * reference_gain) / weights))
        # With a peak limit no device needs more than sqrt(P_i): its gain is at least the threshold.
        amplitudes[active] = level * weights / problem.magnitudes[active]
        return amplitudes, 1.0 / level


def _best_truncation(problem: AllocationProblem) -> tuple[Real, float]:
    wanted = np.flatnonzero(problem.wanted)
    need = problem.weights[wanted] / problem.reach[wanted]
    strongest_first = wanted[np.argsort(need, kind="stable")]
    needs = np.sort(need)
    silent = np.sum(problem.weights**2) - np.cumsum(problem.weights[strongest_first] ** 2)
    errors = np.append(np.sum(problem.weights**2), silent + problem.noise_power * needs**2)
    k = int(np.argmin(errors))
    active = np.zeros(problem.weights.shape, dtype=np.bool_)
    active[strongest_first[:k]] = True
    receive_scale = float(needs[k - 1]) if k else 0.0
    return problem.invert(receive_scale, active), receive_scale


def _exponential_integral(x: float) -> float:
    from scipy.special import exp1

    return float(exp1(x))
