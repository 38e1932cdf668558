"""Power control of least error: a cvxpy problem, with its closed form as the fast path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from channel.power.closed_form import optimal_receive_scale
from channel.power.constrained import ConstrainedProgram, Constraint
from channel.power.last_good import LastGood
from channel.power.power_control import (
    AllocationProblem,
    ConstraintsInfeasible,
    PowerControl,
    PowerControlError,
    Real,
)
from channel.power.quadratic_program import QuadraticProgram

CVXPY_LIMIT = 300
"""Number of devices up to which ``solver="auto"`` asks cvxpy; a solve takes a few milliseconds there."""


class MinimumMSE(PowerControl):
    r"""Minimise :math:`\sum_i (a|h_i|b_i - w_i)^2 + \sigma^2 a^2` over a and :math:`0\le b_i\le\sqrt{P_i}`.

    Devices too weak for the common level send at full power, the others invert their channel. Without noise
    this is plain inversion. Equations 1a and 1e of docs/equations.md.

    Parameters
    ----------
    solver : {"auto", "cvxpy", "closed-form"}
        ``auto`` is cvxpy up to 300 devices and the closed form beyond. The cvxpy problem is built once per
        number of devices, kept on this object, and re-solved with new parameters; its status is always
        checked.
    constraints : iterable of callables
        Each is called with ``(amplitudes, receive_scale)`` and returns a convex cvxpy constraint or a list
        of them. ``amplitudes`` is a cvxpy expression of shape (K,), the b_i in sqrt(W); ``receive_scale``
        stands for a and can be bounded on either side (``<=``, ``>=``, ``==``) by a positive number; its
        ``inverse`` 1/a is an affine cvxpy expression and its ``expression`` a convex one. With constraints
        cvxpy solves for any K, by a few second-order cone programs. They hold to the solver's 1e-8 absolute:
        bring a constraint in very small units to order one, for example ``cp.sum_squares(b) / budget <= 1``.

    Raises
    ------
    ValueError
        Unknown solver, constraints with ``solver="closed-form"``; at :meth:`allocate`, a constraint that is
        not convex in cvxpy's rules.
    PowerControlError
        At :meth:`allocate`: constraints that cannot be met. A solver that fails is replaced by the closed form with a
        warning in the allocation; with constraints by the last allocation it found for the same devices and limits,
        with a warning, and raises if there is none.

    Examples
    --------
    A power budget of 2 W for all devices together:

    >>> import cvxpy
    >>> control = MinimumMSE(constraints=[lambda b, a: cvxpy.sum_squares(b) <= 2.0])
    >>> allocation = control.allocate([1.0, 0.5, 2.0], [1 / 3] * 3, 1.0, noise_power=0.1)
    >>> bool((allocation.amplitudes**2).sum() <= 2.0 + 1e-6)
    True
    """

    name = "minimum-mse"

    def __init__(
        self,
        solver: Literal["auto", "cvxpy", "closed-form"] = "auto",
        constraints: Iterable[Constraint] = (),
    ) -> None:
        if solver not in ("auto", "cvxpy", "closed-form"):
            raise ValueError(f"solver is {solver!r}; accepted: 'auto', 'cvxpy', 'closed-form'")
        self.solver = solver
        self.constraints = tuple(constraints)
        if self.constraints and solver == "closed-form":
            raise ValueError("solver='closed-form' takes no constraints; use 'cvxpy' or 'auto' with them")
        for constraint in self.constraints:
            if not callable(constraint):
                raise TypeError(
                    f"constraints holds a {type(constraint).__name__}; accepted: callables (amplitudes, "
                    "receive_scale) -> cvxpy constraint"
                )
        self._programs: dict[int, QuadraticProgram] = {}
        self._constrained: dict[int, ConstrainedProgram] = {}
        self._last = LastGood()

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float] | tuple[Real, float, str]:
        if self.constraints:
            return self._within_constraints(problem)
        by_formula = self.solver == "closed-form" or (self.solver == "auto" and len(problem.weights) > CVXPY_LIMIT)
        warning = ""
        if by_formula or problem.noise_power == 0.0:
            # Without noise every a above max w/c is optimal and a solver may return any; the formula inverts.
            receive_scale = optimal_receive_scale(problem)
        else:
            receive_scale, warning = self._programmed(problem)
        return problem.invert(receive_scale, problem.wanted), receive_scale, warning

    def _programmed(self, problem: AllocationProblem) -> tuple[float, str]:
        devices = len(problem.weights)
        if devices not in self._programs:
            self._programs[devices] = QuadraticProgram(devices)
        try:
            return self._programs[devices].solve(problem), ""
        except PowerControlError as failure:
            return optimal_receive_scale(problem), f"{failure}; the closed form was used"

    def _within_constraints(self, problem: AllocationProblem) -> tuple[Real, float] | tuple[Real, float, str]:
        devices = len(problem.weights)
        if devices not in self._constrained:
            self._constrained[devices] = ConstrainedProgram(devices, self.constraints)
        try:
            amplitudes, scale = self._constrained[devices].solve(problem)
        except ConstraintsInfeasible:
            raise
        except PowerControlError as failure:
            return self._last.instead(problem, failure)
        self._last.keep(problem, amplitudes, scale)
        return amplitudes, scale
