"""The plan of a run's budget under constraints of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from channel.power.plan_problem import EXHAUSTED, PlanProblem
from channel.power.power_control import PowerControlError
from channel.power.quadratic_program import solve_checked
from channel.power.user_constraints import user_constraints
from channel.power.water_filling import Real, Whole

PlanConstraint = Callable[[Any, Any], Any]
"""``(uses, energies) -> cvxpy constraint or list of them``, both expressions of shape (T,)."""

ROUNDING = 1e-9  # of a constraint's size: less than a whole use in any budget, more than sums of numbers are off


class ConstrainedPlan:
    r"""Minimise :math:`\sum q_t/m_t + \sum r_t/E_t` by cvxpy under the budget, the limits and any convex constraints.

    The variables are shares of the closed form's answer, so that all are about one, whatever the units. Uses are
    divisible first. From the whole numbers just below, with energies solved for anew, one use after another then goes
    to the round where it saves most, as long as all constraints allow it.

    Parameters
    ----------
    problem : PlanProblem
        What is left to plan.
    constraints : sequence of callables
        See :class:`~channel.power.round_plan.RoundPlan`.
    """

    def __init__(self, problem: PlanProblem, constraints: Sequence[PlanConstraint]) -> None:
        self.problem = problem
        self.constraints = tuple(constraints)
        self._use_unit = problem.real_uses()
        energies = problem.energies()
        self._energy_unit = np.where(energies > 0, energies, (problem.energy or 1.0) / len(energies))
        self._audible = (energies > 0) & (problem.noise > 0)

    def solve(self) -> tuple[Whole, Real]:
        """Whole uses and energies, each of shape (R,).

        Raises
        ------
        PowerControlError
            Constraints that contradict each other or the budget, that no whole numbers near the real answer meet,
            or a solver status other than optimal.
        ValueError
            A constraint that is not convex in cvxpy's rules, or not a constraint.
        """
        real, real_energies = self.relaxed()
        start = self._rounded_down(real)
        energies = self._energies_for(start)
        if energies is None:
            start = self._repaired(start, real_energies)
            energies = self._energies_for(start)
        if energies is None:
            raise PowerControlError(
                f"cvxpy ended with status 'infeasible' for whole uses next to {np.round(real, 3)}; relax the "
                "constraints on uses by one use"
            )
        uses = self._topped_up(start, energies)
        final = self._energies_for(uses) if (uses != start).any() else energies
        return (start, energies) if final is None else (uses, final)

    def relaxed(self) -> tuple[Real, Real]:
        """The optimum with divisible uses, shape (R,), and energies, shape (R,)."""
        program = _Program(self, None)
        status = solve_checked(program.problem)
        if status.startswith("infeasible"):
            raise PowerControlError(
                f"cvxpy ended with status {status!r}: the constraints contradict each other, the budget or the limits; "
                "relax one"
            )
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r}; check the scale of the constraints")
        return program.uses_value, self._within_budget(program.energies_value)

    def _rounded_down(self, real: Real) -> Whole:
        uses: Whole = np.clip(np.floor(real + 1e-6), self.problem.lower, self.problem.upper).astype(np.int64)
        return uses

    def _repaired(self, start: Whole, energies: Real) -> Whole:
        """One use more where that meets the constraints best, until they hold or nothing helps or is left."""
        program, uses = _Program(self, None), start.copy()
        violation = program.violation(uses, energies)
        while violation > ROUNDING and uses.sum() < self.problem.uses:
            rounds = np.flatnonzero((uses == start) & (uses < self.problem.upper))
            raised = [program.violation(uses + (np.arange(len(uses)) == t), energies) for t in rounds]
            if not raised or min(raised) > violation - ROUNDING:
                break
            uses[rounds[int(np.argmin(raised))]] += 1
            violation = min(raised)
        return uses

    def _energies_for(self, uses: Whole) -> Real | None:
        """The best energies with these uses; None if the constraints allow none."""
        program = _Program(self, uses)
        status = solve_checked(program.problem)
        if status.startswith("infeasible"):
            return None
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r}; check the scale of the constraints")
        return self._within_budget(program.energies_value)

    def _topped_up(self, start: Whole, energies: Real) -> Whole:
        program, uses = _Program(self, None), start.copy()
        allowed = program.violation(uses, energies) + ROUNDING
        growing = uses < self.problem.upper
        while uses.sum() < self.problem.uses and growing.any():
            saved = np.where(growing, self.problem.compression / (uses * (uses + 1.0)), -np.inf)
            best = int(np.argmax(saved))
            uses[best] += 1
            if program.violation(uses, energies) > allowed:
                uses[best] -= 1
                growing[best] = False
            elif uses[best] == self.problem.upper[best]:
                growing[best] = False
        return uses

    def _within_budget(self, energies: Real) -> Real:
        """The solver's answer, less what it exceeds peaks and budget by (1e-8 at most)."""
        clipped = np.clip(energies, 0.0, self.problem.peaks)
        total = clipped.sum()
        limit = self.problem.energy * EXHAUSTED
        return clipped * (limit / total) if total > limit else clipped


class _Program:
    """The cvxpy problem, of uses and energies or, where uses are given, of energies alone."""

    def __init__(self, plan: ConstrainedPlan, uses: Whole | None) -> None:
        cp: Any = import_module("cvxpy")
        problem, rounds = plan.problem, len(plan.problem.noise)
        self._plan = plan
        self._uses = cp.Variable(rounds, nonneg=True) if uses is None else cp.Constant(uses / plan._use_unit)
        self._energies = cp.Variable(rounds, nonneg=True)
        m, e = cp.multiply(plan._use_unit, self._uses), cp.multiply(plan._energy_unit, self._energies)
        given = user_constraints(
            plan.constraints, cp.hstack([problem.spent_uses, m]), cp.hstack([problem.spent_energies, e])
        )
        self._energies.value = np.ones(rounds)
        if uses is None:
            self._uses.value = np.ones(rounds)
        self._given = [_of_order_one(constraint) for constraint in given]
        limits = self._energy_limits() if uses is not None else [*self._energy_limits(), *self._use_limits()]
        self.problem = cp.Problem(cp.Minimize(self._error(cp, uses is None)), [*limits, *self._given])

    def _error(self, cp: Any, choose_uses: bool) -> Any:
        """The objective in units of its value where all variables are 1."""
        plan, problem = self._plan, self._plan.problem
        noise = np.where(plan._audible, problem.noise / plan._energy_unit, 0.0)
        compression = problem.compression / plan._use_unit if choose_uses else np.zeros_like(noise)
        unit = float(noise.sum() + compression.sum()) or 1.0
        error = noise / unit @ cp.inv_pos(self._energies) if noise.any() else cp.Constant(0.0)
        return error + compression / unit @ cp.inv_pos(self._uses) if compression.any() else error

    def _energy_limits(self) -> list[Any]:
        unit, problem = self._plan._energy_unit, self._plan.problem
        limits = [unit / (problem.energy or 1.0) @ self._energies <= float(problem.energy > 0)]
        peaked = np.isfinite(problem.peaks)
        return [*limits, self._energies[peaked] <= (problem.peaks / unit)[peaked]] if peaked.any() else limits

    def _use_limits(self) -> list[Any]:
        unit, problem = self._plan._use_unit, self._plan.problem
        return [
            unit / problem.uses @ self._uses <= 1,
            self._uses >= problem.lower / unit,
            self._uses <= problem.upper / unit,
        ]

    @property
    def uses_value(self) -> Real:
        return np.asarray(self._uses.value) * self._plan._use_unit

    @property
    def energies_value(self) -> Real:
        return np.asarray(self._energies.value) * self._plan._energy_unit

    def violation(self, uses: Whole, energies: Real) -> float:
        """By how much these uses and energies break the user's constraints together; see :func:`_of_order_one`."""
        self._uses.value = uses / self._plan._use_unit
        self._energies.value = energies / self._plan._energy_unit
        return sum(float(np.sum(constraint.violation())) for constraint in self._given)


def _of_order_one(constraint: Any) -> Any:
    """An inequality or equation divided by what its sides are at the closed form's answer.

    The solver keeps constraints to 1e-8 in their own units, which may be picojoules.
    """
    cp: Any = import_module("cvxpy")
    if not isinstance(constraint, cp.constraints.Inequality | cp.constraints.Equality):
        return constraint
    left, right = (np.abs(np.asarray(side.value, dtype=np.float64)) for side in constraint.args)
    size = np.broadcast_to(np.maximum(left, right), constraint.shape)
    if not np.isfinite(size).all() or not size.any():
        return constraint
    gap = cp.multiply(1.0 / np.where(size > 0, size, size.max()), constraint.args[0] - constraint.args[1])
    return gap <= 0 if isinstance(constraint, cp.constraints.Inequality) else gap == 0
