"""Owners, places and limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel.randomness import generator
from strategies.repurpose import DoesNotFit, Links, Worker, repurpose
from strategies.repurpose.assignment import assign, places_by_share
from strategies.repurpose.workers import shares
from tests.strategies.repurpose.networks import dense, inputs


def test_the_assignment_is_the_cheapest_of_all() -> None:
    cost = generator(0, "cost").random((6, 3))
    places = [3, 2, 1]
    found = assign(cost, places)
    all_owners = set(itertools.permutations([0, 0, 0, 1, 1, 2]))
    best = min(sum(cost[j, q] for j, q in enumerate(owners)) for owners in all_owners)
    assert np.bincount(found).tolist() == places
    assert cost[np.arange(6), found].sum() == pytest.approx(best)


@given(st.integers(0, 200), st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
def test_places_are_all_dealt_out_and_near_their_shares(units: int, weights: list[float]) -> None:
    share = np.array(weights) / sum(weights)
    places = places_by_share(units, share)
    assert sum(places) == units
    assert np.abs(np.array(places) - units * share).max() < 1 + 1e-6


def test_units_are_shared_out_by_speed() -> None:
    plan = repurpose(dense(), inputs(dense()), [Worker(speed=1e6), Worker(speed=3e6)], 0.1)
    assert [np.bincount(owners).tolist() for owners in plan.owners[1:3]] == [[4, 12], [2, 6]]


def test_a_limited_worker_gets_no_more_than_its_limit() -> None:
    model = dense((16, 16, 16, 16))
    x = inputs(dense((12, 4)))[:, :1].repeat(1, 16)
    plan = repurpose(model, x, [Worker(multiply_adds=3 * 16 * 2), Worker(), Worker()], 0.0)
    # 2 of 16 rows of each layer are its limit; the others share the rest
    assert all(np.bincount(owners)[0] == 2 for owners in plan.owners[1:])


def test_limits_that_do_not_fit_are_refused_with_what_is_missing() -> None:
    with pytest.raises(DoesNotFit, match=r"hold 50.0% of the model, 400 multiply-adds.*; 200 multiply-adds"):
        shares([Worker(multiply_adds=100), Worker(multiply_adds=100)], 400, 1600)


def test_whole_units_that_do_not_go_into_limits_are_refused() -> None:
    sizes = (12, 16, 7, 6)
    tight = Worker(multiply_adds=dense_work(sizes) / 2)
    with pytest.raises(DoesNotFit, match="units go to nobody"):
        repurpose(dense(sizes), inputs(dense()), [tight, tight], 0.0)


def dense_work(sizes: tuple[int, ...]) -> int:
    """Multiply-adds of a dense network."""
    return sum(a * b for a, b in itertools.pairwise(sizes))


def test_more_workers_than_neurons_are_refused() -> None:
    with pytest.raises(ValueError, match="workers = 9: 2 has 8 units; accepted: at most 8"):
        repurpose(dense(), inputs(dense()), 9, 0.0)


@pytest.mark.parametrize(("name", "value"), [("speed", 0.0), ("memory", -1.0), ("multiply_adds", float("nan"))])
def test_a_worker_that_cannot_be_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = "):
        Worker(**{name: value})


def test_links_between_another_number_of_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="links between 3 workers; accepted: 2"):
        repurpose(dense(), inputs(dense()), 2, 0.0, links=Links.equal(3))
