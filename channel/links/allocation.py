"""What the allocations of this room share: a choice of solver, constraints of the user's own, checked answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Literal, TypeVar

from channel.power.power_control import PowerControlError
from channel.power.quadratic_program import solve_checked

Constraint = Callable[..., Any]
"""Called with the variables of an allocation; returns a convex cvxpy constraint or a list of them."""

Solver = Literal["auto", "cvxpy", "closed-form"]

Program = TypeVar("Program")


class AllocationError(RuntimeError):
    """There is no allocation: all devices are in outage, a deadline or a constraint cannot be met, a solver failed."""


class Allocator:
    """Base of the allocations: closed form or cvxpy.

    Parameters
    ----------
    solver : {"auto", "cvxpy", "closed-form"}
        ``auto``: cvxpy where there are constraints, the closed form else. A cvxpy problem is built once per number of
        devices, kept on this object and solved again with new parameters; its status is always checked.
    constraints : iterable of callables
        Each is called with the variables of the allocation and returns a convex cvxpy constraint or a list of them.
        They hold to the solver's 1e-8: bring one in very small units to order one.

    Raises
    ------
    ValueError
        Another solver, or constraints with ``solver="closed-form"``.
    TypeError
        A constraint that is not callable.
    """

    def __init__(self, solver: Solver = "auto", constraints: Iterable[Constraint] = ()) -> None:
        if solver not in ("auto", "cvxpy", "closed-form"):
            raise ValueError(f"solver is {solver!r}; accepted: 'auto', 'cvxpy', 'closed-form'")
        self.solver = solver
        self.constraints = tuple(constraints)
        if self.constraints and solver == "closed-form":
            raise ValueError("solver='closed-form' takes no constraints; use 'cvxpy' or 'auto' with them")
        for constraint in self.constraints:
            if not callable(constraint):
                raise TypeError(f"constraints holds a {type(constraint).__name__}; accepted: callables")
        self._programs: dict[int, Any] = {}

    @property
    def by_closed_form(self) -> bool:
        """Whether no solver is needed."""
        return self.solver == "closed-form" or (self.solver == "auto" and not self.constraints)

    def _program(self, devices: int, build: Callable[[int, tuple[Constraint, ...]], Program]) -> Program:
        if devices not in self._programs:
            self._programs[devices] = build(devices, self.constraints)
        program: Program = self._programs[devices]
        return program

    def __repr__(self) -> str:
        return f"{type(self).__name__}(solver={self.solver!r}, constraints={self.constraints!r})"


def solve_or_raise(problem: Any) -> None:
    """Solve a cvxpy problem with Clarabel.

    Raises
    ------
    AllocationError
        The status is not ``optimal``.
    """
    try:
        status = solve_checked(problem)
    except PowerControlError as error:
        raise AllocationError(str(error)) from error
    if status.startswith("infeasible"):
        raise AllocationError(f"cvxpy ended with status {status!r}: the constraints cannot be met together; relax one")
    if status != "optimal":
        raise AllocationError(f"cvxpy ended with status {status!r}; check the scale of the constraints")


def cvxpy() -> Any:
    """The module, imported with the first problem."""
    return import_module("cvxpy")
