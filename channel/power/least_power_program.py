"""The least power that reaches an error as a parametrised second-order cone program."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from channel.power.constrained import Constraint, ReceiveScale
from channel.power.least_power import without_peaks
from channel.power.power_control import AllocationProblem, PowerControlError, Real
from channel.power.quadratic_program import solve_checked
from channel.power.user_constraints import user_constraints

RELATIVE_ACCURACY = 1e-6  # of the error: an answer further above its target counts as a failed solve


class LeastPowerProgram:
    r"""Minimise :math:`\|b\|^2` over b and r = 1/a; in b and a the problem is not convex.

    .. math:: \|(|h| b - w r, \sigma)\| \le \sqrt\epsilon\,r, \qquad 0 \le b \le \sqrt P.

    DPP in h, w, sigma, the root of epsilon and the peaks; b and r are
    in units of the optimum without peaks, so that physical units do not reach the solver. Equation 1d of
    docs/equations.md.

    Parameters
    ----------
    devices : int
        K.
    constraints : sequence of callables
        See :class:`~channel.power.minimum_power.MinimumPower`.

    Raises
    ------
    ValueError
        A constraint that is not convex in cvxpy's rules, or not a constraint.
    """

    def __init__(self, devices: int, constraints: Sequence[Constraint] = ()) -> None:
        cp: Any = import_module("cvxpy")
        self._amplitudes = cp.Variable(devices, nonneg=True)
        self._inverse = cp.Variable(nonneg=True)
        self._gains = cp.Parameter(devices, nonneg=True)
        self._weights = cp.Parameter(devices, nonneg=True)
        self._noise = cp.Parameter(nonneg=True)
        self._root_error = cp.Parameter(nonneg=True)
        self._peaks = cp.Parameter(devices, nonneg=True)
        self._amplitude_unit = cp.Parameter(nonneg=True)
        self._inverse_unit = cp.Parameter(nonneg=True)
        gap = cp.multiply(self._gains, self._amplitudes) - self._weights * self._inverse
        error = cp.norm(cp.hstack([gap, self._noise])) <= self._root_error * self._inverse
        scale = ReceiveScale(self._inverse_unit * self._inverse)
        extra = user_constraints(constraints, self._amplitude_unit * self._amplitudes, scale)
        objective = cp.Minimize(cp.sum_squares(self._amplitudes))
        self._problem = cp.Problem(objective, [error, self._amplitudes <= self._peaks, *extra])

    def solve(self, problem: AllocationProblem, error: float) -> tuple[Real, float] | None:
        """Amplitudes and receive scale; None where the limits and constraints leave the error out of reach.

        Raises
        ------
        PowerControlError
            A status other than ``optimal`` or ``infeasible``, or an answer that misses the error.
        """
        amplitude_unit, inverse_unit = self._fill(problem, error)
        status = solve_checked(self._problem)
        if status == "infeasible":
            return None
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r}")
        amplitudes = np.clip(self._amplitudes.value * amplitude_unit, 0.0, np.where(problem.wanted, problem.peaks, 0.0))
        scale = 1.0 / (float(self._inverse.value) * inverse_unit)
        reached = problem.mse(amplitudes, scale)
        if not reached <= error * (1.0 + RELATIVE_ACCURACY):
            raise PowerControlError(f"cvxpy ended with status {status!r} at the error {reached:.6g}, not {error:.6g}")
        return amplitudes, scale

    def _fill(self, problem: AllocationProblem, error: float) -> tuple[float, float]:
        """Parameters, and the units of b and r."""
        free, scale = without_peaks(problem, error)
        amplitude_unit, inverse_unit = float(free.max()), 1.0 / scale
        if not np.isfinite(amplitude_unit):
            amplitude_unit = float(problem.peaks.max())
            inverse_unit = float((problem.reach / np.where(problem.wanted, problem.weights, np.inf)).max())
        weight_unit, arriving = problem.weights.max(), inverse_unit * problem.weights.max()
        self._gains.value = np.where(problem.wanted, problem.magnitudes, 0.0) * amplitude_unit / arriving
        self._weights.value = problem.weights / weight_unit
        self._noise.value = np.sqrt(problem.noise_power) / arriving
        self._root_error.value = np.sqrt(error) / weight_unit
        self._peaks.value = np.where(problem.wanted, problem.peaks, 0.0) / amplitude_unit
        self._amplitude_unit.value, self._inverse_unit.value = amplitude_unit, inverse_unit
        return amplitude_unit, inverse_unit
