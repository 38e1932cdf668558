"""What a Krylov solver returns, and why it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor


class Stopped(StrEnum):
    """Why a solver stopped.

    The relative residual a tolerance is compared with differs by solver; each says which.
    """

    ZERO_SOLUTION = "the least-squares solution is zero"
    EIGENVECTOR = "the right-hand side is an eigenvector: solved in one step"
    RESIDUAL = "the residual is within the tolerance"
    RESIDUAL_LIMIT = "the residual is within the absolute limit"
    RESIDUAL_PRECISION = "the residual is at rounding level"
    LEAST_SQUARES = "the least-squares residual is within the tolerance"
    LEAST_SQUARES_PRECISION = "the least-squares residual is at rounding level"
    NULL_VECTOR = "the solution has grown so far that the right-hand side is lost in rounding"
    NORM_LIMIT = "the solution reached its norm limit"
    CONDITION_LIMIT = "the condition number reached its limit"
    SINGULAR = "the operator is singular to rounding: a least-squares solution, not yet converged"
    MAXIMUM_ITERATIONS = "the iterations are used up"
    NONPOSITIVE_CURVATURE = "a direction of zero or negative curvature was met"
    NOT_FINITE = "the operator returned values that are not finite"


@dataclass(frozen=True)
class Solution:
    r"""The outcome of a solve.

    Attributes
    ----------
    x : Tensor of shape (d,)
        The solution reached, in the dtype and on the device of b.
    iterations : int
        Steps taken.
    stopped : Stopped
        Why no further step was taken.
    relative_residual : float
        :math:`\|b - Ax\| / \|b\|` of the returned x as the solver's recurrences give it, so without a further
        product; 0 for b = 0.
    applications : int
        Products with the operator that the solve took.
    """

    x: Tensor
    iterations: int
    stopped: Stopped
    relative_residual: float
    applications: int
