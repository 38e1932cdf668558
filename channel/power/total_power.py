"""Power control of least error within a power budget of all devices together."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, Literal

import numpy as np

from channel.power.closed_form import optimal_receive_scale
from channel.power.power_control import AllocationProblem, PowerControl, PowerControlError, Real
from channel.power.power_price import priced_amplitudes, priced_scale
from channel.power.quadratic_program import solve_checked


class TotalPower(PowerControl):
    r"""Minimise :math:`\sum_i (a|h_i|b_i - w_i)^2 + \sigma^2 a^2` under :math:`\sum_i b_i^2 \le P_{tot}` and peaks.

    The budget acts as one price mu on everybody's power: :math:`b_i = \min(\sqrt{P_i}, a|h_i|w_i/(a^2|h_i|^2 + \mu))`.
    Where no peak binds, :math:`\mu = a^2 t` with :math:`t = \sigma^2/P_{tot}`:

    .. math:: b_i = \frac{w_i |h_i|}{a(|h_i|^2 + t)}, \qquad
        a^2 = \frac{1}{P_{tot}} \sum_i \frac{w_i^2 |h_i|^2}{(|h_i|^2 + t)^2}.

    Otherwise mu is found by bisection. Every stationary point of the problem is the one minimum at its price, so there
    is no duality gap and the bisection is exact. A budget above what the optimum of equation 1a spends changes nothing.
    As a program: equation 1e with the cone :math:`\|v/|h|\| \le \sqrt{P_{tot}}\,a`. Equation 1i of docs/equations.md.

    Parameters
    ----------
    share : float
        P_tot as a share of the sum of the devices' limits, in (0, 1].
    total_power : float, optional
        P_tot itself, > 0, in the unit of the limits; takes the place of ``share``.
    solver : {"auto", "cvxpy", "closed-form"}
        ``auto`` is the closed form. ``cvxpy`` solves the cone program, built once per number of devices. A solver that
        fails is replaced by the closed form, with a warning in the allocation.

    Raises
    ------
    ValueError
        A share, budget or solver other than the above.
    """

    name = "total-power"

    def __init__(
        self,
        share: float = 0.5,
        total_power: float | None = None,
        solver: Literal["auto", "cvxpy", "closed-form"] = "auto",
    ) -> None:
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share is {share!r}; accepted: 0 < share <= 1")
        if total_power is not None and not 0.0 < total_power < math.inf:
            raise ValueError(f"total_power is {total_power!r}; accepted: a finite number > 0")
        if solver not in ("auto", "cvxpy", "closed-form"):
            raise ValueError(f"solver is {solver!r}; accepted: 'auto', 'cvxpy', 'closed-form'")
        self.share = share
        self.total_power = total_power
        self.solver = solver
        self._programs: dict[int, TotalPowerProgram] = {}

    def budget(self, power_limits: Real) -> float:
        """P_tot for devices of these limits, shape (K,)."""
        return self.share * float(power_limits.sum()) if self.total_power is None else self.total_power

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float] | tuple[Real, float, str]:
        budget = self.budget(problem.power_limits)
        if self.solver != "cvxpy" or problem.noise_power == 0.0:
            return least_error_within(problem, budget)
        devices = len(problem.weights)
        if devices not in self._programs:
            self._programs[devices] = TotalPowerProgram(devices)
        try:
            return self._programs[devices].solve(problem, budget)
        except PowerControlError as failure:
            return *least_error_within(problem, budget), f"{failure}; the closed form was used"


def least_error_within(problem: AllocationProblem, budget: float) -> tuple[Real, float]:
    """Amplitudes and receive scale of least error within peak limits and a total power; see :class:`TotalPower`."""
    scale = optimal_receive_scale(problem)
    amplitudes = problem.invert(scale, problem.wanted)
    if float(amplitudes @ amplitudes) <= budget:
        return amplitudes, scale
    if problem.noise_power == 0.0:  # any level is free of error: the one that spends the budget
        loudness = math.sqrt(budget / float(amplitudes @ amplitudes))
        return amplitudes * loudness, scale / loudness
    amplitudes, scale = without_peaks(problem, budget)
    if (amplitudes <= problem.peaks).all():
        return amplitudes, scale
    return peak_limited(problem, budget)


def without_peaks(problem: AllocationProblem, budget: float) -> tuple[Real, float]:
    """The closed form that spends the whole budget and knows no peaks."""
    gains = np.where(problem.wanted, problem.magnitudes, 0.0)
    level = problem.weights * gains / (np.square(gains) + problem.noise_power / budget)
    scale = math.sqrt(float(level @ level) / budget)
    return level / scale, scale


def peak_limited(problem: AllocationProblem, budget: float) -> tuple[Real, float]:
    """The price that spends the budget within the peaks; no more than the peaks' own optimum may be budgeted."""
    from scipy.optimize import brentq

    unit = problem.weights.max()  # and 1 is the noise and each limit
    reach = np.where(problem.wanted, problem.reach, 0.0)[None] / math.sqrt(problem.noise_power)
    weights = problem.weights[None] / unit
    limits = problem.power_limits

    def at(log_price: float) -> tuple[Real, float]:
        price = math.exp(log_price) * limits
        squared = priced_scale(reach, weights, price, 1.0)
        return priced_amplitudes(squared, reach, weights, price, 1.0)[0] * problem.peaks, float(squared[0])

    def excess(log_price: float) -> float:
        amplitudes, _ = at(log_price)
        return float(amplitudes @ amplitudes) / budget - 1.0

    # At this price hearing anybody costs more than it brings.
    silent = math.log(float(np.sum(np.square(weights * reach)[:, limits > 0] / limits[limits > 0])) + 1e-300)
    lowest = next((price for price in silent - np.geomspace(10.0, 640.0, 7) if excess(price) >= 0.0), None)
    if lowest is None:  # power is all but free: the budget is that of the optimum without it, up to rounding
        amplitudes, squared = at(silent - 640.0)
    else:
        amplitudes, squared = at(brentq(excess, lowest, silent, xtol=1e-13, rtol=1e-14))
    return amplitudes, math.sqrt(squared / problem.noise_power) * unit


class TotalPowerProgram:
    r"""Minimise :math:`\|v - w\|^2 + (\sigma a)^2` over what arrives, :math:`v = a|h|b`, and a.

    .. math:: 0 \le v \le c\,a, \qquad \|v/|h|\| \le \sqrt{P_{tot}}\,a.

    A second-order cone program, DPP in w, c, sigma and :math:`1/(|h|\sqrt{P_{tot}})`, in the units of
    :class:`~channel.power.quadratic_program.QuadraticProgram`.

    Parameters
    ----------
    devices : int
        K.
    """

    def __init__(self, devices: int) -> None:
        cp: Any = import_module("cvxpy")
        self._reach = cp.Parameter(devices, nonneg=True)
        self._weights = cp.Parameter(devices, nonneg=True)
        self._noise = cp.Parameter(nonneg=True)
        self._spent = cp.Parameter(devices, nonneg=True)
        self._scale = cp.Variable(nonneg=True)
        self._arriving = cp.Variable(devices, nonneg=True)
        objective = cp.sum_squares(self._arriving - self._weights) + cp.square(self._noise * self._scale)
        limits = [
            self._arriving <= cp.multiply(self._reach, self._scale),
            cp.norm(cp.multiply(self._spent, self._arriving)) <= self._scale,
        ]
        self._problem = cp.Problem(cp.Minimize(objective), limits)

    def solve(self, problem: AllocationProblem, budget: float) -> tuple[Real, float]:
        """Amplitudes and receive scale.

        Raises
        ------
        PowerControlError
            A status other than ``optimal``.
        """
        wanted, weight_unit = problem.wanted, problem.weights.max()
        unit = without_peaks(problem, budget)[1]  # the scale's order of magnitude
        reach = np.where(wanted, problem.reach, 0.0)
        self._reach.value = reach * unit / weight_unit
        self._weights.value = problem.weights / weight_unit
        self._noise.value = math.sqrt(problem.noise_power) * unit / weight_unit
        inverse = np.divide(weight_unit, problem.magnitudes * unit, out=np.zeros_like(reach), where=wanted)
        self._spent.value = inverse / math.sqrt(budget)
        status = solve_checked(self._problem)
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r}")
        scale = float(self._scale.value) * unit
        arriving = np.maximum(self._arriving.value, 0.0) * weight_unit
        amplitudes = np.divide(arriving, scale * problem.magnitudes, out=np.zeros_like(reach), where=wanted)
        return np.minimum(amplitudes, problem.peaks), scale
