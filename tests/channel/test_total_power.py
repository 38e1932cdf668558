"""A power budget for all devices together: formula, price search and cone program agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel.power import MinimumMSE, TotalPower, total_power
from channel.power.power_control import AllocationProblem
from channel.power.total_power import peak_limited, without_peaks

Vector = NDArray[np.float64]
LEAST_ERROR = MinimumMSE("closed-form")
GAINS, WEIGHTS = np.array([1.0, 0.5, 2.0]), np.full(3, 1 / 3)


def instance(rng: np.random.Generator, devices: int) -> tuple[NDArray[Any], Vector, Vector, float]:
    gains = (rng.standard_normal(devices) + 1j * rng.standard_normal(devices)) / np.sqrt(2)
    return gains, rng.dirichlet(np.ones(devices)), 10 ** rng.uniform(-1, 1, devices), float(10 ** rng.uniform(-3, 1))


def test_the_cone_program_finds_the_error_of_the_formulas_with_and_without_binding_peaks() -> None:
    rng, peaks_bind, solved = np.random.default_rng(0), 0, 0
    programs = {devices: TotalPower(solver="cvxpy") for devices in range(2, 7)}
    for _ in range(200):
        devices = int(rng.integers(2, 7))
        given_ = instance(rng, devices)
        programs[devices].total_power = budget = float(given_[2].sum() * 10 ** rng.uniform(-3, 0))
        exact = TotalPower(total_power=budget).allocate(*given_)
        program = programs[devices].allocate(*given_)
        # Clarabel's 1e-8 of ||w||^2, on errors down to 1e-2 of it
        assert program.mse == pytest.approx(exact.mse, rel=5e-6)
        assert exact.amplitudes @ exact.amplitudes <= budget * (1 + 1e-9)
        assert (exact.amplitudes**2 <= given_[2] * (1 + 1e-12)).all()
        peaks_bind += bool((exact.amplitudes**2 >= given_[2] * (1 - 1e-9)).any())
        solved += not program.warning
    assert 30 < peaks_bind < 190
    assert solved >= 198  # Clarabel stalls now and then; the warning says so


def test_the_price_search_finds_the_closed_form_where_no_peak_binds() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        gains, weights, _, noise = instance(rng, 5)
        problem = AllocationProblem(np.abs(gains), weights, np.full(5, 100.0), noise, np.arange(5))
        amplitudes, scale = without_peaks(problem, 0.5)
        assert amplitudes @ amplitudes == pytest.approx(0.5)
        found, found_scale = peak_limited(problem, 0.5)
        np.testing.assert_allclose(found, amplitudes, rtol=1e-6)  # Newton's steps within it end at 1e-9
        assert found_scale == pytest.approx(scale, rel=1e-6)


def test_one_device_with_a_budget_below_its_limit_has_the_wiener_scale_of_the_budget() -> None:
    allocation = TotalPower(total_power=1.0).allocate([0.5j], [0.7], 4.0, 0.3)
    np.testing.assert_allclose(allocation.amplitudes, [1.0])
    assert allocation.receive_scale == pytest.approx(0.7 * 0.5 / (0.3 + 0.25))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8))
def test_a_large_budget_leaves_the_optimum_of_the_peaks(seed: int, devices: int) -> None:
    given_ = instance(np.random.default_rng(seed), devices)
    free = LEAST_ERROR.allocate(*given_)
    for policy in (TotalPower(share=1.0), TotalPower(total_power=float(free.amplitudes @ free.amplitudes))):
        allocation = policy.allocate(*given_)
        np.testing.assert_allclose(allocation.amplitudes, free.amplitudes, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8))
def test_a_smaller_budget_is_spent_in_full_and_never_lowers_the_error(seed: int, devices: int) -> None:
    given_ = instance(np.random.default_rng(seed), devices)
    free = LEAST_ERROR.allocate(*given_)
    budgets = float(free.amplitudes @ free.amplitudes) * np.array([0.999, 0.5, 0.1, 1e-3])
    errors = [free.mse]
    for budget in budgets:
        allocation = TotalPower(total_power=float(budget)).allocate(*given_)
        assert allocation.amplitudes @ allocation.amplitudes == pytest.approx(budget, rel=1e-6)
        errors.append(allocation.mse)
    assert (np.diff(errors) >= -1e-12).all()


def test_a_share_is_that_of_the_limits_of_the_devices_that_take_part() -> None:
    policy = TotalPower(share=0.1)
    for limits in (np.full(3, 2.0), np.array([1.0, 2.0, 6.0])):
        allocation = policy.allocate(GAINS, WEIGHTS, limits, 1.0)
        assert allocation.amplitudes @ allocation.amplitudes == pytest.approx(0.1 * limits.sum(), rel=1e-6)


def test_physical_units_are_no_trouble() -> None:
    expected = TotalPower(share=0.2).allocate(GAINS, WEIGHTS, 1.0, 0.1)
    for solver in ("closed-form", "cvxpy"):
        policy = TotalPower(share=0.2, solver=solver)  # type: ignore[arg-type]
        allocation = policy.allocate(1e-6 * GAINS, WEIGHTS, 0.1, 0.1 * 0.1 * 1e-12)
        np.testing.assert_allclose(allocation.amplitudes, np.sqrt(0.1) * expected.amplitudes, rtol=1e-4)


def test_a_device_without_gain_or_power_is_silent_and_takes_nothing_of_the_budget() -> None:
    for solver in ("closed-form", "cvxpy"):
        policy = TotalPower(total_power=0.2, solver=solver)  # type: ignore[arg-type]
        with_idle = policy.allocate([1.0, 0.0, 2.0, 0.5], np.full(4, 0.25), [1.0, 1.0, 1.0, 0.0], 0.1)
        alone = policy.allocate([1.0, 2.0], np.full(2, 0.25), [1.0, 1.0], 0.1)
        assert with_idle.amplitudes[1] == with_idle.amplitudes[3] == 0.0
        np.testing.assert_allclose(with_idle.amplitudes[[0, 2]], alone.amplitudes, rtol=1e-3)  # flat at the minimum


def test_without_noise_inversion_is_turned_down_to_the_budget() -> None:
    allocation = TotalPower(total_power=0.01).allocate(GAINS, WEIGHTS, 1.0, 0.0)
    assert allocation.mse == pytest.approx(0.0, abs=1e-20)
    assert allocation.amplitudes @ allocation.amplitudes == pytest.approx(0.01)


def test_a_solver_that_fails_is_replaced_by_the_closed_form_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(total_power, "solve_checked", lambda problem: "user_limit")
    allocation = TotalPower(solver="cvxpy").allocate(GAINS, WEIGHTS, 1.0, 0.1)
    np.testing.assert_array_equal(allocation.amplitudes, TotalPower().allocate(GAINS, WEIGHTS, 1.0, 0.1).amplitudes)
    assert allocation.warning == "cvxpy ended with status 'user_limit'; the closed form was used"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"total_power": 0.0}, "total_power is 0.0"),
        ({"total_power": np.inf}, "total_power is inf"),
        ({"solver": "scs"}, "solver is 'scs'"),
    ],
)
def test_bad_parameters_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TotalPower(**arguments)
