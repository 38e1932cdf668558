"""Power control: closed form, cvxpy and brute force agree; the table of docs/equations.md comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import exp1

from channel.power import (
    POWER_CONTROLS,
    ChannelInversion,
    FullPower,
    MinimumMSE,
    PowerControl,
    PowerControlError,
    TruncatedInversion,
    minimum_mse,
    quadratic_program,
)

CLOSED_FORM = MinimumMSE("closed-form")
POLICIES: list[PowerControl] = [
    ChannelInversion(),
    TruncatedInversion(0.1),
    TruncatedInversion(0.1, average_power=True),
    TruncatedInversion(),
    FullPower(),
    FullPower("unbiased"),
    MinimumMSE(),
    CLOSED_FORM,
]
Vector = NDArray[np.float64]


def rayleigh(rng: np.random.Generator, devices: int) -> NDArray[np.complex128]:
    return (rng.standard_normal(devices) + 1j * rng.standard_normal(devices)) / np.sqrt(2)


def instance(rng: np.random.Generator, devices: int, equal: bool = False) -> tuple[NDArray[Any], Vector, Vector, float]:
    weights = np.full(devices, 1 / devices) if equal else rng.dirichlet(np.ones(devices))
    return (
        rayleigh(rng, devices),
        weights,
        10 ** rng.uniform(-1, 1, devices),
        float(10 ** rng.uniform(-3, 1)),
    )


def error(gains: NDArray[Any], weights: Vector, noise: float, amplitudes: Vector, scale: float) -> float:
    return float(np.sum((scale * np.abs(gains) * amplitudes - weights) ** 2) + noise * scale**2)


def test_cvxpy_finds_the_closed_form_on_a_thousand_instances() -> None:
    rng, solver = np.random.default_rng(0), MinimumMSE("cvxpy")
    for i in range(1000):
        given_ = instance(rng, int(rng.integers(2, 7)), equal=i % 2 == 0)
        solved, exact = solver.allocate(*given_), CLOSED_FORM.allocate(*given_)
        assert solved.mse == pytest.approx(exact.mse, rel=5e-8)  # 3e-8 over ten thousand
        # the error is flat at its minimum, so the scale itself is known to about the root of that
        assert solved.receive_scale == pytest.approx(exact.receive_scale, rel=1e-4)
        assert (solved.amplitudes**2 <= given_[2] * (1 + 1e-12)).all()


def test_no_general_optimiser_finds_a_smaller_error() -> None:
    rng = np.random.default_rng(1)
    for _ in range(6):
        gains, weights, limits, noise = instance(rng, 3)
        best = CLOSED_FORM.allocate(gains, weights, limits, noise)

        def objective(x: Vector, given_: Any = (gains, weights, noise)) -> float:
            return error(*given_, x[:-1], x[-1])

        bounds = [*((0.0, float(np.sqrt(p))) for p in limits), (0.0, None)]
        starts = [np.append(np.sqrt(limits) * share, scale) for share in (0.2, 1.0) for scale in (0.1, 1.0)]
        found = min(minimize(objective, x, bounds=bounds, tol=1e-12).fun for x in starts)
        assert best.mse <= found * (1 + 1e-6)
        assert found == pytest.approx(best.mse, rel=1e-3)  # L-BFGS-B stops a little short


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8), factor=st.floats(1e-3, 1e3))
def test_the_optimum_moves_with_the_units(seed: int, devices: int, factor: float) -> None:
    gains, weights, limits, noise = instance(np.random.default_rng(seed), devices)
    base = CLOSED_FORM.allocate(gains, weights, limits, noise)
    louder = CLOSED_FORM.allocate(gains, weights, factor * limits, factor * noise)
    assert louder.mse == pytest.approx(base.mse, rel=1e-9)
    np.testing.assert_allclose(louder.amplitudes, np.sqrt(factor) * base.amplitudes, rtol=1e-9)
    nearer = CLOSED_FORM.allocate(factor * gains, weights, limits, factor**2 * noise)
    assert nearer.mse == pytest.approx(base.mse, rel=1e-9)
    heavier = CLOSED_FORM.allocate(gains, factor * weights, limits, noise)
    assert heavier.mse == pytest.approx(factor**2 * base.mse, rel=1e-9)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_allocations_follow_the_order_of_the_devices(policy: PowerControl) -> None:
    rng = np.random.default_rng(3)
    gains, weights, limits, noise = instance(rng, 5)
    order = rng.permutation(5)
    straight = policy.allocate(gains, weights, limits, noise)
    permuted = policy.allocate(gains[order], weights[order], limits[order], noise)
    np.testing.assert_allclose(permuted.amplitudes, straight.amplitudes[order], rtol=1e-4, atol=1e-12)
    assert permuted.mse == pytest.approx(straight.mse, rel=1e-6)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 6))
def test_no_policy_beats_the_optimum_or_breaks_its_limit(policy: PowerControl, seed: int, devices: int) -> None:
    given_ = instance(np.random.default_rng(seed), devices)
    allocation = policy.allocate(*given_)
    gains, weights, limits, noise = given_
    assert (allocation.amplitudes >= 0).all()
    assert allocation.mse == pytest.approx(
        error(gains, weights, noise, allocation.amplitudes, allocation.receive_scale)
    )
    if not getattr(policy, "average_power", False):  # there the limit is on the average over the fading
        assert (allocation.amplitudes**2 <= limits * (1 + 1e-9)).all()
        assert allocation.mse >= CLOSED_FORM.allocate(*given_).mse * (1 - 1e-9)


def test_one_device_has_the_wiener_scale() -> None:
    for policy in (MinimumMSE("cvxpy"), CLOSED_FORM, FullPower()):
        allocation = policy.allocate([0.5j], [0.7], 4.0, 0.3)
        assert allocation.receive_scale == pytest.approx(0.7 * 1.0 / (0.3 + 1.0))
        np.testing.assert_allclose(allocation.amplitudes, [2.0])


@pytest.mark.parametrize("solver", ["cvxpy", "closed-form"])
def test_without_noise_the_optimum_is_inversion(solver: Any) -> None:
    gains, weights, limits, _ = instance(np.random.default_rng(4), 5)
    inversion = ChannelInversion().allocate(gains, weights, limits, 0.0)
    optimum = MinimumMSE(solver).allocate(gains, weights, limits, 0.0)
    assert inversion.mse == pytest.approx(0.0, abs=1e-20)
    assert optimum.receive_scale == pytest.approx(inversion.receive_scale)
    np.testing.assert_allclose(optimum.amplitudes, inversion.amplitudes)


def test_inversion_lets_the_weakest_device_set_the_level() -> None:
    allocation = ChannelInversion().allocate([1.0, 0.5], [0.5, 0.5], 1.0, 0.2)
    assert allocation.receive_scale == pytest.approx(1.0)
    np.testing.assert_allclose(allocation.amplitudes, [0.5, 1.0])
    assert allocation.mse == pytest.approx(0.2)


def test_average_power_truncation_spends_its_budget_over_rayleigh_fading() -> None:
    assert float(exp1(0.1)) == pytest.approx(1.8229, abs=5e-5)
    policy, rng, draws = TruncatedInversion(0.1, average_power=True), np.random.default_rng(5), 4000
    powers = np.zeros(5)
    silent = 0
    for _ in range(draws):
        amplitudes = policy.allocate(rayleigh(rng, 5), np.full(5, 0.2), 2.0, 1.0).amplitudes
        powers += amplitudes**2 / draws
        silent += int((amplitudes == 0).sum())
    # truncated at 10, 1/|h|^2 has a standard deviation of 2: .014 of the mean over 20,000 draws, taken 4 times
    assert powers.mean() == pytest.approx(2.0, rel=0.06)
    assert silent / (5 * draws) == pytest.approx(1 - np.exp(-0.1), abs=0.01)


def test_best_truncation_is_the_best_of_all_active_sets_it_may_choose() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        gains, weights, limits, noise = instance(rng, 6)
        need = np.sort(weights / (np.abs(gains) * np.sqrt(limits)))
        order = np.argsort(weights / (np.abs(gains) * np.sqrt(limits)))
        errors = [float(np.sum(weights[order[k:]] ** 2) + (noise * need[k - 1] ** 2 if k else 0.0)) for k in range(7)]
        assert TruncatedInversion().allocate(gains, weights, limits, noise).mse == pytest.approx(min(errors))


def test_unbiased_full_power_receives_weights_of_the_right_sum() -> None:
    gains, weights, limits, noise = instance(np.random.default_rng(7), 5)
    allocation = FullPower("unbiased").allocate(gains, weights, limits, noise)
    received = allocation.receive_scale * np.abs(gains) * allocation.amplitudes
    assert received.sum() == pytest.approx(weights.sum())


TABLE = {  # K^2 MSE at K = 20 of docs/equations.md, 1g: optimal, full power, truncated at .1, best truncation
    -10: (9.45, 9.49, 101.9, 19.5),
    0: (3.39, 4.83, 11.9, 7.25),
    10: (1.09, 4.18, 2.90, 2.07),
    20: (0.314, 4.07, 1.98, 0.486),
    30: (0.068, 4.09, 1.96, 0.088),
}


@pytest.mark.parametrize("snr_db", TABLE)
def test_the_table_of_policies_is_reproduced(snr_db: int) -> None:
    devices, draws = 20, 500
    policies = (CLOSED_FORM, FullPower(), TruncatedInversion(0.1), TruncatedInversion("best"))
    rng = np.random.default_rng(8)
    errors = np.array(
        [
            [
                policy.allocate(gains, np.full(devices, 1 / devices), 1.0, 10 ** (-snr_db / 10)).mse
                for policy in policies
            ]
            for gains in (rayleigh(rng, devices) for _ in range(draws))
        ]
    )
    means, spread = devices**2 * errors.mean(0), devices**2 * errors.std(0) / np.sqrt(draws)
    # the table's own 2,000 draws add half as much again, and its rounding up to half a unit of the third digit
    allowed = 3 * np.sqrt(1 + 1 / 4) * spread + 0.005 * np.array(TABLE[snr_db])
    assert (np.abs(means - TABLE[snr_db]) <= allowed).all(), (means, TABLE[snr_db])


# --- constraints ---------------------------------------------------------------------------------------------


def test_a_constraint_that_does_not_bind_leaves_the_optimum() -> None:
    rng, policy = np.random.default_rng(9), MinimumMSE(constraints=[lambda b, a: cp.sum(b) <= 1e3])
    for _ in range(60):
        given_ = instance(rng, 4)
        assert policy.allocate(*given_).mse == pytest.approx(CLOSED_FORM.allocate(*given_).mse, rel=1e-6)


def sum_power_optimum(gains: NDArray[Any], weights: Vector, limits: Vector, noise: float, total: float) -> float:
    """Equation 1e with a power budget for all devices, in the arriving amplitudes v = a |h| b."""
    magnitudes = np.abs(gains)
    arriving, scale = cp.Variable(len(weights), nonneg=True), cp.Variable(nonneg=True)
    problem = cp.Problem(
        cp.Minimize(cp.sum_squares(arriving - weights) + noise * cp.square(scale)),
        [
            arriving <= cp.multiply(magnitudes * np.sqrt(limits), scale),
            cp.norm(cp.multiply(arriving, 1 / magnitudes)) <= np.sqrt(total) * scale,
        ],
    )
    return float(problem.solve(solver=cp.CLARABEL))


@pytest.mark.parametrize("total", [1e-3, 0.1, 1.0])
def test_a_total_power_budget_gives_the_error_of_its_second_order_cone_program(total: float) -> None:
    rng = np.random.default_rng(10)
    policy = MinimumMSE(constraints=[lambda b, a: cp.sum_squares(b) <= total])
    for _ in range(6):
        gains, weights, limits, noise = instance(rng, 4)
        allocation = policy.allocate(gains, weights, limits, noise)
        assert np.sum(allocation.amplitudes**2) <= total + 1e-8  # the solver's absolute tolerance
        # two solvers' worth of 1e-8 of ||w||^2, on errors down to 1e-2 of it
        oracle = sum_power_optimum(gains, weights, limits, noise, total)
        assert allocation.mse == pytest.approx(oracle, rel=5e-6)


GAINS, WEIGHTS = np.array([1.0, 0.5, 2.0]), np.full(3, 1 / 3)  # the optimum at noise .1 has a = .476


@pytest.mark.parametrize(
    ("constraint", "scale"),
    [
        (lambda b, a: a <= 0.1, 0.1),
        (lambda b, a: np.float64(0.1) >= a, 0.1),
        (lambda b, a: a >= 5, 5.0),
        (lambda b, a: a == 0.3, 0.3),
        (lambda b, a: a.expression <= 0.2, 0.2),
        (lambda b, a: a.inverse == 4.0, 0.25),
        (lambda b, a: [a >= 0.6, b <= 1], 0.6),
    ],
)
def test_the_receive_scale_can_be_bounded_on_either_side(constraint: Callable[..., Any], scale: float) -> None:
    allocation = MinimumMSE(constraints=[constraint]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    assert allocation.receive_scale == pytest.approx(scale, rel=1e-5)
    best = np.minimum(1.0, WEIGHTS / (scale * GAINS))  # what is best at a given scale
    assert allocation.mse == pytest.approx(error(GAINS, WEIGHTS, 0.1, best, scale), rel=1e-5)


def test_amplitudes_can_be_ordered_and_fixed() -> None:
    ordered = MinimumMSE(constraints=[lambda b, a: b[1] <= b[0]]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    assert ordered.amplitudes[1] <= ordered.amplitudes[0] + 1e-6
    assert ordered.mse > CLOSED_FORM.allocate(GAINS, WEIGHTS, 1.0, 0.1).mse
    fixed = MinimumMSE(constraints=[lambda b, a: b == 0.2]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    np.testing.assert_allclose(fixed.amplitudes, 0.2, rtol=1e-6)
    arriving = 0.2 * GAINS
    best_scale = WEIGHTS @ arriving / (0.1 + arriving @ arriving)
    assert fixed.receive_scale == pytest.approx(best_scale, rel=1e-3)
    assert fixed.mse == pytest.approx(error(GAINS, WEIGHTS, 0.1, np.full(3, 0.2), best_scale), rel=1e-6)


def test_physical_units_are_no_trouble_to_the_solver() -> None:
    expected = CLOSED_FORM.allocate(GAINS, WEIGHTS, 1.0, 0.1)
    for policy in (MinimumMSE("cvxpy"), MinimumMSE(constraints=[lambda b, a: cp.sum_squares(b) <= 10])):
        allocation = policy.allocate(1e-6 * GAINS, WEIGHTS, 0.1, 0.1 * 0.1 * 1e-12)
        assert allocation.mse == pytest.approx(expected.mse, rel=1e-6)
        np.testing.assert_allclose(allocation.amplitudes, np.sqrt(0.1) * expected.amplitudes, rtol=1e-3)


def test_constraints_that_cannot_be_met_are_named() -> None:
    with pytest.raises(PowerControlError, match="infeasible"):
        MinimumMSE(constraints=[lambda b, a: b >= 2]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    with pytest.raises(ValueError, match="not convex"):
        MinimumMSE(constraints=[lambda b, a: cp.sum_squares(b) >= 1]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    with pytest.raises(ValueError, match="accepted: a cvxpy constraint"):
        MinimumMSE(constraints=[lambda b, a: None]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    with pytest.raises(ValueError, match="receive_scale is compared with -1"):
        MinimumMSE(constraints=[lambda b, a: a >= -1]).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    with pytest.raises(ValueError, match="takes no constraints"):
        MinimumMSE("closed-form", constraints=[lambda b, a: b <= 1])
    with pytest.raises(TypeError, match="constraints holds a int"):
        MinimumMSE(constraints=[3])  # type: ignore[list-item]


# --- bad and odd input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_devices_that_cannot_be_heard_stay_silent(policy: PowerControl) -> None:
    allocation = policy.allocate([1.0, 0.0, 0.8, 0.9], np.full(4, 0.25), [1.0, 1.0, 0.0, 1.0], 0.1)
    np.testing.assert_array_equal(allocation.amplitudes[[1, 2]], 0.0)
    assert (allocation.amplitudes[[0, 3]] > 0).all()
    assert allocation.receive_scale > 0
    nobody = policy.allocate([0.0, 0.0], [0.5, 0.5], 1.0, 0.1)
    assert (nobody.receive_scale, nobody.mse) == (0.0, pytest.approx(0.5))
    np.testing.assert_array_equal(nobody.amplitudes, 0.0)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_no_noise_and_no_weight_are_fine(policy: PowerControl) -> None:
    assert np.isfinite(policy.allocate([1.0, 0.5], [0.5, 0.5], 1.0, 0.0).mse)
    weightless = policy.allocate([1.0, 0.5], [1.0, 0.0], 1.0, 0.1)
    assert weightless.amplitudes[1] == 0.0
    assert policy.allocate([1.0, 0.5], [0.0, 0.0], 1.0, 0.1).mse == 0.0


def test_tensors_come_back_as_tensors() -> None:
    gains = torch.tensor([1.0 + 1.0j, 0.5j], dtype=torch.complex64)
    allocation = MinimumMSE().allocate(gains, torch.tensor([0.5, 0.5]), torch.ones(2), 0.1)
    assert isinstance(allocation.amplitudes, torch.Tensor)
    assert allocation.amplitudes.dtype == torch.float64
    reference = MinimumMSE().allocate(gains.numpy(), [0.5, 0.5], 1.0, 0.1)
    np.testing.assert_allclose(allocation.amplitudes.numpy(), reference.amplitudes)


def test_a_problem_is_built_once_for_a_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    class Counted(minimum_mse.QuadraticProgram):
        def __init__(self, devices: int) -> None:
            built.append(devices)
            super().__init__(devices)

    monkeypatch.setattr(minimum_mse, "QuadraticProgram", Counted)
    rng, policy = np.random.default_rng(12), MinimumMSE("cvxpy")
    for devices in (3, 4, 3, 4, 3):
        policy.allocate(*instance(rng, devices))
    assert built == [3, 4]


def test_a_solver_that_fails_is_replaced_and_never_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = WEIGHTS, 1.0, 0.1
    constrained = MinimumMSE(constraints=[lambda b, a: b <= 0.9])
    good = constrained.allocate(GAINS, *given_)
    monkeypatch.setattr(quadratic_program, "solve_checked", lambda problem: "user_limit")
    monkeypatch.setattr("channel.power.constrained.solve_checked", lambda problem: "user_limit")
    replaced = MinimumMSE("cvxpy").allocate(GAINS, *given_)
    np.testing.assert_array_equal(replaced.amplitudes, CLOSED_FORM.allocate(GAINS, *given_).amplitudes)
    assert replaced.warning == "cvxpy ended with status 'user_limit'; the closed form was used"
    again = constrained.allocate(GAINS * 1.1, *given_)
    np.testing.assert_array_equal(again.amplitudes, good.amplitudes)
    assert "the last allocation that was solved was used" in again.warning
    others = np.arange(len(GAINS)) + 10
    with pytest.raises(PowerControlError, match="'user_limit'"):
        constrained.allocate(GAINS, *given_, devices=others)  # other devices than the last ones


def test_constraints_that_contradict_each_other_are_an_error_whatever_was_found_before() -> None:
    bound = {"least": 0.0}
    control = MinimumMSE(constraints=[lambda b, a: [b <= 0.9, b >= bound["least"]]])
    control.allocate(GAINS, WEIGHTS, 1.0, 0.1)
    bound["least"] = 0.95
    control._constrained.clear()
    with pytest.raises(PowerControlError, match="infeasible"):
        control.allocate(GAINS, WEIGHTS, 1.0, 0.1)


def test_many_devices_are_allocated_by_the_closed_form() -> None:
    policy, given_ = MinimumMSE(), instance(np.random.default_rng(11), 500)
    assert policy.allocate(*given_).mse == CLOSED_FORM.allocate(*given_).mse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gains": []}, "gains has shape"),
        ({"gains": [[1.0, 1.0]]}, "gains has shape"),
        ({"gains": [1.0, np.nan]}, "gains is"),
        ({"weights": [1.0]}, "weights has shape"),
        ({"weights": [1.0, -1.0]}, "weights is"),
        ({"power_limits": [1.0, -1.0]}, "power_limits is"),
        ({"power_limits": [1.0, np.inf]}, "power_limits is"),
        ({"noise_power": -1.0}, "noise_power is -1.0"),
        ({"noise_power": np.nan}, "noise_power is nan"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    good = {"gains": [1.0, 0.5], "weights": [0.5, 0.5], "power_limits": 1.0, "noise_power": 0.1}
    with pytest.raises(ValueError, match=message):
        ChannelInversion().allocate(**(good | change))


def test_bad_policies_are_refused_by_name() -> None:
    for threshold in (0.0, -1.0, "most", np.inf, True):
        with pytest.raises(ValueError, match="threshold is"):
            TruncatedInversion(threshold)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="average_power=True needs a number"):
        TruncatedInversion("best", average_power=True)
    with pytest.raises(ValueError, match="receive is"):
        FullPower("zf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="solver is"):
        MinimumMSE("scs")  # type: ignore[arg-type]


def test_policies_go_by_their_names() -> None:
    assert list(POWER_CONTROLS) == [
        *("channel-inversion", "truncated-inversion", "minimum-mse", "full-power"),
        *("minimum-power", "average-power", "total-power"),
    ]
    assert all(isinstance(make(), PowerControl) for make in POWER_CONTROLS.values())
