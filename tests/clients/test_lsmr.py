"""LSMR with a symmetric operator is LSMR on the stack [H; damping I], without the stack."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.krylov import Stopped, lsmr
from tests.clients.symmetric_systems import DenseOperator, distinct, indefinite, relative_error, with_spectrum


def stacked(matrix: np.ndarray, damping: float) -> np.ndarray:
    return np.vstack([matrix, damping * np.eye(len(matrix))])


@pytest.mark.parametrize("damping", [0.0, 1e-6, 0.1, 3.0])
@pytest.mark.parametrize("nullity", [0, 12])
@pytest.mark.parametrize("steps", range(1, 9))
def test_iterates_are_those_of_scipy_on_the_stack(damping: float, nullity: int, steps: int) -> None:
    """The first steps: rounding in the Golub-Kahan vectors has not grown past 1e-10 yet."""
    system = with_spectrum(indefinite(60, nullity, 1), 1)
    solution = lsmr(system.operator, system.rhs, damping=damping, tolerance=0.0, maximum_iterations=steps)
    reference = scipy.sparse.linalg.lsmr(
        stacked(system.matrix, damping), np.r_[system.b, np.zeros(60)], atol=0, btol=0, conlim=0, maxiter=steps
    )
    assert solution.iterations == reference[2] == steps
    assert relative_error(solution.x, reference[0]) < 1e-10
    assert solution.relative_residual == pytest.approx(reference[3] / np.linalg.norm(system.b), rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 20, 120, 300])
@pytest.mark.parametrize("damping", [1e-6, 0.1, 1.0])
def test_converges_to_the_damped_least_squares_solution(n: int, damping: float) -> None:
    """Sizes of eigenvalues from 1 to 10: the squared condition is 100, and 1e-8 leaves six digits for rounding."""
    system = with_spectrum(indefinite(n, 0, 2), 2)
    solution = lsmr(system.operator, system.rhs, damping=damping, tolerance=0.0, maximum_iterations=2000)
    expected = np.linalg.lstsq(stacked(system.matrix, damping), np.r_[system.b, np.zeros(n)], rcond=None)[0]
    assert relative_error(solution.x, expected) < 1e-8


@pytest.mark.parametrize("n", [20, 120, 300])
@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_a_singular_inconsistent_system_gets_the_pseudo_inverse(n: int, damping: float) -> None:
    """Iterates lie in the range of H. Damping 1e-6 against eigenvalues of at least 1 moves x by 1e-12."""
    system = with_spectrum(indefinite(n, n // 4, 3), 3)
    solution = lsmr(system.operator, system.rhs, damping=damping, tolerance=0.0, maximum_iterations=2000)
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8
    null_space = system.basis[:, system.eigenvalues == 0]
    assert np.linalg.norm(null_space.T @ solution.x.numpy()) < 1e-8 * np.linalg.norm(solution.x)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True),
    copies=st.integers(1, 5),
    damping=st.sampled_from([0.0, 1e-6, 0.5]),
    seed=st.integers(0, 1000),
)
def test_as_many_steps_as_distinct_sizes_of_eigenvalues_are_exact(
    sizes: list[int], copies: int, damping: float, seed: int
) -> None:
    """The Krylov space is that of H squared: eigenvalues of the two signs count once, and 0 not at all."""
    values = [0.0, *(sign * size for size in sizes for sign in (1.0, -1.0))]
    system = with_spectrum(distinct(values, copies * len(values)), seed)
    solution = lsmr(system.operator, system.rhs, damping=damping, tolerance=0.0, maximum_iterations=len(sizes))
    weights = system.eigenvalues / np.where(system.eigenvalues == 0, 1.0, system.eigenvalues**2 + damping**2)
    assert relative_error(solution.x, system.basis @ (weights * (system.basis.T @ system.b))) < 1e-8


@settings(max_examples=20, deadline=None)
@given(exponent=st.integers(-30, 30), b_exponent=st.integers(-30, 30), seed=st.integers(0, 100))
def test_scaling_operator_damping_and_right_hand_side_scales_the_solution(
    exponent: int, b_exponent: int, seed: int
) -> None:
    """Powers of two round the same, so only the order of the host's operations is left."""
    system = with_spectrum(indefinite(30, 6, seed), seed)
    a, c = 2.0**exponent, 2.0**b_exponent
    plain = lsmr(system.operator, system.rhs, damping=0.3, maximum_iterations=8)
    scaled = lsmr(DenseOperator(system.operator.matrix * a), system.rhs * c, damping=0.3 * a, maximum_iterations=8)
    assert scaled.stopped == plain.stopped
    assert relative_error(scaled.x * (a / c), plain.x.numpy()) < 1e-12


def test_stops_when_the_stacked_residual_is_within_the_tolerance() -> None:
    system = with_spectrum(indefinite(60, 0, 4), 4)
    solution = lsmr(system.operator, system.rhs, damping=1e-6, tolerance=1e-4, maximum_iterations=500)
    before = lsmr(system.operator, system.rhs, damping=1e-6, tolerance=0.0, maximum_iterations=solution.iterations - 1)
    residual = np.r_[system.b, np.zeros(60)] - stacked(system.matrix, 1e-6) @ solution.x.numpy()
    assert solution.stopped is Stopped.RESIDUAL
    assert np.linalg.norm(residual) / np.linalg.norm(system.b) == pytest.approx(solution.relative_residual, rel=1e-6)
    assert solution.relative_residual <= 1e-4 < before.relative_residual


@pytest.mark.parametrize("limit", [0, 1, 2, 7])
def test_a_right_hand_side_out_of_range_takes_all_iterations_at_two_products_each(limit: int) -> None:
    system = with_spectrum(indefinite(60, 12, 4), 4)
    operator = system.operator
    solution = lsmr(operator, system.rhs, damping=1e-6, maximum_iterations=limit)
    assert solution.stopped is Stopped.MAXIMUM_ITERATIONS
    assert solution.iterations == limit
    assert operator.products == solution.applications == 2 * limit + 1


def test_stops_at_rounding_level_of_the_normal_equations() -> None:
    system = with_spectrum(indefinite(60, 12, 4), 4)
    solution = lsmr(system.operator, system.rhs, tolerance=0.0, maximum_iterations=2000)
    assert solution.stopped is Stopped.LEAST_SQUARES_PRECISION


def test_float32_solves_to_eps_times_the_condition_of_the_stack() -> None:
    """A residual that does not vanish brings in the square of the condition, here 10; 10 for growth over the steps."""
    system = with_spectrum(indefinite(60, 12, 4), 4)
    operator = DenseOperator(system.operator.matrix.float())
    solution = lsmr(operator, system.rhs.float(), tolerance=0.0, maximum_iterations=500)
    assert solution.x.dtype is torch.float32
    assert relative_error(solution.x, system.minimum_length_solution) < 10 * torch.finfo().eps * 10**2


@pytest.mark.parametrize("b", [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
def test_nothing_to_reach_is_solved_by_zero(b: list[float]) -> None:
    operator = DenseOperator(torch.diag(torch.tensor([1.0, 2.0, 0.0])))
    solution = lsmr(operator, torch.tensor(b), damping=0.5)
    assert solution.stopped is Stopped.ZERO_SOLUTION
    assert not solution.x.any()
    assert solution.relative_residual == (1.0 if any(b) else 0.0)


def test_an_operator_may_return_its_argument() -> None:
    b = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(lsmr(lambda v: v, b, damping=1.0).x, b / 2)


def test_values_that_are_not_finite_end_the_solve() -> None:
    solution = lsmr(lambda v: torch.full_like(v, torch.inf), torch.ones(3))
    assert solution.stopped is Stopped.NOT_FINITE
    assert not solution.x.any()


def test_a_negative_damping_is_refused() -> None:
    with pytest.raises(ValueError, match="damping must be at least 0, not -1"):
        lsmr(lambda v: v, torch.ones(2), damping=-1.0)
