"""Constraints that users add to an allocation in cvxpy's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def user_constraints(makers: Iterable[Callable[..., Any]], *variables: Any) -> list[Any]:
    """The constraints that the user's callables make of these variables.

    Raises
    ------
    ValueError
        One that is not a cvxpy constraint, or not convex in cvxpy's rules.
    """
    found: list[Any] = []
    for make in makers:
        made = make(*variables)
        for constraint in made if isinstance(made, list | tuple) else [made]:
            if not hasattr(constraint, "is_dcp"):
                raise ValueError(
                    f"the constraint {make} returned {constraint!r}; accepted: a cvxpy constraint or a list of them"
                )
            if not constraint.is_dcp():
                raise ValueError(
                    f"the constraint {constraint} is not convex in cvxpy's rules (DCP); bound convex expressions from "
                    "above and concave ones from below, for example cp.sum_squares(x) <= limit"
                )
            found.append(constraint)
    return found
