"""Planning during a run: budgets are never exceeded and used up, and norms foreseen rightly make the best plan."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel.power.norm_forecast import Observation, Pilot, PowerLaw
from channel.power.planner import Planner
from channel.power.power_control import PowerControlError
from channel.power.round_plan import RoundPlan

SEEN = st.floats(0, 1e6)


def run(planner: Planner, norms: Any, largest: Any, start: int = 0) -> tuple[list[int], list[float]]:
    granted = []
    for t in range(start, planner.plan.rounds):
        granted.append(planner.grant(t))
        planner.observe(t, norms[t], largest[t])
    uses, energies = zip(*granted, strict=True)
    return list(uses), list(energies)


def falling(rounds: int, exponent: float = 1.0, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng, t = np.random.default_rng(seed), np.arange(1, rounds + 1) + 5.0
    return t**-exponent * np.exp(0.2 * rng.standard_normal(rounds)), t**-0.4 * np.exp(0.2 * rng.standard_normal(rounds))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(SEEN, SEEN, st.floats(0, 1), st.booleans()), min_size=1, max_size=15),
    st.integers(0, 200),
    st.floats(1e-13, 1e6),
    st.integers(1, 6),
    st.floats(0.8, 1),
)
def test_budgets_are_never_exceeded_and_nothing_is_left_after_the_last_round(
    rounds: list[tuple[float, float, float, bool]], more: int, energy: float, every: int, decay: float
) -> None:
    total, size = len(rounds), 40
    plan = RoundPlan(total, size, total + more, energy, decay)
    planner, spent = Planner(plan, every=every), []
    for t, (norm, largest, part, heard) in enumerate(rounds):
        uses, granted = planner.grant(t)
        assert 1 <= uses <= size
        spent.append(granted)
        if heard and t < total - 1:  # what a round leaves of its grant can be given to a later one only
            spent[-1] = part * granted
            planner.observe(t, norm, largest, energy=spent[-1])
        assert math.fsum(spent) <= energy
        assert planner.remaining[0] >= total - 1 - t
    assert math.fsum(spent) == pytest.approx(energy, rel=1e-12)  # roundings of at most fifteen sums
    # uses are left only if every later round was at the size of an update, where more is of no use
    last = planner.grant(total - 1)[0]
    assert planner.remaining[0] == 0 or last == size


@pytest.mark.parametrize("every", [1, 7, 100])
@pytest.mark.parametrize("decay", [1.0, 0.97])
def test_a_pilot_that_comes_true_makes_the_grants_of_the_schedule(every: int, decay: float) -> None:
    norms, largest = falling(40)
    plan = RoundPlan(40, 800, 2000, 77.0, decay)
    schedule = plan.schedule(norms, largest)
    uses, energies = run(Planner(plan, Pilot(norms.tolist(), largest.tolist()), every), norms, largest)
    np.testing.assert_array_equal(uses, schedule.uses)
    np.testing.assert_allclose(energies, schedule.energies, rtol=1e-10)  # 40 sums of rounded energies


def test_before_anything_is_observed_the_prior_law_is_planned() -> None:
    plan = RoundPlan(50, 5000, 20_000, 10.0)
    planner = Planner(plan)
    uses, energy = planner.grant(0)
    t = np.arange(1, 51)
    law = (t + 5.0) ** -0.5
    assert uses == pytest.approx(20_000 * law[0] / law.sum(), abs=1)  # a whole number
    assert energy == pytest.approx(10.0 * np.sqrt(law[0]) / np.sqrt(law).sum(), rel=1e-12)
    assert Planner(plan, PowerLaw(exponent=0)).grant(0)[0] == 400


def test_a_law_of_exponent_zero_that_is_not_fitted_grants_the_constant_plan() -> None:
    norms, largest = falling(30)
    plan = RoundPlan(30, 100, 777, 3.0)
    uses, energies = run(Planner(plan, PowerLaw(0, 0, fit=False), every=4), norms, largest)
    constant = plan.constant()
    np.testing.assert_array_equal(uses, constant.uses)
    np.testing.assert_allclose(energies, constant.energies, rtol=1e-10)


def test_planning_from_past_norms_comes_close_to_knowing_them() -> None:
    norms, largest = falling(200, exponent=1.1)
    plan = RoundPlan(200, 7850, 31_400, 2000.0, noise_power=1e-4)
    best, constant = plan.schedule(norms, largest).predicted_error, plan.constant(norms, largest).predicted_error
    online = plan.predicted_error(*run(Planner(plan), norms, largest), norms, largest)
    assert best < online < best + 0.25 * (constant - best)


def test_the_fit_finds_the_exponent_once_there_are_many_rounds() -> None:
    norms, largest = falling(200, exponent=1.2)
    seen = [Observation(t, float(norms[t]), float(largest[t])) for t in range(150)]
    predicted, energies = PowerLaw(prior_deviation=10.0).predict(200, seen)
    slope = np.log(predicted[199] / predicted[0]) / np.log(205 / 6)
    # scatter .2 over log t of spread .75: a standard error of .2/(.75 sqrt(150)) = .02
    assert slope == pytest.approx(-1.2, abs=0.08)
    assert np.log(energies[199] / energies[0]) / np.log(205 / 6) == pytest.approx(-0.4, abs=0.08)


def test_few_rounds_hardly_move_the_exponent_and_no_norm_of_zero_does() -> None:
    early = [Observation(t, float((t + 6.0) ** -2), 1.0) for t in range(3)]
    silent = [*early, Observation(3, 0.0, 0.0)]
    predicted, _ = PowerLaw().predict(50, early)
    slope = -np.log(predicted[49] / predicted[0]) / np.log(55 / 6)
    assert 0.5 < slope < 0.6
    np.testing.assert_array_equal(PowerLaw().predict(50, silent), PowerLaw().predict(50, early))


def test_one_wild_norm_moves_the_fit_little() -> None:
    norms = (np.arange(60) + 6.0) ** -0.8
    seen = [Observation(t, float(n), 1.0) for t, n in enumerate(norms)]
    wild = [*seen[:59], Observation(59, float(norms[59] * 1e-6), 1.0)]
    clean, moved = PowerLaw().predict(100, seen)[0], PowerLaw().predict(100, wild)[0]
    assert np.log(moved[99] / moved[60]) == pytest.approx(np.log(clean[99] / clean[60]), abs=0.1)


def test_norms_that_rise_are_not_expected_to_go_on_rising() -> None:
    rising = [Observation(t, float(t + 1), 1.0) for t in range(100)]
    predicted, _ = PowerLaw().predict(150, rising)
    np.testing.assert_allclose(predicted, predicted[0], rtol=1e-6)


def test_a_planner_restored_from_json_goes_on_as_if_nothing_had_happened() -> None:
    norms, largest = falling(30)
    plan = RoundPlan(30, 300, 900, 1.7)
    whole = Planner(plan, every=4)
    expected = run(whole, norms, largest)
    first = Planner(plan, every=4)
    for t in range(13):
        first.grant(t)
        first.observe(t, norms[t], largest[t])
    resumed = Planner(plan, every=4)
    resumed.restore(json.loads(json.dumps(first.state())))
    assert run(resumed, norms, largest, start=13) == (expected[0][13:], expected[1][13:])
    fresh = Planner(plan, every=4)
    fresh.restore(json.loads(json.dumps(Planner(plan).state())))
    assert run(fresh, norms, largest) == expected


def test_a_round_asked_for_again_gets_the_same_and_one_passed_over_takes_nothing() -> None:
    planner = Planner(RoundPlan(6, 50, 60, 6.0), PowerLaw(0, 0, fit=False), every=1)
    first = planner.grant(0)
    assert planner.grant(0) == first == (10, pytest.approx(1.0))
    assert planner.grant(3) == (17, pytest.approx(5 / 3))  # 50 uses and energy 5 for rounds 3, 4 and 5
    assert planner.grant(2) == (0, 0.0)
    np.testing.assert_array_equal(planner.planned[0], [10, 0, 0, 17, 17, 16])


def test_energy_that_a_round_did_not_spend_goes_to_later_rounds() -> None:
    planner = Planner(RoundPlan(3, 50, 60, 6.0), PowerLaw(0, 0, fit=False), every=1)
    planner.grant(0)
    planner.observe(0, 1.0, 1.0, energy=0.5)
    assert planner.grant(1)[1] == pytest.approx(2.75)


def test_a_plan_that_cannot_be_renewed_is_kept_with_a_warning() -> None:
    calls: list[int] = []

    def later_impossible(uses: Any, energies: Any) -> Any:
        calls.append(1)
        return cp.sum(uses) <= (500 if len(calls) <= 3 else -1)

    planner = Planner(RoundPlan(6, 50, 60, 6.0, constraints=[later_impossible]), PowerLaw(exponent=0), every=2)
    granted = [planner.grant(t) for t in range(6)]
    assert sum(uses for uses, _ in granted) == 60
    assert any("infeasible" in warning and "plan of round 0 is kept" in warning for warning in planner.warnings)


def test_a_first_plan_that_cannot_be_made_is_an_error() -> None:
    plan = RoundPlan(6, 50, 60, 6.0, constraints=[lambda m, e: cp.sum(m) >= 100])
    with pytest.raises(PowerControlError, match="infeasible"):
        Planner(plan).grant(0)


def test_a_pilot_is_read_from_json(tmp_path: Path) -> None:
    path = tmp_path / "pilot.json"
    path.write_text('{"mean_norms": [3, 2], "largest_energies": [1, 0.5], "seed": 4}')
    assert Pilot.from_json(path) == Pilot([3, 2], [1, 0.5])
    path.write_text('{"mean_norms": [3, 2]}')
    with pytest.raises(ValueError, match="no pilot run"):
        Pilot.from_json(path)


def test_bad_input_is_named() -> None:
    plan = RoundPlan(3, 10, 9, 1.0)
    planner = Planner(plan)
    with pytest.raises(ValueError, match="every is 0"):
        Planner(plan, every=0)
    with pytest.raises(ValueError, match="before the first grant"):
        _ = planner.planned
    with pytest.raises(ValueError, match="round is 3; accepted: 0 to 2"):
        planner.grant(3)
    with pytest.raises(ValueError, match="round is 0; accepted: one that has been granted"):
        planner.observe(0, 1.0, 1.0)
    _, energy = planner.grant(0)
    for bad in ({"mean_norm": math.nan}, {"largest_energy": -1.0}, {"energy": math.inf}, {"energy": 1.1 * energy}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} of round 0"):
            planner.observe(0, **{"mean_norm": 1.0, "largest_energy": 1.0} | bad)
    with pytest.raises(ValueError, match="the pilot has 2 rounds"):
        Planner(plan, Pilot([1, 1], [1, 1])).grant(0)
    with pytest.raises(ValueError, match="one of each a round"):
        Pilot([1, 1], [1])
    with pytest.raises(ValueError, match="mean_norms of the pilot"):
        Pilot([1, math.nan], [1, 1])
    for field, value in (("exponent", 3.0), ("energy_exponent", math.nan), ("offset", 0.0), ("prior_deviation", 0.0)):
        with pytest.raises(ValueError, match=f"{field} is"):
            PowerLaw(**{field: value})


def test_a_state_that_does_not_fit_the_budget_is_refused() -> None:
    planner = Planner(RoundPlan(5, 10, 30, 1.0))
    planner.grant(1)
    with pytest.raises(ValueError, match="a run of 4"):
        Planner(RoundPlan(4, 10, 30, 1.0)).restore(planner.state())
    with pytest.raises(ValueError, match="has spent"):
        Planner(RoundPlan(5, 10, 5, 1.0)).restore(planner.state())
