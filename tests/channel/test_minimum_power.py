"""Least power at an error: closed form, nested roots, cvxpy and a general optimiser agree."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from channel.power import MinimumMSE, MinimumPower, PowerControlError, least_power_program
from channel.power.least_power import peak_limited, without_peaks
from channel.power.power_control import AllocationProblem

Vector = NDArray[np.float64]
Instance = tuple[NDArray[Any], Vector, Vector, float]
LEAST_ERROR = MinimumMSE("closed-form")
GAINS, WEIGHTS = np.array([1.0, 0.5, 2.0]), np.full(3, 1 / 3)


def instance(rng: np.random.Generator, devices: int) -> Instance:
    gains = (rng.standard_normal(devices) + 1j * rng.standard_normal(devices)) / np.sqrt(2)
    return gains, rng.dirichlet(np.ones(devices)), 10 ** rng.uniform(-1, 1, devices), float(10 ** rng.uniform(-3, 1))


def best_reachable(given_: Instance) -> float:
    weights = given_[1]
    return LEAST_ERROR.allocate(*given_).mse / float(weights @ weights)


def power(amplitudes: Vector) -> float:
    return float(amplitudes @ amplitudes)


def problem(given_: Instance) -> AllocationProblem:
    gains, weights, limits, noise = given_
    return AllocationProblem(np.abs(gains), weights, limits, noise, np.arange(len(weights)))


def test_cvxpy_finds_the_power_of_the_formulas_with_and_without_binding_peaks() -> None:
    rng, peaks_bind, solved = np.random.default_rng(0), 0, 0
    programs = {devices: MinimumPower(solver="cvxpy") for devices in range(2, 7)}
    for _ in range(250):
        devices = int(rng.integers(2, 7))
        given_ = instance(rng, devices)
        best = best_reachable(given_)
        programs[devices].mse = target = best + (1 - best) * float(rng.uniform(0.02, 0.95)) ** 2
        exact, program = MinimumPower(target).allocate(*given_), programs[devices].allocate(*given_)
        # the table of 2,000 instances in docs/equations.md has its largest gap at 1.5e-5
        assert power(program.amplitudes) == pytest.approx(power(exact.amplitudes), rel=1e-5)
        assert exact.mse == pytest.approx(target * float(given_[1] @ given_[1]), rel=1e-9)
        assert program.mse <= target * float(given_[1] @ given_[1]) * (1 + 1e-6)
        assert (exact.amplitudes**2 <= given_[2] * (1 + 1e-12)).all()
        peaks_bind += bool((exact.amplitudes**2 >= given_[2] * (1 - 1e-9)).any())
        solved += not program.warning
    assert peaks_bind > 50
    assert solved >= 248  # Clarabel may stall where hardly any allocation reaches the target


def test_where_no_peak_binds_the_closed_form_is_also_what_the_peak_limited_search_finds() -> None:
    rng, compared = np.random.default_rng(1), 0
    for _ in range(60):
        given_ = instance(rng, 5)
        best = best_reachable(given_)
        error = (best + (1 - best) * 0.5) * float(given_[1] @ given_[1])
        amplitudes, scale = without_peaks(problem(given_), error)
        if (amplitudes <= np.sqrt(given_[2])).all():
            compared += 1
            searched, searched_scale = peak_limited(problem(given_), error)
            np.testing.assert_allclose(searched, amplitudes, rtol=1e-6)  # the scale is the root of a bracket of 1e-14
            assert searched_scale == pytest.approx(scale, rel=1e-6)
    assert compared > 20


def test_no_general_optimiser_reaches_the_error_with_less_power() -> None:
    rng = np.random.default_rng(2)
    for _ in range(4):
        given_ = instance(rng, 3)
        limits = given_[2]
        best = best_reachable(given_)
        target = best + 0.1 * (1 - best)
        least = power(MinimumPower(target).allocate(*given_).amplitudes)

        def slack(x: Vector, given_: Instance = given_, target: float = target) -> float:
            gains, weights, _, noise = given_
            error = np.sum((np.abs(gains) * x[:-1] - weights * x[-1]) ** 2) + noise
            return float(target * (weights @ weights) * x[-1] ** 2 - error)

        begin = LEAST_ERROR.allocate(*given_)
        start = np.append(begin.amplitudes, 1 / begin.receive_scale)
        bounds = [*((0.0, float(np.sqrt(p))) for p in limits), (0.0, None)]
        constraint = {"type": "ineq", "fun": slack}
        found = minimize(lambda x: float(x[:-1] @ x[:-1]), start, bounds=bounds, constraints=constraint, tol=1e-14)
        assert least == pytest.approx(found.fun, rel=1e-4)  # SLSQP's own accuracy
        assert least <= found.fun * (1 + 1e-6)


def test_the_closed_form_meets_the_equations_of_the_specification() -> None:
    gains, weights, noise = np.array([1.0, 0.5, 2.0]), np.array([0.5, 0.3, 0.2]), 0.1
    error = 0.3 * float(weights @ weights)
    amplitudes, scale = without_peaks(AllocationProblem(gains, weights, np.ones(3), noise, np.arange(3)), error)
    lam = amplitudes * scale / (gains * (weights - amplitudes * scale * gains))  # from b = lam h w / (a (1 + lam h^2))
    np.testing.assert_allclose(lam, lam[0], rtol=1e-9)
    assert np.sum(weights**2 / (1 + lam[0] * gains**2)) == pytest.approx(error)
    assert scale**-2 == pytest.approx(noise / (error - np.sum(weights**2 / (1 + lam[0] * gains**2) ** 2)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8), factor=st.floats(1e-3, 1e3))
def test_the_least_power_moves_with_the_units(seed: int, devices: int, factor: float) -> None:
    given_ = gains, weights, limits, noise = instance(np.random.default_rng(seed), devices)
    best = best_reachable(given_)
    policy = MinimumPower(best + 0.2 * (1 - best))
    base = policy.allocate(*given_)
    for amplitude, changed in (
        (np.sqrt(factor), (gains, weights, factor * limits, factor * noise)),
        (1.0, (factor * gains, weights, limits, factor**2 * noise)),
        (1.0, (gains, factor * weights, limits, noise)),
    ):
        np.testing.assert_allclose(policy.allocate(*changed).amplitudes, amplitude * base.amplitudes, rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8))
def test_a_looser_target_never_costs_more(seed: int, devices: int) -> None:
    given_ = instance(np.random.default_rng(seed), devices)
    best = best_reachable(given_)
    targets = best + (1 - best) * np.array([0.001, 0.01, 0.1, 0.5, 0.9])
    spent = [power(MinimumPower(float(t)).allocate(*given_).amplitudes) for t in targets]
    assert (np.diff(spent) <= 1e-9 * spent[0]).all()
    assert spent[0] <= power(LEAST_ERROR.allocate(*given_).amplitudes) * (1 + 1e-9)


def test_strong_and_weak_devices_spend_less_than_a_moderate_one() -> None:
    amplitudes = MinimumPower(0.4).allocate([0.02, 1.0, 10.0], WEIGHTS, 1e6, 0.01).amplitudes
    assert amplitudes[1] > 2 * max(amplitudes[0], amplitudes[2])


def test_the_best_reachable_error_as_target_gives_the_allocation_of_least_error() -> None:
    given_ = GAINS, WEIGHTS, np.ones(3), 0.1
    best = LEAST_ERROR.allocate(*given_)
    allocation = MinimumPower(best_reachable(given_)).allocate(*given_)
    np.testing.assert_allclose(allocation.amplitudes, best.amplitudes, rtol=1e-6)


def test_a_target_out_of_reach_names_the_best_and_may_be_replaced_by_it() -> None:
    given_ = GAINS, WEIGHTS, np.ones(3), 0.1
    best = best_reachable(given_)
    with pytest.raises(PowerControlError, match=rf"mse is 0.01; accepted in this exchange: at least {best:.6g}"):
        MinimumPower(0.01).allocate(*given_)
    allocation = MinimumPower(0.01, infeasible="least-error").allocate(*given_)
    np.testing.assert_array_equal(allocation.amplitudes, LEAST_ERROR.allocate(*given_).amplitudes)
    assert "least-error allocation was used" in allocation.warning
    assert MinimumPower(0.5).allocate(*given_).warning == ""


def test_an_exchange_that_nobody_can_be_heard_in_is_out_of_reach_too() -> None:
    with pytest.raises(PowerControlError, match="no device has both gain and power"):
        MinimumPower(0.5).allocate([0.0, 0.0], [0.5, 0.5], 1.0, 0.1)
    silent = MinimumPower(0.5, infeasible="least-error").allocate([0.0, 0.0], [0.5, 0.5], 1.0, 0.1)
    assert silent.receive_scale == 0.0
    assert "no device" in silent.warning
    assert MinimumPower(0.5).allocate([1.0], [0.0], 1.0, 0.1).warning == ""  # nothing is wanted: nothing is missed


def test_a_device_without_gain_counts_in_the_error_and_stays_silent() -> None:
    allocation = MinimumPower(0.6).allocate([1.0, 0.0, 2.0], WEIGHTS, 100.0, 0.1)
    assert allocation.amplitudes[1] == 0.0
    assert allocation.mse == pytest.approx(0.6 * float(WEIGHTS @ WEIGHTS))


def test_without_noise_the_least_error_is_taken_and_said_so() -> None:
    allocation = MinimumPower(0.5).allocate(GAINS, WEIGHTS, 1.0, 0.0)
    assert allocation.mse == pytest.approx(0.0, abs=1e-20)
    assert "without noise" in allocation.warning


def test_physical_units_are_no_trouble_to_the_solver() -> None:
    expected = MinimumPower(0.4).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    for solver in ("closed-form", "cvxpy"):
        allocation = MinimumPower(0.4, solver=solver).allocate(  # type: ignore[arg-type]
            1e-6 * GAINS, WEIGHTS, 0.1, 0.1 * 0.1 * 1e-12
        )
        np.testing.assert_allclose(allocation.amplitudes, np.sqrt(0.1) * expected.amplitudes, rtol=1e-4)


def test_constraints_cost_power_and_hold() -> None:
    given_ = GAINS, WEIGHTS, np.ones(3), 0.1
    free = MinimumPower(0.4).allocate(*given_)
    even = MinimumPower(0.4, constraints=[lambda b, a: b <= 0.97 * float(free.amplitudes.max())])
    allocation = even.allocate(*given_)
    assert allocation.amplitudes.max() <= 0.97 * free.amplitudes.max() + 1e-6
    assert power(allocation.amplitudes) > power(free.amplitudes)
    assert allocation.mse <= free.mse * (1 + 1e-6)
    loose = MinimumPower(0.4, constraints=[lambda b, a: cp.sum(b) <= 100])
    assert power(loose.allocate(*given_).amplitudes) == pytest.approx(power(free.amplitudes), rel=1e-5)
    fixed = MinimumPower(0.4, constraints=[lambda b, a: a == 0.3]).allocate(*given_)
    assert fixed.receive_scale == pytest.approx(0.3, rel=1e-6)


def test_constraints_that_leave_the_target_out_of_reach_name_the_best_within_them() -> None:
    given_ = GAINS, WEIGHTS, np.ones(3), 0.1
    constraint = [lambda b, a: cp.sum_squares(b) <= 0.05]
    best = MinimumMSE(constraints=constraint).allocate(*given_).mse / float(WEIGHTS @ WEIGHTS)
    with pytest.raises(PowerControlError, match=f"at least {best:.4g}"):
        MinimumPower(0.3, constraints=constraint).allocate(*given_)


def test_a_solver_that_fails_is_replaced_and_never_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = GAINS, WEIGHTS, np.ones(3), 0.1
    constrained = MinimumPower(0.4, constraints=[lambda b, a: b <= 0.9])
    good = constrained.allocate(*given_)
    monkeypatch.setattr(least_power_program, "solve_checked", lambda problem: "user_limit")
    closed = MinimumPower(0.4, solver="cvxpy").allocate(*given_)
    np.testing.assert_array_equal(closed.amplitudes, MinimumPower(0.4).allocate(*given_).amplitudes)
    assert closed.warning == "cvxpy ended with status 'user_limit'; the closed form was used"
    again = constrained.allocate(GAINS * 1.1, *given_[1:])
    np.testing.assert_array_equal(again.amplitudes, good.amplitudes)
    assert "the last allocation that was solved was used" in again.warning
    with pytest.raises(PowerControlError, match="'user_limit'"):
        constrained.allocate(*given_, devices=[3, 4, 5])  # other devices than the last ones


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mse": 0.0}, "mse is 0.0"),
        ({"mse": 1.0}, "mse is 1.0"),
        ({"mse": np.nan}, "mse is nan"),
        ({"infeasible": "ignore"}, "infeasible is 'ignore'"),
        ({"solver": "scs"}, "solver is 'scs'"),
        ({"solver": "closed-form", "constraints": [lambda b, a: b <= 1]}, "takes no constraints"),
    ],
)
def test_bad_parameters_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinimumPower(**arguments)


@pytest.mark.parametrize("devices", [[0, 0, 1], [0, 1], [0.0, 1.0, 2.0], [-1, 0, 1]])
def test_ids_that_do_not_name_each_device_once_are_refused(devices: list[Any]) -> None:
    with pytest.raises(ValueError, match="devices is"):
        MinimumPower(0.5).allocate(GAINS, WEIGHTS, 1.0, 0.1, devices=devices)
