"""The least-error problem under peak limits as a parametrised quadratic program."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np

from channel.power.closed_form import stationarity
from channel.power.power_control import AllocationProblem, PowerControlError

STATIONARITY_TOLERANCE = 1e-6
STEP_FRACTIONS = (0.99, 0.9, 0.7)  # the first is Clarabel's default


class QuadraticProgram:
    r"""Minimise :math:`||v - w||^2 + (\sigma a)^2` subject to :math:`0 \le v \le c\,a`.

    :math:`v_i = a|h_i|b_i` is what arrives of device i. Equation 1e of docs/equations.md. c, w and sigma are
    cvxpy parameters in which the problem is DPP, so it is compiled once and a new round only fills them in.
    Weights are in units of the largest, a in units of :math:`w\cdot c/(\sigma^2 + c\cdot c)`, which it is
    never below: gains of 1e-6 and noise of 1e-13 W look to the solver like any other numbers.

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
        self._scale = cp.Variable(nonneg=True)
        arriving = cp.Variable(devices, nonneg=True)
        objective = cp.sum_squares(arriving - self._weights) + cp.square(self._noise * self._scale)
        limits = [arriving <= cp.multiply(self._reach, self._scale)]
        self._problem = cp.Problem(cp.Minimize(objective), limits)

    def solve(self, problem: AllocationProblem) -> float:
        """The optimal receive scale a.

        Raises
        ------
        PowerControlError
            Neither ``optimal`` nor, where the solver calls its answer inaccurate, stationary to 1e-6 of
            ||w||^2.
        """
        reach, weights, weight_unit = problem.reach, problem.weights, problem.weights.max()
        unit = float(weights @ reach) / (problem.noise_power + float(reach @ reach))
        self._reach.value = reach * unit / weight_unit
        self._weights.value = weights / weight_unit
        self._noise.value = np.sqrt(problem.noise_power) * unit / weight_unit
        status = solve_checked(self._problem)
        if status not in ("optimal", "optimal_inaccurate"):
            raise PowerControlError(f"cvxpy ended with status {status!r}")
        receive_scale = float(self._scale.value) * unit
        if status == "optimal_inaccurate" and stationarity(problem, receive_scale) > STATIONARITY_TOLERANCE:
            raise PowerControlError(f"cvxpy ended with status {status!r} and the answer is not stationary")
        return receive_scale


def solve_checked(problem: Any) -> str:
    """Solve a cvxpy problem with Clarabel and return its status.

    About one problem in a thousand stalls at Clarabel's default step length and is solved with shorter steps.

    Raises
    ------
    PowerControlError
        Clarabel gave up with an exception.
    """
    cp: Any = import_module("cvxpy")
    for step_fraction in STEP_FRACTIONS:
        try:
            with warnings.catch_warnings():
                # cvxpy warns of an inaccurate answer, which the status says and the caller judges; and of a
                # user's constraint that is convex but not DPP, which is slower, not wrong.
                warnings.simplefilter("ignore", UserWarning)
                # warm_start would keep the scaling of the first problem solved, and the last digits with it: an answer
                # shall not depend on what was asked before. The compiled problem is kept either way.
                problem.solve(solver=cp.CLARABEL, max_step_fraction=step_fraction, warm_start=False)
        except cp.error.SolverError as error:
            if step_fraction == STEP_FRACTIONS[-1]:
                raise PowerControlError(f"Clarabel failed: {error}") from error
            continue
        if str(problem.status) in ("optimal", "infeasible", "unbounded"):
            break
    return str(problem.status)
