"""The linear system that a Krylov solver is given."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


class LinearSystem:
    """A symmetric operator and a right-hand side, checked, with the products counted.

    Parameters
    ----------
    operator : callable
        Maps a tensor of shape (d,) to one of the same shape, dtype and device. It may use automatic differentiation;
        what it returns is detached and never written into.
    b : Tensor of shape (d,)
        Right-hand side, real floating point.
    tolerance : float
        At least 0.
    maximum_iterations : int
        At least 0.

    Raises
    ------
    ValueError
        If b is not a real vector, or a limit is negative or not a number.
    """

    def __init__(self, operator: Operator, b: Tensor, tolerance: float, maximum_iterations: int) -> None:
        if b.ndim != 1 or not b.dtype.is_floating_point:
            raise ValueError(f"b must be a vector of real floating point numbers, not {b.dtype} of {tuple(b.shape)}")
        require_at_least(0, "tolerance", tolerance)
        require_at_least(0, "maximum_iterations", maximum_iterations)
        self.b = b.detach()
        self.applications = 0
        self._operator = operator

    def apply(self, v: Tensor) -> Tensor:
        """The operator times v."""
        self.applications += 1
        return self._operator(v).detach()

    def rounds_away(self, value: float) -> bool:
        """Whether 1 + value = 1 in the dtype of b: value is at most half of eps, the ties going to even."""
        return value <= torch.finfo(self.b.dtype).eps / 2


def require_at_least(least: float, name: str, value: float) -> None:
    """Raise a ValueError that names the argument unless it is a number of at least ``least``."""
    if math.isnan(value) or value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def norm(v: Tensor) -> float:
    """Euclidean norm, on the host."""
    return float(torch.linalg.vector_norm(v))


def dot(u: Tensor, v: Tensor) -> float:
    """Inner product, on the host."""
    return float(torch.dot(u, v))
