"""The least-error problem with constraints of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from channel.power.closed_form import optimal_receive_scale
from channel.power.power_control import AllocationProblem, ConstraintsInfeasible, PowerControlError, Real
from channel.power.quadratic_program import solve_checked
from channel.power.user_constraints import user_constraints

Constraint = Callable[[Any, Any], Any]
"""``(amplitudes, receive_scale) -> cvxpy constraint or list of them``."""

LARGEST_INVERSE = 1e3  # a below 1e-3 of the unconstrained optimum is silence: keeps every program bounded
NOISE_FLOOR = 1e-6  # relative to the optimum's arriving amplitude: without noise the scale would be undetermined
RELATIVE_TOLERANCE = 1e-8
MAXIMUM_PROGRAMS = 60


class ReceiveScale:
    """The receive scale a = 1/r as a constraint sees it; r is the affine expression the program works with.

    ``scale <= x``, ``scale >= x`` and ``scale == x`` are linear in r for a positive number x. ``inverse`` is
    r; ``expression`` is the convex 1/r for sums and products with cvxpy expressions.
    """

    __array_ufunc__ = None  # let `0.5 <= scale` with a NumPy number come here
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, inverse: Any) -> None:
        self.inverse = inverse

    @property
    def expression(self) -> Any:
        cp: Any = import_module("cvxpy")
        return cp.inv_pos(self.inverse)

    def __le__(self, bound: float) -> Any:
        return _positive(bound) * self.inverse >= 1

    def __ge__(self, bound: float) -> Any:
        return _positive(bound) * self.inverse <= 1

    def __eq__(self, bound: Any) -> Any:
        return _positive(bound) * self.inverse == 1


def _positive(bound: float) -> float:
    if not (isinstance(bound, int | float | np.number) and 0 < bound < np.inf):
        raise ValueError(
            f"receive_scale is compared with {bound!r}; accepted: a positive number (use "
            "receive_scale.inverse or receive_scale.expression in other constraints)"
        )
    return float(bound)


class ConstrainedProgram:
    r"""Minimise the error over amplitudes b and inverse scale r = 1/a under any convex constraints on b, r.

    In b and r the error :math:`||(|h| b - w r, \sigma)||^2/r^2` is the square of a convex function over a
    positive linear one, so Dinkelbach's method applies (Management Science 13(7), 1967): with :math:`F(t) =
    \min ||(|h|b - w r, \sigma)|| - t r`, the least root error is the t with F(t) = 0. Each F is a
    second-order cone program, DPP in h, w, sigma, P and t, and each answer gives the next t; it takes four
    or five. (Amplitudes times scale, the variables of the plain problem, would not keep a constraint on b
    convex.)

    Parameters
    ----------
    devices : int
        K.
    constraints : sequence of callables
        See :class:`~channel.power.minimum_mse.MinimumMSE`.

    Raises
    ------
    ValueError
        A constraint that is not convex in cvxpy's rules, or not a constraint.
    """

    def __init__(self, devices: int, constraints: Sequence[Constraint]) -> None:
        cp: Any = import_module("cvxpy")
        self._fractions = cp.Variable(devices, nonneg=True)  # b_i / sqrt(P_i)
        self._inverse = cp.Variable(nonneg=True)  # r over that of the unconstrained optimum
        self._reach = cp.Parameter(devices, nonneg=True)
        self._weights = cp.Parameter(devices, nonneg=True)
        self._noise = cp.Parameter(nonneg=True)
        self._root_error = cp.Parameter(nonneg=True)  # t
        self._peaks = cp.Parameter(devices, nonneg=True)
        self._inverse_unit = cp.Parameter(nonneg=True)
        gap = cp.multiply(self._reach, self._fractions) - self._weights * self._inverse
        self._distance = cp.norm(cp.hstack([gap, self._noise]))
        amplitudes = cp.multiply(self._peaks, self._fractions)
        scale = ReceiveScale(self._inverse_unit * self._inverse)
        extra = user_constraints(constraints, amplitudes, scale)
        limits = [self._fractions <= 1, self._inverse <= LARGEST_INVERSE, *extra]
        objective = cp.Minimize(self._distance - self._root_error * self._inverse)
        self._problem = cp.Problem(objective, limits)

    def solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        """Amplitudes and receive scale.

        Raises
        ------
        ConstraintsInfeasible
            The constraints contradict each other or the peak limits.
        PowerControlError
            The solver failed.
        """
        best_scale = optimal_receive_scale(problem)
        self._fill(problem, best_scale)
        silence = float(np.linalg.norm(self._weights.value))  # root error of hearing nobody
        low = np.sqrt(problem.mse(problem.invert(best_scale, problem.wanted), best_scale)) / problem.weights.max()
        high, t = np.inf, float(low)
        answer: tuple[Real, float] | None = None
        for _ in range(MAXIMUM_PROGRAMS):
            value, inverse, distance = self._least_gap(t)
            if value >= 0:
                low = max(low, t)
            if inverse > 1e-6 and distance / inverse < high:
                high = distance / inverse
                answer = self._fractions.value.copy(), inverse
            if high - low <= RELATIVE_TOLERANCE * high or abs(high - t) <= RELATIVE_TOLERANCE * t:
                break
            unbounded = inverse > 0.99 * LARGEST_INVERSE
            t = _next_root_error(float(low), high, silence, unbounded)
        if answer is None:
            raise ConstraintsInfeasible("no receive scale meets the constraints; relax those on receive_scale")
        fractions, inverse = answer
        amplitudes = np.clip(fractions, 0.0, 1.0) * self._peaks.value
        return amplitudes, best_scale / inverse

    def _fill(self, problem: AllocationProblem, best_scale: float) -> None:
        """Units: 1 is the largest weight and, for r, the unconstrained optimum."""
        wanted = problem.wanted
        unit = best_scale / problem.weights.max()
        self._peaks.value = np.where(wanted, problem.peaks, 0.0)
        self._reach.value = np.where(wanted, problem.reach, 0.0) * unit
        self._weights.value = problem.weights / problem.weights.max()
        self._noise.value = max(np.sqrt(problem.noise_power) * unit, NOISE_FLOOR)
        self._inverse_unit.value = 1.0 / best_scale

    def _least_gap(self, root_error: float) -> tuple[float, float, float]:
        """F(t), with the r and the distance where it is attained."""
        self._root_error.value = root_error
        status = solve_checked(self._problem)
        if status.startswith("infeasible"):
            raise ConstraintsInfeasible(
                f"cvxpy ended with status {status!r}: the constraints contradict each other or the power "
                "limits; relax one (a device without gain or power is held at amplitude 0)"
            )
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r}; check the scale of the constraints")
        return float(self._problem.value), float(self._inverse.value), float(self._distance.value)


def _next_root_error(low: float, high: float, silence: float, unbounded: bool) -> float:
    if high < silence or (np.isfinite(high) and not unbounded):
        return high  # Dinkelbach's step, quadratic from above
    if low < silence * (1 - 1e-6):
        return 0.5 * (low + silence)  # so far only hearing nobody is known to be possible
    return min(high, 2.0 * low)  # worse than silence: only where the constraints force a large scale
