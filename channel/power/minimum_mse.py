"""Power control of least error: a cvxpy problem, with its closed form as the fast path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from channel.power.closed_form import optimal_receive_scale
from channel.power.constrained import ConstrainedProgram, Constraint
from channel.power.power_control import AllocationProblem, PowerControl, Real
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
        At :meth:`allocate`: constraints that cannot be met, or a solver status other than optimal.

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

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        devices = len(problem.weights)
        if self.constraints:
            if devices not in self._constrained:
                self._constrained[devices] = ConstrainedProgram(devices, self.constraints)
            return self._constrained[devices].solve(problem)
        receive_scale = self._unconstrained_scale(problem, devices)
        return problem.invert(receive_scale, problem.wanted), receive_scale

    def _unconstrained_scale(self, problem: AllocationProblem, devices: int) -> float:
        by_formula = self.solver == "closed-form" or (self.solver == "auto" and devices > CVXPY_LIMIT)
        if by_formula or problem.noise_power == 0.0:
            # Without noise every a above max w/c is optimal and a solver may return any; the formula inverts.
            return optimal_receive_scale(problem)
        if devices not in self._programs:
            self._programs[devices] = QuadraticProgram(devices)
        return self._programs[devices].solve(problem)
