"""MINRES-QLP finds the minimum-length solution of symmetric systems, singular and inconsistent ones included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.krylov import Stopped, minres_qlp
from tests.clients.symmetric_systems import DenseOperator, distinct, indefinite, relative_error, with_spectrum

FEW = [-4.0, -1.5, 1.0, 2.0, 3.0, 6.0]
EXACT = {"tolerance": 1e-14, "maximum_iterations": 1000}


@pytest.mark.parametrize("n", [1, 2, 3, 20, 120, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_solves_a_nonsingular_indefinite_system(n: int, seed: int) -> None:
    """Condition 10, so a residual of 1e-14 (||A|| ||x|| + ||b||) leaves an error of a few 1e-13."""
    system = with_spectrum(indefinite(n, 0, seed), seed)
    solution = minres_qlp(system.operator, system.rhs, **EXACT)
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8


@pytest.mark.parametrize("n", [5, 20, 120, 300])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_singular_consistent_system_gets_the_shortest_solution(n: int, seed: int) -> None:
    """b lies in the range, so no iterate leaves it but by rounding."""
    system = with_spectrum(indefinite(n, n // 4, seed), seed, consistent=True)
    solution = minres_qlp(system.operator, system.rhs, **EXACT)
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8
    null_space = system.basis[:, system.eigenvalues == 0]
    assert np.linalg.norm(null_space.T @ solution.x.numpy()) < 1e-8 * np.linalg.norm(solution.x)


@pytest.mark.parametrize("n", [12, 60, 300])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_a_singular_inconsistent_system_gets_the_pseudo_inverse(n: int, scale: float) -> None:
    """Seven well separated eigenvalues, 0 among them: gamma drops to 0 at the seventh step, as in exact arithmetic."""
    system = with_spectrum(distinct([0.0, *FEW], n), seed=n)
    solution = minres_qlp(system.operator, system.rhs * scale, tolerance=0.0, condition_limit=1e8, norm_limit=math.inf)
    assert solution.iterations == 7
    assert relative_error(solution.x / scale, system.minimum_length_solution) < 1e-8


@pytest.mark.parametrize("n", [60, 200, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_singular_inconsistent_system_gets_the_pseudo_inverse_to_the_root_of_eps(n: int, seed: int) -> None:
    """The null space is left out to 1/c and rounding adds c eps, so c = 1e8 is best: 1e-8 times the condition of 10."""
    system = with_spectrum(indefinite(n, n // 5, seed), seed)
    solution = minres_qlp(
        system.operator, system.rhs, tolerance=0.0, condition_limit=1e8, norm_limit=math.inf, maximum_iterations=n
    )
    assert solution.stopped is Stopped.CONDITION_LIMIT
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-7


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("nullity", [0, 10])
def test_iterates_are_those_of_minres(steps: int, nullity: int) -> None:
    """The first steps: rounding in the Lanczos vectors has not grown past 1e-11 yet."""
    system = with_spectrum(indefinite(60, nullity, 5), 5, consistent=nullity > 0)
    solution = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=steps)
    expected, _ = scipy.sparse.linalg.minres(system.matrix, system.b, rtol=1e-300, maxiter=steps)
    assert solution.iterations == steps
    assert relative_error(solution.x, expected) < 1e-11


def test_agrees_with_minres_of_scipy_at_convergence() -> None:
    system = with_spectrum(indefinite(200, 0, 7), 7)
    expected, failed = scipy.sparse.linalg.minres(system.matrix, system.b, rtol=1e-14, maxiter=2000)
    assert not failed
    assert relative_error(minres_qlp(system.operator, system.rhs, **EXACT).x, expected) < 1e-8


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.integers(1, 12).flatmap(lambda size: st.sampled_from([float(size), -float(size)])),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    copies=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_as_many_steps_as_distinct_eigenvalues_are_exact(values: list[float], copies: int, seed: int) -> None:
    """Integer eigenvalues are at least 1 apart and within 12: Lanczos loses few digits in so few steps."""
    system = with_spectrum(distinct(values, copies * len(values)), seed)
    solution = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=len(values))
    assert relative_error(solution.x, system.minimum_length_solution) < 1e-8


@settings(max_examples=30, deadline=None)
@given(
    exponent=st.integers(-40, 40),
    b_exponent=st.integers(-40, 40),
    steps=st.integers(1, 8),
    nullity=st.sampled_from([0, 6]),
    seed=st.integers(0, 100),
)
def test_scaling_by_powers_of_two_is_exact(exponent: int, b_exponent: int, steps: int, nullity: int, seed: int) -> None:
    """(a A) x = c b is solved by c/a times the solution, with the same steps: powers of two round the same, but for
    the host's square roots and divisions, which are exact to scale as well.
    """
    system = with_spectrum(indefinite(30, nullity, seed), seed)
    limits = {"tolerance": 1e-3, "maximum_iterations": steps, "norm_limit": math.inf}
    plain = minres_qlp(system.operator, system.rhs, **limits)
    a, c = 2.0**exponent, 2.0**b_exponent
    scaled = minres_qlp(DenseOperator(system.operator.matrix * a), system.rhs * c, **limits)
    assert (scaled.iterations, scaled.stopped) == (plain.iterations, plain.stopped)
    assert relative_error(scaled.x * (a / c), plain.x.numpy()) < 1e-12


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), steps=st.integers(1, 6))
def test_an_orthogonal_change_of_basis_turns_the_solution(seed: int, steps: int) -> None:
    system = with_spectrum(indefinite(25, 5, seed), seed)
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(seed + 1).normal(size=(25, 25)))[0])
    turned_operator = DenseOperator(turn @ system.operator.matrix @ turn.T)
    plain = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=steps)
    turned = minres_qlp(turned_operator, turn @ system.rhs, tolerance=0.0, maximum_iterations=steps)
    assert relative_error(turned.x, (turn @ plain.x).numpy()) < 1e-9


@pytest.mark.parametrize("condition", [1.0e1, 1.0e3])
def test_float32_solves_to_eps_times_the_condition(condition: float) -> None:
    """Error at most a small multiple of eps cond(A); 10 covers the growth over the steps taken."""
    eigenvalues = np.geomspace(1.0, condition, 40) * np.resize([1.0, -1.0], 40)
    system = with_spectrum(eigenvalues, 3)
    operator = DenseOperator(system.operator.matrix.float())
    solution = minres_qlp(operator, system.rhs.float(), tolerance=0.0, maximum_iterations=400)
    assert solution.x.dtype is torch.float32
    assert relative_error(solution.x, system.minimum_length_solution) < 10 * torch.finfo().eps * condition


@pytest.mark.parametrize("nullity", [0, 12])
@pytest.mark.parametrize("steps", [1, 2, 3, 6, 10])
def test_the_reported_residual_is_the_true_one(nullity: int, steps: int) -> None:
    system = with_spectrum(indefinite(60, nullity, 2), 2)
    solution = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=steps)
    residual = np.linalg.norm(system.b - system.matrix @ solution.x.numpy()) / np.linalg.norm(system.b)
    assert solution.relative_residual == pytest.approx(residual, rel=1e-10)


@pytest.mark.parametrize("limit", [0, 1, 2, 7])
def test_iterations_are_limited_and_each_costs_one_product(limit: int) -> None:
    system = with_spectrum(indefinite(50, 0, 1), 1)
    operator = system.operator
    solution = minres_qlp(operator, system.rhs, tolerance=0.0, maximum_iterations=limit)
    assert solution.stopped is Stopped.MAXIMUM_ITERATIONS
    assert solution.iterations == operator.products == solution.applications == limit


def test_the_tolerance_bounds_the_residual_against_norms_of_operator_and_solution() -> None:
    system = with_spectrum(indefinite(100, 0, 4), 4)
    solution = minres_qlp(system.operator, system.rhs, tolerance=1e-4, maximum_iterations=200)
    x = solution.x.numpy()
    residual = np.linalg.norm(system.b - system.matrix @ x)
    assert solution.stopped is Stopped.RESIDUAL
    # the solver's estimate of ||A|| is never more than ||A||, so its rule is at least as strict as this one
    assert residual <= 1e-4 * (10.0 * np.linalg.norm(x) + np.linalg.norm(system.b))


def test_an_inconsistent_system_stops_by_its_least_squares_residual() -> None:
    """The rule holds for the iterate before, and the residual cannot rise, so it holds for the normal equations."""
    system = with_spectrum(indefinite(100, 20, 4), 4)
    solution = minres_qlp(system.operator, system.rhs, tolerance=1e-3)
    assert solution.stopped is Stopped.LEAST_SQUARES
    smallest = np.linalg.norm(system.basis[:, system.eigenvalues == 0].T @ system.b) / np.linalg.norm(system.b)
    assert smallest <= solution.relative_residual <= smallest * (1 + 1e-4)


@pytest.mark.parametrize("limit", [3.0, 0.5, 1e-3])
def test_residual_limit_stops_at_the_first_step_within_it(limit: float) -> None:
    system = with_spectrum(indefinite(80, 0, 6), 6)
    solution = minres_qlp(system.operator, system.rhs, tolerance=0.0, residual_limit=limit, maximum_iterations=200)
    before = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=solution.iterations - 1)
    b_norm = np.linalg.norm(system.b)
    assert solution.stopped is Stopped.RESIDUAL_LIMIT
    assert solution.relative_residual * b_norm <= limit < before.relative_residual * b_norm


def test_a_right_hand_side_within_the_residual_limit_is_left_alone() -> None:
    system = with_spectrum(indefinite(8, 0, 6), 6)
    operator = system.operator
    solution = minres_qlp(operator, system.rhs, residual_limit=1e3)
    assert solution.stopped is Stopped.RESIDUAL_LIMIT
    assert not solution.x.any()
    assert operator.products == 0
    assert solution.relative_residual == 1


@pytest.mark.parametrize("shift", [-0.5, 0.7, 30.0])
def test_shift_solves_the_shifted_system(shift: float) -> None:
    system = with_spectrum(indefinite(40, 8, 8), 8)
    shifted = DenseOperator(system.operator.matrix + shift * torch.eye(40, dtype=torch.float64))
    by_shift = minres_qlp(system.operator, system.rhs, shift=shift, **EXACT)
    by_matrix = minres_qlp(shifted, system.rhs, **EXACT)
    expected = np.linalg.solve(shifted.matrix.numpy(), system.b)
    assert relative_error(by_shift.x, expected) < 1e-8
    assert by_shift.iterations == pytest.approx(by_matrix.iterations, abs=1)


def test_a_shift_can_make_the_system_singular() -> None:
    system = with_spectrum(distinct(FEW, 30), 9)
    solution = minres_qlp(system.operator, system.rhs, shift=-3.0, tolerance=0.0, condition_limit=1e8)
    expected = np.linalg.pinv(system.matrix - 3.0 * np.eye(30), rcond=1e-10, hermitian=True) @ system.b
    assert relative_error(solution.x, expected) < 1e-8


def test_zero_is_solved_by_zero_without_a_product() -> None:
    operator = DenseOperator(torch.eye(4, dtype=torch.float64))
    solution = minres_qlp(operator, torch.zeros(4, dtype=torch.float64))
    assert solution.stopped is Stopped.ZERO_SOLUTION
    assert not solution.x.any()
    assert operator.products == 0


def test_an_eigenvector_is_divided_by_its_eigenvalue() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([-4.0, 2.0, 0.0])))
    solution = minres_qlp(operator, torch.tensor([3.0, 0.0, 0.0]))
    assert solution.stopped is Stopped.EIGENVECTOR
    assert solution.x.tolist() == [-0.75, 0.0, 0.0]


def test_a_right_hand_side_in_the_null_space_is_solved_by_zero() -> None:
    operator = DenseOperator(torch.diag(torch.tensor([-4.0, 2.0, 0.0])))
    solution = minres_qlp(operator, torch.tensor([0.0, 0.0, 5.0]))
    assert solution.stopped is Stopped.ZERO_SOLUTION
    assert solution.x.tolist() == [0.0, 0.0, 0.0]
    assert solution.relative_residual == 1


def test_no_step_exceeds_the_norm_limit() -> None:
    system = with_spectrum(indefinite(40, 0, 3), 3)
    solution = minres_qlp(system.operator, system.rhs, tolerance=0.0, norm_limit=0.5)
    residual = np.linalg.norm(system.b - system.matrix @ solution.x.numpy()) / np.linalg.norm(system.b)
    assert solution.stopped is Stopped.NORM_LIMIT
    assert np.linalg.norm(solution.x) <= 0.5
    assert solution.relative_residual == pytest.approx(residual, rel=1e-10)


def test_values_that_are_not_finite_end_the_solve_with_the_iterate_so_far() -> None:
    system = with_spectrum(indefinite(40, 0, 3), 3)
    operator = system.operator

    def breaks_at_the_fourth_product(v: torch.Tensor) -> torch.Tensor:
        return operator(v) if operator.products < 3 else torch.full_like(v, torch.nan)

    solution = minres_qlp(breaks_at_the_fourth_product, system.rhs, tolerance=0.0)
    expected = minres_qlp(system.operator, system.rhs, tolerance=0.0, maximum_iterations=3)
    assert solution.stopped is Stopped.NOT_FINITE
    assert torch.equal(solution.x, expected.x)


def test_an_operator_may_return_its_argument_or_track_gradients() -> None:
    b = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    torch.testing.assert_close(minres_qlp(lambda v: v, b).x, b.detach())
    weights = torch.tensor([1.0, 2.0, -3.0], requires_grad=True)
    solution = minres_qlp(lambda v: weights * v, b, tolerance=0.0)
    assert not solution.x.requires_grad
    torch.testing.assert_close(solution.x, (b / weights).detach())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tolerance": -1e-3}, "tolerance must be at least 0, not -0.001"),
        ({"tolerance": math.nan}, "tolerance must be at least 0, not nan"),
        ({"maximum_iterations": -1}, "maximum_iterations must be at least 0, not -1"),
        ({"norm_limit": -1.0}, "norm_limit"),
        ({"condition_limit": 0.5}, "condition_limit must be at least 1, not 0.5"),
        ({"residual_limit": -2.0}, "residual_limit"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(change: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        minres_qlp(lambda v: v, torch.ones(2), **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("b", [torch.ones(2, 2), torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.cfloat)])
def test_a_right_hand_side_that_is_not_a_real_vector_is_refused(b: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="b must be a vector of real floating point numbers"):
        minres_qlp(lambda v: v, b)
