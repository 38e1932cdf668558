"""Combining: theory of arrays, alternation that only improves, bounds from relaxations, a simulated receiver."""

from __future__ import annotations

import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from channel.power import ChannelInversion, FullPower, MinimumMSE, PowerControl, PowerControlError, TruncatedInversion
from channel.power import zero_forcing as zero_forcing_module
from channel.power.alternating import FIRST_SWEEPS, Optimised, least_squares_combiner
from channel.power.combining import Combining, CombiningProblem, Matched
from channel.power.minimum_power import MinimumPower
from channel.power.power_control import AllocationProblem, Real
from channel.power.zero_forcing import LeastNorm, ZeroForcing, least_distance

CLOSED_FORM = MinimumMSE("closed-form")
RULES: list[Combining] = [Matched(), ZeroForcing(), Optimised()]
POLICIES: list[PowerControl] = [CLOSED_FORM, ChannelInversion(), TruncatedInversion(), FullPower()]
Channels = NDArray[np.complex128]


def rayleigh(rng: np.random.Generator, *shape: int) -> Channels:
    return np.asarray((rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2))


def instance(seed: int, devices: int, antennas: int) -> tuple[Channels, Real, Real, float]:
    rng = np.random.default_rng(seed)
    gains = rayleigh(rng, devices, antennas) * rng.uniform(0.3, 2.0, (devices, 1))
    return gains, rng.dirichlet(np.full(devices, 3.0)), rng.uniform(0.3, 3.0, devices), float(10 ** rng.uniform(-3, 1))


def scaled(seed: int, devices: int, antennas: int) -> Channels:
    return CombiningProblem(*instance(seed, devices, antennas)).scaled


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_one_antenna_is_power_control_alone_to_the_last_bit(rule: Combining, policy: PowerControl) -> None:
    gains, weights, limits, noise = instance(0, 5, 1)
    combined = rule.combine(gains, weights, limits, noise, policy)
    alone = policy.allocate(gains[:, 0], weights, limits, noise)
    np.testing.assert_array_equal(combined.combiner, [1.0])
    np.testing.assert_array_equal(combined.allocation.amplitudes, alone.amplitudes)
    assert (combined.allocation.receive_scale, combined.allocation.mse) == (alone.receive_scale, alone.mse)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), antennas=st.integers(2, 16))
def test_one_device_is_received_with_the_full_array_gain(rule: Combining, seed: int, antennas: int) -> None:
    gains, weights, limits, noise = instance(seed, 1, antennas)
    combined = rule.combine(gains, weights, limits, noise, CLOSED_FORM)
    bound = CLOSED_FORM.allocate([np.linalg.norm(gains)], weights, limits, noise)
    assert combined.allocation.mse == pytest.approx(bound.mse, rel=1e-9)
    assert abs(np.vdot(combined.combiner, gains[0])) == pytest.approx(np.linalg.norm(gains), rel=1e-9)


def test_matched_combining_leaves_interference_of_k_over_m() -> None:
    rng, devices, draws = np.random.default_rng(1), 5, 4000
    weights = np.full(devices, 1 / devices)
    for antennas in (4, 16):
        heard = []
        for _ in range(draws):
            gains = rayleigh(rng, devices, antennas)
            f = Matched().direction(CombiningProblem(gains, weights, np.ones(devices), 1.0))
            heard.append(np.vdot(f, gains[0]) / (antennas / devices))
        assert np.mean(heard) == pytest.approx(1.0, abs=0.06)  # 4 standard errors: sqrt(K/M/draws) = 0.018
        # ||h||^2/M has variance 1/M and each of the K - 1 others adds 1/M; the estimate's own spread is some 3 %
        assert np.var(heard) == pytest.approx(devices / antennas, rel=0.12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_more_antennas_mean_a_smaller_error(rule: Combining) -> None:
    rng, devices, draws = np.random.default_rng(2), 4, 12
    weights = np.full(devices, 0.25)
    mean = [
        np.mean(
            [
                rule.combine(rayleigh(rng, devices, m), weights, 1.0, 1.0, CLOSED_FORM).allocation.mse
                for _ in range(draws)
            ]
        )
        for m in (1, 4, 16, 64)
    ]
    assert mean[0] > mean[1] > mean[2] > mean[3]
    # four times the antennas, four times the power received: at least half of that must show in the error
    assert mean[2] / mean[3] > 2.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(2, 6), antennas=st.integers(2, 5))
def test_no_sweep_raises_the_error(seed: int, devices: int, antennas: int) -> None:
    problem = CombiningProblem(*instance(seed, devices, antennas))
    start = rayleigh(np.random.default_rng(seed), antennas)
    reached = problem.allocate(start, CLOSED_FORM)
    for _ in range(15):
        combiner = least_squares_combiner(problem, reached)
        following = problem.allocate(combiner, CLOSED_FORM)
        assert following.allocation.mse <= reached.allocation.mse * (1 + 1e-12)
        reached = following


def test_the_sweeps_end_where_each_half_is_optimal_for_the_other() -> None:
    problem = CombiningProblem(*instance(3, 4, 3))
    reached = list(Optimised(tolerance=1e-10).sweeps(problem, CLOSED_FORM, Matched().direction(problem)))
    assert len(reached) > 2
    again = problem.allocate(least_squares_combiner(problem, reached[-1]), CLOSED_FORM)
    assert again.allocation.mse == pytest.approx(reached[-1].allocation.mse, rel=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_no_general_optimiser_finds_a_smaller_error(seed: int) -> None:
    gains, weights, limits, noise = instance(seed, 3, 2)
    best = Optimised().combine(gains, weights, limits, noise, CLOSED_FORM).allocation.mse

    def error(x: Real) -> float:
        f, sent = x[:2] + 1j * x[2:4], x[4:7] * np.exp(1j * x[7:])
        return float(np.sum(np.abs((gains @ f.conj()) * sent - weights) ** 2) + noise * np.linalg.norm(f) ** 2)

    bounds = [(None, None)] * 4 + [(0.0, float(np.sqrt(p))) for p in limits] + [(None, None)] * 3
    rng = np.random.default_rng(seed)
    starts = [np.concatenate([rng.standard_normal(4), np.sqrt(limits), rng.uniform(-3, 3, 3)]) for _ in range(6)]
    found = min(minimize(error, x, bounds=bounds, options={"maxiter": 400}).fun for x in starts)
    assert best <= found * (1 + 1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 6), antennas=st.integers(1, 5))
def test_the_optimised_combiner_is_never_worse_than_the_others(seed: int, devices: int, antennas: int) -> None:
    given_ = instance(seed, devices, antennas)
    best = Optimised().combine(*given_, CLOSED_FORM).allocation.mse
    for rule in (Matched(), ZeroForcing()):
        # zero-forcing's own iteration stops finer than the starts it lends to the descent
        assert best <= rule.combine(*given_, CLOSED_FORM).allocation.mse * (1 + 1e-3)
    assert best <= np.sum(given_[1] ** 2)


def test_as_many_antennas_as_devices_and_no_noise_leave_no_error() -> None:
    gains, weights, limits, _ = instance(4, 3, 3)
    for rule in (ZeroForcing(), Optimised()):
        assert rule.combine(gains, weights, limits, 0.0, ChannelInversion()).allocation.mse == pytest.approx(
            0, abs=1e-20
        )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(2, 7), antennas=st.integers(2, 6))
def test_each_step_of_zero_forcing_is_shorter_and_still_hears_everybody(seed: int, devices: int, antennas: int) -> None:
    channels = scaled(seed, devices, antennas)
    path = list(ZeroForcing().steps(channels, rayleigh(np.random.default_rng(seed), antennas)))
    lengths = np.array([np.linalg.norm(f) for f in path])
    assert (np.diff(lengths) <= 0).all()
    for f in path:
        assert np.abs(channels.conj() @ f).min() == pytest.approx(1.0, rel=1e-12)


def relaxation(channels: Channels) -> float:
    """min tr F over F >= 0 with g^H F g >= 1: no f can have a smaller ||f||^2."""
    unit = np.linalg.norm(channels, axis=1).min()
    matrix = cp.Variable((channels.shape[1],) * 2, hermitian=True)
    limits = [cp.real(g.conj() @ matrix @ g) >= 1 for g in channels / unit]
    problem = cp.Problem(cp.Minimize(cp.real(cp.trace(matrix))), [matrix >> 0, *limits])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "may be inaccurate": to some 1e-5, as the comparisons allow
        return float(problem.solve(solver=cp.CLARABEL)) / unit**2


@pytest.mark.parametrize("seed", range(4))
def test_zero_forcing_reaches_the_relaxation_of_three_devices(seed: int) -> None:
    # With at most three constraints the relaxation has a solution of rank one (Huang and Palomar 2010): it is exact.
    channels = scaled(seed, 3, 4)
    best = ZeroForcing().candidates(CombiningProblem(*instance(seed, 3, 4)))[0]
    assert np.linalg.norm(best) ** 2 == pytest.approx(relaxation(channels), rel=1e-4)


def test_zero_forcing_of_many_devices_is_near_the_relaxation() -> None:
    ratios = []
    for seed in range(5):
        best = ZeroForcing().candidates(CombiningProblem(*instance(seed, 8, 4)))[0]
        ratios.append(np.linalg.norm(best) ** 2 / relaxation(scaled(seed, 8, 4)))
    assert min(ratios) >= 1 - 1e-6
    assert max(ratios) < 1.5  # the relaxation itself is loose; 8 K is the proven bound


@pytest.mark.parametrize("seed", range(5))
def test_cvxpy_and_least_squares_find_the_same_shortest_vector(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, 8))
    exact = least_distance(rows)
    assert (rows @ exact >= 1 - 1e-9).all()
    np.testing.assert_allclose(LeastNorm(6, 8).solve(rows), exact, rtol=1e-5, atol=1e-6)
    problem = CombiningProblem(*instance(seed, 5, 3))
    lengths = [np.linalg.norm(ZeroForcing(2, solver).candidates(problem)[0]) for solver in ("nnls", "cvxpy")]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


def test_contradicting_rows_are_refused() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(PowerControlError, match="meets the phases"):
        least_distance(rows)
    with pytest.raises(PowerControlError, match="infeasible"):
        LeastNorm(2, 2).solve(rows)


def test_a_failed_solver_is_replaced_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = instance(5, 4, 3)
    best = ZeroForcing().combine(*given_, CLOSED_FORM)

    def fail(*_: Any) -> Any:
        raise PowerControlError("no answer")

    monkeypatch.setattr(zero_forcing_module, "least_distance", fail)
    by_cvxpy = ZeroForcing().combine(*given_, CLOSED_FORM)
    assert by_cvxpy.allocation.mse == pytest.approx(best.allocation.mse, rel=1e-3)
    assert by_cvxpy.allocation.warning == ""
    monkeypatch.setattr(LeastNorm, "solve", fail)
    matched = ZeroForcing().combine(*given_, CLOSED_FORM)
    assert "matched combiner is used instead" in matched.allocation.warning
    assert matched.allocation.mse == Matched().combine(*given_, CLOSED_FORM).allocation.mse
    optimised = Optimised().combine(*given_, CLOSED_FORM)  # has other starts
    assert optimised.allocation.mse <= matched.allocation.mse


def test_aligned_error_behind_zero_forcing_is_that_of_its_formula() -> None:
    gains, weights, limits, noise = instance(6, 5, 4)
    combined = ZeroForcing().combine(gains, weights, limits, noise, ChannelInversion())
    received = limits * np.abs(gains @ combined.combiner.conj()) ** 2
    assert combined.allocation.mse == pytest.approx(noise * np.max(weights**2 / received), rel=1e-12)
    assert np.linalg.norm(combined.combiner) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_error_is_that_of_a_simulated_receiver(rule: Combining) -> None:
    gains, weights, limits, noise = instance(7, 4, 3)
    combined = rule.combine(gains, weights, limits, noise, CLOSED_FORM)
    f, b, a = combined.combiner, combined.allocation.amplitudes, combined.allocation.receive_scale
    rng, uses = np.random.default_rng(8), 40_000
    symbols = rayleigh(rng, 4, uses)  # two real entries of variance 1/2 a complex use
    phases = np.exp(-1j * np.angle(gains @ f.conj()))
    antennas = gains.T @ ((b * phases)[:, None] * symbols) + np.sqrt(noise) * rayleigh(rng, 3, uses)
    estimate = a * (f.conj() @ antennas)
    error = np.mean(np.abs(estimate - weights @ symbols) ** 2)
    assert error == pytest.approx(combined.allocation.mse, rel=0.03)  # 6 standard errors of 40,000 exponentials


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_units_phases_and_the_arrays_basis_do_not_matter(rule: Combining, seed: int) -> None:
    gains, weights, limits, noise = instance(seed, 4, 3)
    rng = np.random.default_rng(seed)
    mse = rule.combine(gains, weights, limits, noise, CLOSED_FORM).allocation.mse
    in_watts = rule.combine(1e-5 * gains, weights, limits, 1e-10 * noise, CLOSED_FORM)
    assert in_watts.allocation.mse == pytest.approx(mse, rel=1e-5)
    basis, _ = np.linalg.qr(rayleigh(rng, 3, 3))
    assert rule.combine(gains @ basis, weights, limits, noise, CLOSED_FORM).allocation.mse == pytest.approx(
        mse, rel=1e-4
    )
    if not isinstance(rule, Matched):  # which hears the phases of a sum
        turned = gains * np.exp(2j * np.pi * rng.random((4, 1)))
        # the matched start differs then: of several minima another may be the best found
        assert rule.combine(turned, weights, limits, noise, CLOSED_FORM).allocation.mse == pytest.approx(mse, rel=0.05)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_devices_that_cannot_be_heard_are_silent(rule: Combining) -> None:
    gains, weights, limits, noise = instance(9, 5, 3)
    gains[1], weights[2], limits[3] = 0.0, 0.0, 0.0
    combined = rule.combine(gains, weights, limits, noise, CLOSED_FORM)
    np.testing.assert_array_equal(combined.allocation.amplitudes[[1, 2, 3]], 0.0)
    assert (combined.allocation.amplitudes[[0, 4]] > 0).all()
    nobody = rule.combine(np.zeros((5, 3)), weights, limits, noise, CLOSED_FORM)
    assert nobody.allocation.receive_scale == 0.0
    assert nobody.allocation.mse == pytest.approx(float(weights @ weights))


def test_opposite_channels_do_not_leave_matched_combining_without_a_direction() -> None:
    gains = np.array([[1.0, 1j], [-1.0, -1j]])
    for rule in RULES:
        combined = rule.combine(gains, [0.5, 0.5], 1.0, 0.1, CLOSED_FORM)
        assert combined.allocation.mse < 0.5 * 0.5  # half of hearing nobody
        np.testing.assert_allclose(combined.allocation.amplitudes[0], combined.allocation.amplitudes[1])


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), slack=st.floats(1.05, 6.0))
@example(seed=2678, slack=2.0)
def test_no_sweep_raises_the_power_that_a_target_takes(seed: int, slack: float) -> None:
    problem = CombiningProblem(*instance(seed, 4, 3))
    rule, silence = Optimised(), float(problem.weights @ problem.weights)
    least = rule.combine(*instance(seed, 4, 3), CLOSED_FORM)
    target = min(0.9, slack * least.allocation.mse / silence)
    if least.allocation.mse > 0.9 * silence:
        return  # out of reach
    path = list(rule.sweeps(problem, MinimumPower(target), least.combiner))
    power = np.array([np.sum(combined.allocation.amplitudes**2) for combined in path])
    assert (np.diff(power) <= 1e-12 * power[:-1]).all()
    final = rule.combine(*instance(seed, 4, 3), MinimumPower(target))
    spent = np.sum(final.allocation.amplitudes**2)
    assert final.allocation.mse <= target * silence * (1 + 1e-6)
    # Of several starts the best after the first sweeps goes on, which another may overtake in the end.
    assert spent <= power[:FIRST_SWEEPS][-1] * (1 + 1e-9)
    try:
        matched = Matched().combine(*instance(seed, 4, 3), MinimumPower(target))
    except PowerControlError:
        return  # the matched combiner does not get there at all
    assert spent <= 1.05 * np.sum(matched.allocation.amplitudes**2)


def test_a_target_out_of_reach_is_refused_or_recorded() -> None:
    given_ = instance(12, 4, 3)
    least = Optimised().combine(*given_, CLOSED_FORM)
    target = 0.5 * least.allocation.mse / float(given_[1] @ given_[1])
    with pytest.raises(PowerControlError, match="the best within the limits"):
        Optimised().combine(*given_, MinimumPower(target))
    instead = Optimised().combine(*given_, MinimumPower(target, infeasible="least-error"))
    assert "least-error allocation was used" in instead.allocation.warning
    assert instead.allocation.mse == pytest.approx(least.allocation.mse, rel=1e-9)


class Counting(PowerControl):
    """Full power that counts how often it is asked, as a policy that remembers would."""

    name = "counting"
    needs_statistics = True

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        self.asked.append(problem.devices.tolist())
        return problem.peaks, 1.0


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_policy_that_remembers_is_asked_once_and_told_who_sends(rule: Combining) -> None:
    policy = Counting()
    gains, weights, limits, noise = instance(10, 3, 2)
    rule.combine(gains, weights, limits, noise, policy, devices=[4, 7, 2])
    assert policy.asked == [[4, 7, 2]]


def test_users_constraints_hold_behind_the_optimised_combiner() -> None:
    gains, weights, limits, noise = instance(11, 3, 2)
    budget = 0.2 * limits.sum()
    bounded = MinimumMSE(constraints=[lambda b, a: cp.sum_squares(b) <= budget])
    combined = Optimised(tolerance=1e-2).combine(gains, weights, limits, noise, bounded)
    assert np.sum(combined.allocation.amplitudes**2) <= budget * (1 + 1e-6)
    free = Optimised().combine(gains, weights, limits, noise, CLOSED_FORM)
    behind = CombiningProblem(gains, weights, limits, noise).allocate(free.combiner, bounded)
    assert free.allocation.mse <= combined.allocation.mse * (1 + 1e-6) <= behind.allocation.mse * (1 + 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gains": np.ones(3)}, "gains has shape"),
        ({"gains": np.full((3, 2), np.nan)}, "finite complex numbers"),
        ({"weights": [0.5, 0.5]}, "weights is"),
        ({"weights": [0.5, -0.5, 1.0]}, "weights is"),
        ({"power_limits": [1.0, np.inf, 1.0]}, "power_limits is"),
        ({"noise_power": -1.0}, "noise_power is -1.0"),
    ],
)
def test_bad_input_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    arguments = {"gains": np.ones((3, 2)), "weights": np.full(3, 1 / 3), "power_limits": 1.0, "noise_power": 1.0}
    with pytest.raises(ValueError, match=message):
        Matched().combine(**(arguments | change), power_control=CLOSED_FORM)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ZeroForcing(starts=-1), "starts is -1"),
        (lambda: ZeroForcing(solver="mosek"), "solver is 'mosek'"),  # type: ignore[arg-type]
        (lambda: ZeroForcing(tolerance=0.0), "tolerance is 0.0"),
        (lambda: Optimised(tolerance=2.0), "tolerance is 2.0"),
        (lambda: Optimised(starts=1.5), "starts is 1.5"),  # type: ignore[arg-type]
    ],
)
def test_parameters_outside_their_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
