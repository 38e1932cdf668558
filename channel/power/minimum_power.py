"""Power control that spends as little as an error allows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from channel.power.closed_form import optimal_receive_scale
from channel.power.constrained import Constraint
from channel.power.last_good import LastGood
from channel.power.least_power import least_power
from channel.power.least_power_program import LeastPowerProgram
from channel.power.minimum_mse import MinimumMSE
from channel.power.power_control import AllocationProblem, PowerControl, PowerControlError, Real

Solution = tuple[Real, float] | tuple[Real, float, str]
ROUNDING = 1e-9  # of the error: a target this close to the best reachable is that one


class MinimumPower(PowerControl):
    r"""Minimise :math:`\sum_i b_i^2` subject to :math:`MSE \le \epsilon` and :math:`b_i \le \sqrt{P_i}`.

    :math:`\epsilon` is ``mse`` times ||w||^2, the error when nobody sends: the weights scale with the norms of the
    updates, which shrink during a run, so an absolute error would mean something else in every exchange. Strong and
    weak devices spend less than moderate ones: the former need little, the latter are not worth it. Without noise any
    power reaches any error and there is no least one; the optimum of equation 1a is taken, with a warning. Equation 1d
    of docs/equations.md.

    Parameters
    ----------
    mse : float
        Largest error relative to ||w||^2, in (0, 1).
    infeasible : {"error", "least-error"}
        What to do where the limits leave the target out of reach: raise, or send with the least error
        (:class:`~channel.power.minimum_mse.MinimumMSE`) and a warning in the allocation.
    solver : {"auto", "cvxpy", "closed-form"}
        ``auto`` is the closed form, and cvxpy with constraints. The cvxpy problem is built once per number of devices
        and re-solved with new parameters.
    constraints : iterable of callables
        As those of :class:`~channel.power.minimum_mse.MinimumMSE`.

    Raises
    ------
    ValueError
        A parameter outside the above, or constraints with ``solver="closed-form"``.
    PowerControlError
        At :meth:`allocate`: the target is out of reach (the message says what is the best). A solver that fails is
        replaced by the closed form with a warning; with constraints by the last allocation it found for the same
        devices and limits, with a warning, and raises if there is none.
    """

    name = "minimum-power"

    def __init__(
        self,
        mse: float = 0.1,
        infeasible: Literal["error", "least-error"] = "error",
        solver: Literal["auto", "cvxpy", "closed-form"] = "auto",
        constraints: Iterable[Constraint] = (),
    ) -> None:
        if not 0.0 < mse < 1.0:
            raise ValueError(f"mse is {mse!r}; accepted: 0 < mse < 1, the error relative to that of hearing nobody")
        if infeasible not in ("error", "least-error"):
            raise ValueError(f"infeasible is {infeasible!r}; accepted: 'error', 'least-error'")
        if solver not in ("auto", "cvxpy", "closed-form"):
            raise ValueError(f"solver is {solver!r}; accepted: 'auto', 'cvxpy', 'closed-form'")
        self._least_error = MinimumMSE(solver, constraints)
        self.constraints = self._least_error.constraints
        self.mse = mse
        self.infeasible: Literal["error", "least-error"] = infeasible
        self.solver: Literal["auto", "cvxpy", "closed-form"] = solver
        self._programs: dict[int, LeastPowerProgram] = {}
        self._last = LastGood()

    def _solve(self, problem: AllocationProblem) -> Solution:
        error = self.mse * float(problem.weights @ problem.weights)
        if problem.noise_power == 0.0:
            return self._without_noise(problem, error)
        best = problem.mse(*self._unconstrained_best(problem))
        if best > error * (1.0 + ROUNDING):
            return self._out_of_reach(problem)
        error = max(error, best)
        if self.solver == "cvxpy" or self.constraints:
            return self._programmed(problem, error)
        return least_power(problem, error)

    def _unconstrained_best(self, problem: AllocationProblem) -> tuple[Real, float]:
        scale = optimal_receive_scale(problem)
        return problem.invert(scale, problem.wanted), scale

    def _best(self, problem: AllocationProblem) -> tuple[Real, float]:
        if not self.constraints:
            return self._unconstrained_best(problem)
        best = self._least_error.allocate(
            problem.magnitudes, problem.weights, problem.power_limits, problem.noise_power, problem.devices
        )
        return best.amplitudes, best.receive_scale

    def _without_noise(self, problem: AllocationProblem, error: float) -> Solution:
        amplitudes, scale = self._best(problem)
        if problem.mse(amplitudes, scale) > error * (1.0 + ROUNDING):
            return self._out_of_reach(problem)
        return amplitudes, scale, "without noise no power is the least; the least-error allocation was used"

    def _nobody_heard(self, problem: AllocationProblem) -> str:
        if not problem.weights.any():
            return ""
        message = f"mse is {self.mse:.6g}, but no device has both gain and power"
        if self.infeasible == "error":
            raise PowerControlError(f"{message}; accepted: infeasible='least-error' to leave such exchanges empty")
        return message

    def _out_of_reach(self, problem: AllocationProblem) -> Solution:
        amplitudes, scale = self._best(problem)
        reachable = problem.mse(amplitudes, scale) / float(problem.weights @ problem.weights)
        message = (
            f"mse is {self.mse:.6g}; accepted in this exchange: at least {reachable:.6g}, the best within the limits"
        )
        if self.infeasible == "error":
            raise PowerControlError(f"{message} (more power, or infeasible='least-error')")
        return amplitudes, scale, f"{message}; the least-error allocation was used"

    def _programmed(self, problem: AllocationProblem, error: float) -> Solution:
        devices = len(problem.weights)
        if devices not in self._programs:
            self._programs[devices] = LeastPowerProgram(devices, self.constraints)
        try:
            solution = self._programs[devices].solve(problem, error)
        except PowerControlError as failure:
            if self.constraints:
                return self._last.instead(problem, failure)
            return *least_power(problem, error), f"{failure}; the closed form was used"
        if solution is None:
            return self._out_of_reach(problem)
        self._last.keep(problem, *solution)
        return solution
