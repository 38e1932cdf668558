"""Who can be reached: shares, lengths of outages, and answers that depend on nothing but their name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel.availability import AVAILABILITIES, Always, Availability, Bernoulli, Bursty


def states(availability: Availability, rounds: int, devices: int, seed: int = 1) -> NDArray[np.bool_]:
    return np.stack([availability.available(t, devices, seed) for t in range(rounds)])


def outages(reached: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the outages of devices (T, N) that begin and end within the rounds."""
    lengths = []
    for device in reached.T:
        changes = np.flatnonzero(np.diff(device.astype(int)))
        begins = [t for t in changes if device[t]]
        lengths += [min(t for t in changes if t > begin) - begin for begin in begins if begin < changes[-1]]
    return np.array(lengths)


@pytest.mark.parametrize("availability", [Bernoulli(0.7), Bursty(0.7, 1.5), Bursty(0.7, 8.0), Bursty(0.2, 5.0)])
def test_the_share_of_reached_devices_is_the_probability_from_the_first_round_on(availability: Any) -> None:
    reached = states(availability, 30, 20_000)
    for t in (0, 1, 29):
        assert reached[t].mean() == pytest.approx(availability.probability, abs=0.02)  # sd at most .0035


def test_outages_last_as_long_as_they_should_and_are_geometric() -> None:
    mean_burst = 4.0
    lengths = outages(states(Bursty(0.8, mean_burst), 1500, 30))
    n = len(lengths)
    assert n > 1500
    # Long ones are likelier to be cut off at the end: 4 of 1,500 rounds, far below the sd of 2 %.
    assert lengths.mean() == pytest.approx(mean_burst, rel=0.1)
    for length in (1, 2, 5):
        share, expected = np.mean(lengths > length), (1 - 1 / mean_burst) ** length
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n))


def test_bursty_states_forget_geometrically_and_bernoulli_ones_at_once() -> None:
    bursty = Bursty(0.6, 5.0)
    reached = states(bursty, 4, 40_000).astype(float)
    for lag in (1, 2, 3):
        correlation = np.corrcoef(reached[0], reached[lag])[0, 1]
        assert correlation == pytest.approx((1 - bursty.failure - bursty.recovery) ** lag, abs=0.025)  # sd .005
    reached = states(Bernoulli(0.6), 2, 40_000).astype(float)
    assert abs(np.corrcoef(reached)[0, 1]) < 0.025


def test_outages_of_the_length_that_chance_makes_are_bernoulli() -> None:
    bursty = Bursty(0.75, 1 / 0.75)  # then an outage begins and goes on with the same probability
    assert bursty.failure == pytest.approx(1 - bursty.recovery)
    reached = states(bursty, 2, 40_000).astype(float)
    assert abs(np.corrcoef(reached)[0, 1]) < 0.025


@settings(deadline=None, max_examples=40)
@given(
    rounds=st.lists(st.integers(0, 25), min_size=1, max_size=8),
    other_seed=st.integers(0, 3),
    devices=st.integers(1, 12),
)
def test_a_round_is_the_same_whatever_was_asked_for_before(rounds: list[int], other_seed: int, devices: int) -> None:
    for availability in (Bursty(0.6, 3.0), Bernoulli(0.6)):
        for round in rounds:
            asked = availability.available(round, devices, 0)
            handed_out = availability.available(round, devices, 0)
            handed_out[:] = ~handed_out  # is the caller's own
            np.testing.assert_array_equal(availability.available(round, devices, 0), asked)
            availability.available(max(rounds), devices + 1, other_seed)
            fresh = type(availability)(**{k: v for k, v in vars(availability).items() if not k.startswith("_")})
            np.testing.assert_array_equal(asked, fresh.available(round, devices, 0))
            more = fresh.available(round, devices + 5, 0)  # and a device's, whoever else there is
            np.testing.assert_array_equal(asked, more[:devices])


def test_always_and_certain_reach_everybody() -> None:
    for availability in (Always(), Bernoulli(1.0), Bursty(1.0, 3.0)):
        assert states(availability, 5, 10).all()


def test_seeds_differ_and_names_are_those_of_a_scenario() -> None:
    for availability in (Bernoulli(0.5), Bursty(0.5, 4.0)):
        assert not np.array_equal(availability.available(3, 100, 0), availability.available(3, 100, 1))
    assert set(AVAILABILITIES) == {"always", "bernoulli", "bursty"}
    assert Bursty(0.5, 4.0) == Bursty(0.5, 4.0)
    assert repr(Bursty(0.5, 4.0)) == "Bursty(probability=0.5, mean_burst=4.0)"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Bernoulli(0.0), "probability is 0.0; accepted: 0 < probability <= 1"),
        (lambda: Bernoulli(math.nan), "probability is nan"),
        (lambda: Bursty(1.2, 3.0), "probability is 1.2"),
        (lambda: Bursty(0.5, 0.5), "mean_burst is 0.5; accepted: a finite number of rounds >= 1,"),
        (lambda: Bursty(0.1, 5.0), "mean_burst is 5.0; accepted: a finite number of rounds >= 9"),
        (lambda: Bursty(0.5, math.inf), "mean_burst is inf"),
        (lambda: Bursty(0.5, 2.0).available(-1, 3, 0), "round is -1"),
    ],
)
def test_what_is_not_accepted_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
