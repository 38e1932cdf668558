"""Plans of a budget over rounds: optimal by their conditions, by brute force and by cvxpy; budgets are kept exactly."""

from __future__ import annotations

import itertools
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel.codes import RandomLinearCode
from channel.power.constrained_plan import ConstrainedPlan
from channel.power.plan_problem import PlanProblem
from channel.power.power_control import PowerControlError
from channel.power.round_plan import RoundPlan
from channel.power.water_filling import water_fill, whole_water_fill

Real = NDArray[np.float64]
LEVELS = st.floats(1e-3, 1e3)


def falling(rounds: int, seed: int = 0) -> tuple[Real, Real]:
    """Norms and largest energies as of a training run: a noisy power law."""
    rng, t = np.random.default_rng(seed), np.arange(1, rounds + 1)
    norms = t**-0.8 * np.exp(0.2 * rng.standard_normal(rounds))
    return norms, (t + 5.0) ** -0.5 * np.exp(0.3 * rng.standard_normal(rounds))


def problem_of(norms: Real, largest: Real, uses: int, energy: float, size: int, **limits: Any) -> PlanProblem:
    rounds = len(norms)
    return PlanProblem(
        size * norms**2,
        size * largest,
        np.full(rounds, limits.get("lower", 1)),
        np.full(rounds, limits.get("upper", size)),
        np.full(rounds, limits.get("peak", np.inf)),
        uses,
        energy,
        np.zeros(0, np.int64),
        np.zeros(0),
    )


@st.composite
def shares(draw: st.DrawFn) -> tuple[Real, Real, Real, float]:
    slopes = np.array(draw(st.lists(LEVELS, min_size=1, max_size=8)))
    lower = np.array(draw(st.lists(st.floats(0, 5), min_size=len(slopes), max_size=len(slopes))))
    upper = lower + np.array(draw(st.lists(st.floats(0, 9), min_size=len(slopes), max_size=len(slopes))))
    fraction = draw(st.floats(0, 1))
    return slopes, lower, upper, float(lower.sum() + fraction * (upper - lower).sum())


@given(shares())
def test_water_filling_meets_its_optimality_conditions(case: tuple[Real, Real, Real, float]) -> None:
    slopes, lower, upper, total = case
    filled = water_fill(slopes, lower, upper, total)
    # rounding of at most sixteen terms of size up to a hundred
    assert filled.sum() == pytest.approx(total, abs=1e-10)
    assert ((filled >= lower) & (filled <= upper)).all()
    level = filled / slopes  # one k inside the limits, none above it at an upper limit, none below it at a lower one
    can_grow, can_shrink = filled < upper - 1e-9, filled > lower + 1e-9
    if can_grow.any() and can_shrink.any():
        assert level[can_shrink].max() <= level[can_grow].min() * (1 + 1e-9)


def test_water_filling_spreads_what_is_left_evenly_over_slopes_of_zero() -> None:
    filled = water_fill(np.array([1.0, 0.0, 0.0]), np.zeros(3), np.array([2.0, 9.0, 9.0]), 8.0)
    np.testing.assert_allclose(filled, [2, 3, 3], rtol=1e-15)
    np.testing.assert_array_equal(water_fill(np.array([1.0, 0.0]), np.zeros(2), np.array([5.0, 9.0]), 4.0), [4, 0])


@settings(max_examples=60)
@given(
    st.lists(st.floats(0, 1e4), min_size=3, max_size=3),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.lists(st.integers(0, 5), min_size=3, max_size=3),
    st.integers(0, 15),
)
def test_no_whole_numbers_are_better_than_those_found(
    worths: list[float], low: list[int], room: list[int], more: int
) -> None:
    q, lower, upper = np.array(worths), np.array(low), np.array(low) + room
    total = min(int(lower.sum()) + more, int(upper.sum()))
    found = whole_water_fill(q, lower, upper, total)
    assert found.sum() == total
    assert ((found >= lower) & (found <= upper)).all()
    everything = itertools.product(*(range(a, b + 1) for a, b in zip(lower, upper, strict=True)))
    best = min(float((q / m).sum()) for m in map(np.array, everything) if m.sum() == total)
    assert (q / found).sum() == pytest.approx(best, rel=1e-12)


def test_whole_numbers_may_be_further_than_one_from_the_real_ones() -> None:
    # ten shares of 1.45 are worth a second use more, 1.45^2/2 = 1.051, than 90.5 is its 90th, 1.022, or 89th, 1.046
    shares, ones = np.array([90.5, *[1.45] * 10]), np.ones(11, np.int64)
    found = whole_water_fill(shares**2, ones, 200 * ones, 105)
    np.testing.assert_array_equal(found, [88, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1])


def test_uses_follow_the_norms_and_energies_the_roots_of_the_largest() -> None:
    norms, largest = np.array([8.0, 4.0, 2.0, 1.0]), np.array([16.0, 4.0, 1.0, 4.0])
    plan = RoundPlan(4, size=1000, uses=150, energy=9.0)
    schedule = plan.schedule(norms, largest)
    np.testing.assert_array_equal(schedule.uses, [80, 40, 20, 10])
    np.testing.assert_allclose(schedule.energies, [4, 2, 1, 2], rtol=1e-12)


def test_an_error_that_counts_less_gets_less_by_the_root_of_its_weight() -> None:
    schedule = RoundPlan(3, size=1000, uses=210, energy=7.0, decay=0.25).schedule(np.ones(3), np.ones(3))
    np.testing.assert_array_equal(schedule.uses, [30, 60, 120])
    np.testing.assert_allclose(schedule.energies, [1, 2, 4], rtol=1e-12)


def test_equal_norms_that_count_the_same_make_the_constant_plan() -> None:
    plan = RoundPlan(7, size=50, uses=101, energy=3.0)
    norms, largest = np.full(7, 2.5), np.full(7, 0.3)
    schedule, constant = plan.schedule(norms, largest), plan.constant(norms, largest)
    np.testing.assert_array_equal(schedule.uses, constant.uses)
    np.testing.assert_array_equal(constant.uses, [15, 15, 15, 14, 14, 14, 14])
    np.testing.assert_allclose(schedule.energies, np.full(7, 3 / 7), rtol=1e-12)
    assert schedule.predicted_error == pytest.approx(constant.predicted_error, rel=1e-12)


def test_uses_stop_at_the_size_and_at_one() -> None:
    schedule = RoundPlan(4, size=20, uses=30, energy=1.0).schedule([100.0, 3.0, 2.0, 1e-6], np.ones(4))
    np.testing.assert_array_equal(schedule.uses, [20, 5, 4, 1])
    all_of_it = RoundPlan(4, size=20, uses=500, energy=1.0).schedule([100.0, 3.0, 2.0, 1e-6], np.ones(4))
    np.testing.assert_array_equal(all_of_it.uses, np.full(4, 20))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=30),
    st.integers(1, 40),
    st.floats(0, 1),
    st.floats(1e-13, 1e6),
    st.floats(0.5, 1),
)
def test_budgets_are_used_up_and_the_error_is_never_above_the_constant_plans(
    rounds: list[tuple[float, float]], size: int, fraction: float, energy: float, decay: float
) -> None:
    norms, largest = np.array(rounds).T
    least = len(norms)
    plan = RoundPlan(least, size, least + int(fraction * 1.2 * least * size), energy, decay)
    schedule, constant = plan.schedule(norms, largest), plan.constant(norms, largest)
    for found in (schedule, constant):
        assert found.uses.sum() == min(plan.uses, least * size)
        assert found.energies.sum() <= energy
        assert found.energies.sum() == pytest.approx(energy, rel=1e-12)
    assert schedule.predicted_error <= constant.predicted_error * (1 + 1e-12)  # equal where norms are: rounding


def test_only_ratios_of_norms_and_units_of_energy_matter() -> None:
    norms, largest = falling(20)
    plain = RoundPlan(20, 500, 1000, 30.0, 0.97).schedule(norms, largest)
    scaled = RoundPlan(20, 500, 1000, 30e-13, 0.97, noise_power=1e-13).schedule(1e-3 * norms, 1e-6 * largest)
    np.testing.assert_array_equal(plain.uses, scaled.uses)
    np.testing.assert_allclose(scaled.energies, 1e-13 * plain.energies, rtol=1e-12)
    assert scaled.predicted_error == pytest.approx(1e-6 * plain.predicted_error, rel=1e-12)


def test_predicted_error_is_that_of_random_linear_codes_under_channel_inversion() -> None:
    size, norms, largest = 64, np.array([2.0, 1.0]), np.array([0.5, 0.25])
    uses, energies, noise_power = np.array([48, 16]), np.array([6.0, 3.0]), 0.7
    plan = RoundPlan(2, size, 64, 9.0, decay=0.9, noise_power=noise_power)
    errors = []
    for m, energy, norm, c in zip(uses, energies, norms, largest, strict=True):
        squared_scale = c / size / (energy / m)  # a = max w_i ||x_i|| / (sqrt(d) |h_i| sqrt(P)), P = E/m
        code = RandomLinearCode(uses=int(m))
        assert code.padded_size(size) == size
        errors.append(code.mean_squared_error(size, norm**2, 0.0, squared_scale * noise_power))
    expected = 0.9 * errors[0] + errors[1]
    assert plan.predicted_error(uses, energies, norms, largest) == pytest.approx(expected, rel=1e-12)


def test_a_round_of_no_uses_is_lost_and_one_of_no_energy_is_all_noise() -> None:
    plan = RoundPlan(2, 10, 20, 1.0)
    assert plan.predicted_error([0, 10], [0.0, 1.0], [3.0, 1.0], [1.0, 0.0]) == 9.0
    assert plan.predicted_error([10, 10], [0.0, 1.0], [3.0, 1.0], [1.0, 1.0]) == np.inf


@pytest.mark.parametrize("limits", [{}, {"upper": 300, "lower": 30, "peak": 30.0}])
@pytest.mark.parametrize("rounds", [6, 60])
def test_cvxpy_finds_the_closed_form(rounds: int, limits: dict[str, Any]) -> None:
    problem = problem_of(*falling(rounds), 100 * rounds, 10.0 * rounds, 2000, **limits)
    uses, energies = ConstrainedPlan(problem, []).relaxed()
    pairs = (problem.compression, uses, problem.real_uses()), (problem.noise, energies, problem.energies())
    for coefficients, found, exact in pairs:
        # the solver's gap is 1e-8 of the objective, which is flat at its minimum: 1e-4 of the shares
        assert (coefficients / found).sum() == pytest.approx((coefficients / exact).sum(), rel=1e-7)
        np.testing.assert_allclose(found, exact, rtol=1e-3)


@pytest.mark.parametrize("limits", [{}, {"min_uses": 30, "max_uses": 300, "peak_energy": 30.0}])
def test_a_constraint_that_does_not_bind_changes_nothing(limits: dict[str, Any]) -> None:
    norms, largest = falling(40)
    free = RoundPlan(40, 2000, 4000, 400.0, 0.99, **limits).schedule(norms, largest)
    bound = RoundPlan(40, 2000, 4000, 400.0, 0.99, constraints=[lambda m, e: cp.sum(m) <= 5000], **limits)
    found = bound.schedule(norms, largest)
    assert found.uses.sum() == 4000
    assert found.predicted_error == pytest.approx(free.predicted_error, rel=1e-7)


def test_limits_of_single_rounds_hold_and_the_rest_is_planned_around_them() -> None:
    norms, largest = falling(10)
    deadline, peaks = np.full(10, 500), np.full(10, np.inf)
    deadline[0], peaks[1] = 60, 1.0
    plan = RoundPlan(10, 500, 600, 40.0, min_uses=35, max_uses=deadline, peak_energy=peaks)
    schedule = plan.schedule(norms, largest)
    assert [schedule.uses[0], schedule.uses.min(), schedule.uses.sum()] == [60, 35, 600]
    assert schedule.energies[1] == 1.0
    assert schedule.energies.sum() == pytest.approx(40, rel=1e-12)
    ratio = schedule.energies[2:] / np.sqrt(largest[2:])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_energy_beyond_the_peaks_stays_unspent() -> None:
    schedule = RoundPlan(3, 10, 9, 100.0, peak_energy=2.0).schedule([1.0, 2.0, 3.0], np.ones(3))
    np.testing.assert_array_equal(schedule.energies, [2, 2, 2])


def test_users_constraints_hold_for_whole_uses_and_the_budget_is_still_used_up() -> None:
    norms, largest = falling(12)
    limit = 170.5
    plan = RoundPlan(12, 400, 600, 60.0, constraints=[lambda m, e: cp.sum(m[:4]) <= limit, lambda m, e: e <= 0.12 * m])
    schedule = plan.schedule(norms, largest)
    assert schedule.uses[:4].sum() == 170  # a budget of the first rounds, which would take most
    assert schedule.uses.sum() == 600
    assert (schedule.energies <= 0.12 * schedule.uses + 1e-6).all()
    assert schedule.energies.sum() <= 60.0
    free = RoundPlan(12, 400, 600, 60.0).schedule(norms, largest)
    assert free.predicted_error < schedule.predicted_error < np.inf


def test_constraints_in_picojoules_hold_as_well_as_in_joules() -> None:
    norms, largest = falling(12)
    plans = [
        RoundPlan(12, 400, 600, 60.0 * unit, noise_power=unit, constraints=[lambda m, e, u=unit: e <= 0.08 * u * m])
        for unit in (1.0, 1e-12)
    ]
    joules, picojoules = (plan.schedule(norms, largest) for plan in plans)
    assert (
        picojoules.energies <= 0.08e-12 * picojoules.uses * (1 + 1e-6)
    ).all()  # solver's 1e-8 of a constraint's size
    np.testing.assert_array_equal(picojoules.uses, joules.uses)
    np.testing.assert_allclose(picojoules.energies, 1e-12 * joules.energies, rtol=1e-6)


def test_constraints_see_what_has_been_spent() -> None:
    norms, largest = falling(6)
    plan = RoundPlan(6, 100, 120, 12.0, constraints=[lambda m, e: cp.sum(e[:3]) <= 5])
    schedule = plan.schedule(norms, largest, spent_uses=[40, 20], spent_energies=[3.0, 1.5])
    np.testing.assert_array_equal(schedule.uses[:2], [40, 20])
    assert schedule.energies[2] == pytest.approx(0.5, rel=1e-6)  # solver's feasibility, 1e-8 of 12
    assert schedule.uses.sum() == 120


@pytest.mark.parametrize("constraint", [lambda m, e: m[0] + m[1] >= 2000, lambda m, e: [e >= 1.0, cp.sum(e) <= 3]])
def test_constraints_that_cannot_be_met_are_refused_with_the_solvers_status(constraint: Any) -> None:
    with pytest.raises(PowerControlError, match="infeasible"):
        RoundPlan(5, 500, 100, 10.0, constraints=[constraint]).schedule(np.ones(5), np.ones(5))


def test_a_least_number_that_is_not_whole_is_met_from_above() -> None:
    plan = RoundPlan(8, 100, 80, 10.0, constraints=[lambda m, e: m[5:] >= 12.5])
    schedule = plan.schedule(2.0 ** -np.arange(8), np.ones(8))
    np.testing.assert_array_equal(schedule.uses[5:], [13, 13, 13])
    assert schedule.uses.sum() == 80


def test_constraints_that_only_half_a_use_meets_are_refused() -> None:
    plan = RoundPlan(3, 50, 60, 10.0, constraints=[lambda m, e: m[0] == 10.5])
    with pytest.raises(PowerControlError, match="whole uses"):
        plan.schedule(np.ones(3), np.ones(3))


def test_a_constraint_that_is_not_convex_is_refused() -> None:
    with pytest.raises(ValueError, match="not convex"):
        RoundPlan(3, 50, 60, 10.0, constraints=[lambda m, e: cp.square(m) >= 4]).schedule(np.ones(3), np.ones(3))


def test_the_rest_of_the_best_plan_is_the_best_plan_of_the_rest() -> None:
    norms, largest = falling(30)
    plan = RoundPlan(30, 1000, 1500, 50.0, decay=0.98)
    whole = plan.schedule(norms, largest)
    for done in (1, 10, 29):
        later = plan.schedule(norms, largest, whole.uses[:done], whole.energies[:done])
        np.testing.assert_array_equal(later.uses, whole.uses)
        np.testing.assert_allclose(later.energies, whole.energies, rtol=1e-10)  # 30 sums of rounded energies


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rounds", 0),
        ("rounds", 2.5),
        ("size", 0),
        ("uses", 4),
        ("uses", np.nan),
        ("energy", 0.0),
        ("energy", np.inf),
        ("noise_power", -1.0),
        ("decay", 0.0),
        ("decay", 1.01),
        ("decay", np.nan),
        ("min_uses", 11),
        ("min_uses", 0),
        ("max_uses", 200),
        ("max_uses", [5, 5]),
        ("max_uses", 1.5),
        ("peak_energy", -1.0),
        ("peak_energy", np.nan),
    ],
)
def test_bad_parameters_are_named(field: str, value: Any) -> None:
    good: dict[str, Any] = {"rounds": 5, "size": 100, "uses": 50, "energy": 1.0}
    with pytest.raises(ValueError, match=field if field != "min_uses" else "uses") as error:
        RoundPlan(**good | {field: value})
    assert "accepted" in str(error.value)


def test_limits_that_cross_and_constraints_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_uses is .* at most max_uses"):
        RoundPlan(5, 100, 50, 1.0, min_uses=9, max_uses=8)
    with pytest.raises(TypeError, match="constraints holds a float"):
        RoundPlan(5, 100, 50, 1.0, constraints=[1.0])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("norms", "largest", "spent", "match"),
    [
        ([1.0, np.nan, 1.0], np.ones(3), ([], []), "mean_norms"),
        ([1.0, 1.0], np.ones(3), ([], []), "mean_norms has shape"),
        (np.ones(3), [1.0, -1.0, 1.0], ([], []), "largest_energies"),
        (np.ones(3), [1.0, np.inf, 1.0], ([], []), "largest_energies"),
        (np.ones(3), np.ones(3), ([1], []), "spent_uses"),
        (np.ones(3), np.ones(3), ([1, 1, 1], [0.1] * 3), "spent_uses"),
        (np.ones(3), np.ones(3), ([1.5], [0.1]), "spent_uses"),
        (np.ones(3), np.ones(3), ([9], [0.1]), "leaves 1 uses"),
    ],
)
def test_bad_norms_are_named(norms: Any, largest: Any, spent: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        RoundPlan(3, 10, 10, 1.0).schedule(norms, largest, *spent)
