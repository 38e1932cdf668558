"""Allocations: closed form, cvxpy and independent searches agree; constraints of the user's own hold."""

from __future__ import annotations

import itertools
import math
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from channel.links import AllocationError, BenefitPerJoule, BitAllocation, LinkBudget, MinimumEnergy, MinimumLatency

Vector = NDArray[np.float64]
BANDWIDTH = 1e6


def instance(rng: np.random.Generator, devices: int, **more: Any) -> tuple[LinkBudget, Vector]:
    """Rayleigh gains, powers over 20 dB, noise over 30 dB, packets over a factor of 100."""
    gains, powers = rng.rayleigh(size=devices), 10 ** rng.uniform(-1, 1, devices)
    noise = float(10 ** rng.uniform(-3, 0))
    return LinkBudget(gains, powers, noise, BANDWIDTH, **more), np.round(10 ** rng.uniform(2, 4, devices))


def latency(budget: LinkBudget, shares: Vector, bits: Vector, gap: float) -> float:
    rates = shares * BANDWIDTH * np.log2(1 + budget.snr(budget.powers, shares) / gap)
    return float(np.max(bits / rates))


def energy(budget: LinkBudget, durations: Vector, bits: Vector, gap: float) -> float:
    noise = gap * budget.noise_power / np.asarray(budget.gains) ** 2
    powers = noise * np.expm1(bits * math.log(2) / (BANDWIDTH * durations))
    return float(budget.energy(powers, durations).sum())


def frame_at_full_power(budget: LinkBudget, bits: Vector, gap: float) -> float:
    snr = budget.snr(budget.powers, np.ones(budget.devices))
    return float(np.sum(bits / (BANDWIDTH * np.log2(1 + snr / gap))))


@pytest.mark.parametrize("seed", range(25))
def test_minimum_latency_by_formula_and_by_cvxpy_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget, bits = instance(rng, int(rng.integers(1, 12)))
    gap = float(10 ** rng.uniform(0, 0.6))
    formula = MinimumLatency("closed-form").allocate(budget, bits, gap)
    solved = MinimumLatency("cvxpy").allocate(budget, bits, gap)
    best = latency(budget, formula, bits, gap)
    assert latency(budget, solved, bits, gap) == pytest.approx(best, rel=1e-5)  # Clarabel's 1e-8 over steep rates
    assert formula.sum() == pytest.approx(1.0, rel=1e-12)


@given(seed=st.integers(0, 10_000), devices=st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_at_minimum_latency_all_are_done_at_the_same_time(seed: int, devices: int) -> None:
    budget, bits = instance(np.random.default_rng(seed), devices)
    shares = MinimumLatency().allocate(budget, bits)
    rates = shares * BANDWIDTH * np.log2(1 + budget.snr(budget.powers, shares))
    np.testing.assert_allclose(bits / rates, latency(budget, shares, bits, 1.0), rtol=1e-8)


def test_no_other_split_of_the_band_is_faster() -> None:
    budget, bits = instance(np.random.default_rng(1), 2)
    best = latency(budget, MinimumLatency().allocate(budget, bits), bits, 1.0)
    splits = np.linspace(0.001, 0.999, 999)
    found = min(latency(budget, np.array([a, 1 - a]), bits, 1.0) for a in splits)
    assert best <= found <= best * 1.01


def test_equal_devices_share_the_band_equally() -> None:
    shares = MinimumLatency().allocate(LinkBudget(np.ones(7), 1.0, 0.1, BANDWIDTH), 1000)
    np.testing.assert_allclose(shares, 1 / 7, rtol=1e-10)


@pytest.mark.parametrize("circuit", [0.0, 0.05, 2.0])
@pytest.mark.parametrize("slack", [1.0, 1.05, 3.0, 50.0])
def test_minimum_energy_by_formula_and_by_cvxpy_agree(slack: float, circuit: float) -> None:
    rng = np.random.default_rng(int(10 * slack))
    for devices in (1, 3, 8):
        budget, bits = instance(rng, devices, amplifier_efficiency=rng.uniform(0.2, 1, devices), circuit_power=circuit)
        deadline = slack * frame_at_full_power(budget, bits, 1.5)
        formula, powers = MinimumEnergy("closed-form").allocate(budget, bits, deadline, 1.5)
        solved, _ = MinimumEnergy("cvxpy").allocate(budget, bits, deadline, 1.5)
        least = energy(budget, formula, bits, 1.5)
        assert energy(budget, solved, bits, 1.5) == pytest.approx(least, rel=2e-5)
        assert formula.sum() <= deadline * (1 + 1e-9)
        assert (powers <= budget.powers).all()
        assert budget.energy(powers, formula).sum() == pytest.approx(least, rel=1e-9)


def test_minimum_energy_is_what_a_general_optimiser_finds() -> None:
    budget, bits = instance(np.random.default_rng(5), 3, circuit_power=0.01)
    deadline = 2.0 * frame_at_full_power(budget, bits, 1.0)
    ours, _ = MinimumEnergy().allocate(budget, bits, deadline)
    shortest = bits / (BANDWIDTH * np.log2(1 + budget.snr(budget.powers, np.ones(3))))
    start = shortest * 2.0
    found = minimize(
        lambda x: energy(budget, x * deadline, bits, 1.0) / energy(budget, start, bits, 1.0),
        start / deadline,
        method="SLSQP",
        bounds=[(low / deadline, 1.0) for low in shortest],
        constraints={"type": "ineq", "fun": lambda x: 1.0 - x.sum()},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    assert energy(budget, ours, bits, 1.0) <= found.fun * energy(budget, start, bits, 1.0) * (1 + 1e-9)


def test_with_endless_time_a_bit_costs_the_shannon_limit() -> None:
    # per bit ln 2 N0 / |h|^2 in the limit of no power: -1.59 dB
    budget = LinkBudget([0.5, 2.0], 1.0, 0.1, BANDWIDTH)
    durations, powers = MinimumEnergy().allocate(budget, 1000, deadline=1e3)
    limit = math.log(2) * 1000 * budget.noise_density / np.array([0.25, 4.0])
    np.testing.assert_allclose(budget.energy(powers, durations), limit, rtol=1e-4)


def test_circuit_power_ends_slots_before_the_deadline() -> None:
    budget = LinkBudget([1.0, 1.0], 100.0, 0.1, BANDWIDTH, circuit_power=1.0)
    durations, _ = MinimumEnergy().allocate(budget, 1000, deadline=1.0)
    assert durations.sum() < 0.01
    base = energy(budget, durations, np.full(2, 1000.0), 1.0)
    for factor in (0.98, 1.02):
        assert energy(budget, durations * factor, np.full(2, 1000.0), 1.0) > base


def test_constraints_of_the_user_hold_and_cost_something() -> None:
    budget, bits = instance(np.random.default_rng(3), 5)
    free = MinimumLatency().allocate(budget, bits)
    cap = 0.6 * float(free.max())
    shares = MinimumLatency(constraints=[lambda shares, rates: shares <= cap]).allocate(budget, bits)
    assert shares.max() <= cap * (1 + 1e-6)
    assert latency(budget, shares, bits, 1.0) > latency(budget, free, bits, 1.0)

    promised = 2.0 * free[0] * BANDWIDTH * np.log2(1 + budget.snr(budget.powers, free)[0])
    shares = MinimumLatency(constraints=[lambda shares, rates: rates[0] / promised >= 1]).allocate(budget, bits)
    rate = shares[0] * BANDWIDTH * np.log2(1 + budget.snr(budget.powers, shares)[0])
    assert rate >= promised * (1 - 1e-6)

    deadline = 3.0 * frame_at_full_power(budget, bits, 1.0)
    durations, powers = MinimumEnergy().allocate(budget, bits, deadline)
    spent = budget.energy(powers, durations)
    worst = int(spent.argmax())
    limit = [lambda durations, energies: energies[worst] / spent[worst] <= 0.9]
    held = budget.energy(*MinimumEnergy(constraints=limit).allocate(budget, bits, deadline)[::-1])
    assert held[worst] <= 0.9 * spent[worst] * (1 + 1e-5)
    assert held.sum() > spent.sum()


def test_devices_in_outage_get_nothing_whichever_solver() -> None:
    budget = LinkBudget([1.0, 0.0, 0.5], 1.0, 0.1, BANDWIDTH)
    for solver in ("closed-form", "cvxpy"):
        shares = MinimumLatency(solver).allocate(budget, 1000)  # type: ignore[arg-type]
        durations, powers = MinimumEnergy(solver).allocate(budget, 1000, 0.1)  # type: ignore[arg-type]
        assert shares[1] == durations[1] == powers[1] == 0.0
        assert shares.sum() == pytest.approx(1.0, rel=1e-6)
        assert durations.sum() == pytest.approx(0.1, rel=1e-4)  # the optimum is flat in the time


@given(
    distortions=st.lists(st.floats(0.0, 1e4), min_size=1, max_size=8),
    budget=st.floats(0.0, 40.0),
    largest=st.sampled_from([0.5, 3.0, math.inf]),
)
@settings(deadline=None, max_examples=60)
def test_bits_fill_reverse_water(distortions: list[float], budget: float, largest: float) -> None:
    error = np.asarray(distortions)
    if not (error > 0).any():
        return
    bits = BitAllocation().allocate(error, budget, largest)
    assert bits.sum() == pytest.approx(min(budget, min(largest, budget) * np.sum(error > 0)), rel=1e-9, abs=1e-9)
    left = error * 4.0**-bits
    inside = (bits > 1e-9) & (bits < min(largest, budget) - 1e-9)
    if inside.any():
        level = float(left[inside].max())
        np.testing.assert_allclose(left[inside], level, rtol=1e-6)
        assert (left[(bits <= 1e-9)] <= level * (1 + 1e-6)).all()
        assert (left[bits >= min(largest, budget) - 1e-9] >= level * (1 - 1e-6)).all()


@pytest.mark.parametrize("seed", range(12))
def test_bits_by_formula_and_by_cvxpy_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    error = 10 ** rng.uniform(-4, 2, int(rng.integers(1, 10)))
    budget, largest = float(rng.uniform(0.5, 40)), float(rng.choice([2.0, 8.0, math.inf]))
    formula = BitAllocation("closed-form").allocate(error, budget, largest)
    solved = BitAllocation("cvxpy").allocate(error, budget, largest)
    assert np.sum(error * 4.0**-solved) == pytest.approx(np.sum(error * 4.0**-formula), rel=1e-6)


def test_a_constraint_ties_the_bits_of_devices() -> None:
    same = BitAllocation(constraints=[lambda bits: bits[0] == bits[1]])
    bits = same.allocate([100.0, 1.0, 10.0], 6.0)
    assert bits[0] == pytest.approx(bits[1], abs=1e-6)
    # the pair acts as two devices of their geometric mean: level from (6 - log2-gains) shared by three
    pair = [10.0, 10.0, 10.0]
    np.testing.assert_allclose(bits[:2].mean(), BitAllocation().allocate(pair, 6.0)[0], atol=0.5)


@pytest.mark.parametrize("seed", range(15))
def test_devices_chosen_are_the_best_set_of_their_number(seed: int) -> None:
    rng = np.random.default_rng(seed)
    benefits, energies = rng.exponential(size=8), 10 ** rng.uniform(-2, 1, 8)
    count = int(rng.integers(1, 7))

    def ratio(chosen: Any) -> float:
        return float(benefits[list(chosen)].sum() / energies[list(chosen)].sum())

    best = max(map(ratio, itertools.combinations(range(8), count)))
    for solver in ("closed-form", "cvxpy"):
        assert ratio(BenefitPerJoule(solver).select(benefits, energies, count)) == pytest.approx(best)  # type: ignore[arg-type]


def test_the_best_set_is_not_the_best_devices_one_by_one() -> None:
    # ratios 2, 1.5 and 1; beside device 2, which costs most, a joule more or less hardly counts
    benefits, energies = [0.2, 0.15, 10.0], [0.1, 0.1, 10.0]
    assert BenefitPerJoule().select(benefits, energies, 1).tolist() == [0]
    assert BenefitPerJoule().select([1.0, 1.0, 5.0], [1.0, 0.9, 3.0], 2).tolist() == [1, 2]


def test_a_constraint_on_the_choice_holds() -> None:
    rng = np.random.default_rng(0)
    benefits, energies = rng.exponential(size=6), rng.exponential(size=6)
    limited = BenefitPerJoule(constraints=[lambda chosen: [chosen[0] + chosen[1] >= 2, energies @ chosen <= 4.0]])
    chosen = limited.select(benefits, energies, 3).tolist()
    allowed = [c for c in itertools.combinations(range(6), 3) if {0, 1} <= set(c) and energies[list(c)].sum() <= 4.0]
    best = max(allowed, key=lambda c: benefits[list(c)].sum() / energies[list(c)].sum())
    assert chosen == list(best)


def test_programs_are_kept_and_answers_do_not_depend_on_what_was_asked_before() -> None:
    used = MinimumLatency("cvxpy")
    (first, first_bits), (second, second_bits) = (instance(np.random.default_rng(s), 4) for s in (1, 2))
    used.allocate(first, first_bits)
    np.testing.assert_array_equal(
        used.allocate(second, second_bits), MinimumLatency("cvxpy").allocate(second, second_bits)
    )
    assert list(used._programs) == [4]


DEAD = LinkBudget([0.0, 1.0], [1.0, 0.0], 0.1, BANDWIDTH)
ALIVE = LinkBudget([1.0, 1.0], 1.0, 0.1, BANDWIDTH)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: MinimumLatency().allocate(DEAD, 10), "all devices are in outage"),
        (lambda: MinimumEnergy().allocate(DEAD, 10, 1.0), "all devices are in outage"),
        (lambda: MinimumEnergy().allocate(ALIVE, 10_000, 1e-6), "full power takes 0.0057813 s"),
        (lambda: MinimumLatency(constraints=[lambda s, r: cp.sum(s) >= 2]).allocate(ALIVE, 10), "infeasible"),
        (lambda: BitAllocation().allocate([0.0, 0.0], 5.0), "nobody can send"),
        (lambda: BitAllocation().allocate([1.0], 5.0, largest=0.0), "nobody can send"),
        (lambda: BitAllocation(constraints=[lambda b: b >= 9]).allocate([1.0, 2.0], 5.0), "infeasible"),
        (lambda: BenefitPerJoule().select([1.0, 1.0], [1.0, math.inf], 2), "count is 2, and 1 of 2 devices"),
        (lambda: BenefitPerJoule(constraints=[lambda c: c[0] >= 2]).select([1.0], [1.0], 1), "no 1 devices meet"),
    ],
)
def test_what_cannot_be_allocated_is_said(call: Any, named: str) -> None:
    with pytest.raises(AllocationError, match=named):
        call()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: MinimumLatency("fast"), "solver is 'fast'"),  # type: ignore[arg-type]
        (lambda: MinimumLatency("closed-form", [lambda s, r: s <= 1]), "takes no constraints"),
        (lambda: MinimumLatency(constraints=[lambda s, r: True]).allocate(ALIVE, 10), "returned True"),
        (lambda: MinimumLatency(constraints=[lambda s, r: cp.sqrt(s[0]) <= 1]).allocate(ALIVE, 10), "not convex"),
        (lambda: MinimumEnergy().allocate(ALIVE, 10, 0.0), "deadline is 0.0"),
        (lambda: MinimumLatency().allocate(LinkBudget([1.0], 1.0, 0.0, 1.0), 10), "noise_power is 0.0"),
        (lambda: BitAllocation().allocate([-1.0], 5.0), r"distortions is \[-1.0\]"),
        (lambda: BitAllocation().allocate([1.0], -5.0), "budget is -5.0"),
        (lambda: BitAllocation().allocate([1.0], 5.0, [1.0, 2.0]), r"largest is \[1.0, 2.0\]"),
        (lambda: BenefitPerJoule().select([-1.0], [1.0], 1), r"benefits is \[-1.0\]"),
        (lambda: BenefitPerJoule().select([1.0], [0.0], 1), r"energies is \[0.0\]"),
        (lambda: BenefitPerJoule().select([1.0], [1.0], 0), "count is 0"),
    ],
)
def test_bad_input_is_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()


def test_a_constraint_must_be_callable() -> None:
    with pytest.raises(TypeError, match="constraints holds a int"):
        BitAllocation(constraints=[3])  # type: ignore[list-item]
