"""Owners, places and limits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from channel.randomness import generator, torch_generator
from strategies.repurpose import DoesNotFit, Links, Worker, account, repurpose
from strategies.repurpose.assignment import assign, places_by_share
from strategies.repurpose.workers import shares
from tests.strategies.repurpose.networks import convolutional, dense, inputs


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


@pytest.mark.parametrize(
    ("sizes", "team"),
    [
        ((64, 16, 12, 10), [Worker(multiply_adds=400), Worker(multiply_adds=955)]),
        ((12, 16, 7, 6), [Worker(multiply_adds=173), Worker(multiply_adds=173)]),
        ((12, 5, 5, 5), [Worker(multiply_adds=40)] * 3),
        ((12, 5, 5, 5), [Worker(speed=1.0, memory=170), Worker(speed=3.0, memory=400)]),
        ((12, 5, 5, 5), [Worker(memory=200, multiply_adds=44), Worker(speed=9e8), Worker(multiply_adds=40)]),
    ],
)
def test_no_worker_holds_or_computes_more_than_its_limits(sizes: tuple[int, ...], team: list[Worker]) -> None:
    x = torch.randn(50, sizes[0], generator=torch_generator(0, "inputs"))
    plan = repurpose(dense(sizes), x, team, 0.0)
    for number, worker in enumerate(team):
        rows = [int((owners == number).sum()) for owners in plan.owners[1:]]
        work = sum(count * before for count, before in zip(rows, sizes, strict=False))
        assert work <= worker.multiply_adds
        assert 4 * (work + sum(rows)) <= worker.memory  # a weight has 4 bytes, and each row a bias
    assert [len(owners) for owners in plan.owners[1:]] == list(sizes[1:])


def test_the_limits_of_convolutions_count_each_position() -> None:
    model = convolutional()
    free = repurpose(model, inputs(model), [Worker(), Worker()], 0.0)
    half = account(free).multiply_adds[0]
    plan = repurpose(model, inputs(model), [Worker(multiply_adds=0.9 * half), Worker()], 0.0)
    assert 0 < account(plan).multiply_adds[0] <= 0.9 * half


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"multiply_adds": 55}, "worker 0 would get 66 multiply-adds with multiply_adds = 55, 11 too many"),
        ({"memory": 250}, "worker 0 would get 300 bytes with memory = 250, 50 too many"),
    ],
)
def test_whole_units_that_do_not_go_into_limits_are_refused(limit: dict[str, float], said: str) -> None:
    # the rows of the layers have 12, 5 and 5 weights: 12 a + 5 b is never 55 with a, at most 5, and b, at most 10
    with pytest.raises(DoesNotFit, match=said):
        repurpose(dense((12, 5, 5, 5)), inputs(dense()), [Worker(**limit), Worker(**limit)], 0.0)


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
