"""Symmetric matrices of a chosen spectrum, and right-hand sides, for tests of Krylov solvers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class DenseOperator:
    """v ↦ A v, counting the products."""

    matrix: Tensor
    products: int = field(default=0)

    def __call__(self, v: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ v


@dataclass(frozen=True)
class System:
    """A symmetric matrix with its eigenvectors, and a vector b."""

    matrix: NDArray[np.float64]
    basis: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    b: NDArray[np.float64]

    @property
    def operator(self) -> DenseOperator:
        return DenseOperator(torch.from_numpy(self.matrix))

    @property
    def rhs(self) -> Tensor:
        return torch.from_numpy(self.b)

    @property
    def minimum_length_solution(self) -> NDArray[np.float64]:
        """A^+ b from the spectrum the matrix was built of: no numerical rank is guessed."""
        inverse = np.divide(1.0, self.eigenvalues, out=np.zeros_like(self.eigenvalues), where=self.eigenvalues != 0)
        solution: NDArray[np.float64] = self.basis @ (inverse * (self.basis.T @ self.b))
        return solution


def with_spectrum(eigenvalues: NDArray[np.float64], seed: int, consistent: bool = False) -> System:
    """A = U diag(eigenvalues) U^T with U uniform over the orthogonal group; b normal, or A times that if consistent."""
    draws = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(draws.normal(size=(len(eigenvalues), len(eigenvalues))))
    matrix = (basis * eigenvalues) @ basis.T
    matrix = (matrix + matrix.T) / 2
    b = draws.normal(size=len(eigenvalues))
    return System(matrix, basis, eigenvalues, matrix @ b if consistent else b)


def indefinite(n: int, nullity: int, seed: int) -> NDArray[np.float64]:
    """Eigenvalues of both signs, sizes evenly from 1 to 10, the first `nullity` 0: condition 10 on the range."""
    sizes = np.linspace(1.0, 10.0, n) * np.random.default_rng(seed).choice([-1.0, 1.0], n)
    sizes[:nullity] = 0.0
    return sizes


def distinct(values: list[float], n: int) -> NDArray[np.float64]:
    """The given eigenvalues, repeated in turn to fill n places."""
    return np.resize(np.array(values), n)


def relative_error(x: Tensor, expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(x.double().numpy() - expected) / np.linalg.norm(expected))
