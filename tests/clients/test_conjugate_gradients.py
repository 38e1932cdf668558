"""Conjugate gradients solve positive definite systems and say when the system is not one."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.krylov import Stopped, conjugate_gradients
from tests.clients.symmetric_systems import DenseOperator, distinct, relative_error, with_spectrum


@pytest.mark.parametrize("n", [1, 2, 20, 120, 300])
def test_solves_a_positive_definite_system(n: int) -> None:
    """Condition 10: a relative residual of 1e-13 is an error of at most 1e-12."""
    system = with_spectrum(np.linspace(1.0, 10.0, n), 1)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=1e-13, maximum_iterations=1000)
    assert solution.stopped is Stopped.RESIDUAL
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8


def test_a_singular_consistent_system_gets_the_shortest_solution() -> None:
    system = with_spectrum(np.r_[np.zeros(15), np.linspace(1.0, 10.0, 45)], 2, consistent=True)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=1e-12, maximum_iterations=1000)
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8


@pytest.mark.parametrize("steps", range(1, 9))
def test_iterates_are_those_of_scipy(steps: int) -> None:
    """With all eigenvalues in [1, 2] the residual falls at every step, so the best iterate is the last."""
    system = with_spectrum(np.linspace(1.0, 2.0, 60), 3)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=steps)
    expected, _ = scipy.sparse.linalg.cg(system.matrix, system.b, rtol=1e-300, maxiter=steps)
    assert relative_error(solution.x, expected) < 1e-11


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(1, 12), min_size=1, max_size=6, unique=True),
    copies=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_as_many_steps_as_distinct_eigenvalues_are_exact(values: list[int], copies: int, seed: int) -> None:
    system = with_spectrum(distinct([float(value) for value in values], copies * len(values)), seed)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=len(values))
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8


def test_the_iterate_of_smallest_residual_is_returned() -> None:
    """Eigenvalues over six decades make the residual rise and fall; the best of the first k never gets worse in k."""
    system = with_spectrum(np.geomspace(1e-3, 1e3, 60), 4)
    solutions = [
        conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=k) for k in range(1, 30)
    ]
    true_residuals = [
        np.linalg.norm(system.b - system.matrix @ s.x.numpy()) / np.linalg.norm(system.b) for s in solutions
    ]
    best = [s.relative_residual for s in solutions]
    assert best == sorted(best, reverse=True)
    assert len(set(best)) < len(best)
    np.testing.assert_allclose(true_residuals, best, rtol=1e-6)


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_iterations_are_limited_and_each_costs_one_product(limit: int) -> None:
    system = with_spectrum(np.linspace(1.0, 10.0, 30), 5)
    operator = system.operator
    solution = conjugate_gradients(operator, system.rhs, tolerance=0.0, maximum_iterations=limit)
    assert solution.stopped is Stopped.MAXIMUM_ITERATIONS
    assert solution.iterations == operator.products == solution.applications == limit


def test_the_tolerance_bounds_the_relative_residual() -> None:
    system = with_spectrum(np.linspace(1.0, 10.0, 100), 6)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=1e-4)
    before = conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=solution.iterations - 1)
    assert solution.relative_residual <= 1e-4 < before.relative_residual


def test_negative_curvature_at_once_leaves_zero() -> None:
    solution = conjugate_gradients(lambda v: -v, torch.ones(3))
    assert solution.stopped is Stopped.NONPOSITIVE_CURVATURE
    assert not solution.x.any()
    assert (solution.iterations, solution.applications, solution.relative_residual) == (0, 1, 1.0)


def test_negative_curvature_later_returns_the_best_iterate_so_far() -> None:
    system = with_spectrum(np.r_[-0.01, np.linspace(1.0, 10.0, 39)], 7)
    solution = conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=200)
    before = conjugate_gradients(system.operator, system.rhs, tolerance=0.0, maximum_iterations=solution.iterations)
    assert solution.stopped is Stopped.NONPOSITIVE_CURVATURE
    assert solution.iterations > 0
    assert torch.equal(solution.x, before.x)


def test_a_right_hand_side_in_the_null_space_has_no_curvature() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([1.0, 0.0])))
    assert conjugate_gradients(operator, torch.tensor([0.0, 1.0])).stopped is Stopped.NONPOSITIVE_CURVATURE


def test_zero_is_solved_by_zero_without_a_product() -> None:
    solution = conjugate_gradients(lambda v: v, torch.zeros(3))
    assert (solution.stopped, solution.applications) == (Stopped.ZERO_SOLUTION, 0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_end_the_solve(bad: float) -> None:
    assert conjugate_gradients(lambda v: bad * v, torch.ones(3)).stopped is Stopped.NOT_FINITE
    assert conjugate_gradients(lambda v: v, torch.full((3,), bad)).stopped is Stopped.NOT_FINITE


def test_float32_solves_to_eps_times_the_condition() -> None:
    system = with_spectrum(np.geomspace(1.0, 1e3, 40), 8)
    operator = DenseOperator(system.operator.matrix.float())
    solution = conjugate_gradients(operator, system.rhs.float(), tolerance=1e-7, maximum_iterations=400)
    assert solution.x.dtype is torch.float32
    assert relative_error(solution.x, system.minimum_length_solution) < 10 * torch.finfo().eps * 1e3
