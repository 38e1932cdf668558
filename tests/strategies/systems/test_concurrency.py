"""How many workers train at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fedmac.clock.clocked_grid import Span
from fedmac.clock.faults import Incident
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from strategies.systems.server_system import ServerSystem
from tests.fedmac.clock.simulated import InstantGrid, clocked, one_more
from tests.strategies.systems.least_squares import SIZE, run, sgd_step, uneven


def most_at_once(spans: list[Span]) -> int:
    """How many compute spans overlap, at most."""
    edges = sorted([(end, -1) for _, _, _, end in spans] + [(start, 1) for _, _, start, _ in spans])
    return int(np.cumsum([step for _, step in edges]).max())


@pytest.mark.parametrize("concurrency", [1, 2, 4])
@pytest.mark.parametrize("system", [Asynchronous, FedBuff])
def test_so_many_train_at_a_time_and_no_more(system: type[FedBuff], concurrency: int) -> None:
    spans: list[Span] = []
    run(system(concurrency=concurrency), clocked(sgd_step, uneven(6), jitter=0.5, on_span=spans.append), 5)
    assert most_at_once(spans) == concurrency


@pytest.mark.parametrize("system", [Asynchronous, FedBuff])
def test_room_for_all_is_no_limit(system: type[FedBuff]) -> None:
    told = [run(system(concurrency=most), clocked(sgd_step, uneven(5), jitter=0.3), 8) for most in (5, 9, float("inf"))]
    assert told[0].times == told[1].times == told[2].times
    assert np.array_equal(told[0].models, told[2].models)


def test_one_at_a_time_is_sgd_on_one_device_after_the_other() -> None:
    told = run(Asynchronous(concurrency=1), clocked(sgd_step, uneven(4)), 3)
    x = np.zeros(SIZE)
    for step in range(1, 4):
        for device in range(4):
            x = sgd_step(device, x, step)
    np.testing.assert_allclose(told.final, x, rtol=1e-12, atol=1e-12)  # x + (trained - x) rounds once more
    assert all(figures["staleness_max"] == 0 for figures in told.figures)


def test_who_has_waited_longest_goes_next_so_that_slow_workers_have_their_turns() -> None:
    grid = clocked(one_more, [1.0, 1.0, 1.0, 5.0, 1.0], jitter=0.2)
    run(FedBuff(concurrency=2, buffer=3), grid, 20)
    assert isinstance(grid.grid, InstantGrid)
    turns = Counter(device for device, _, _ in grid.grid.asked)
    assert set(turns) == set(range(5))
    assert turns[3] * 5 > 0.4 * sum(turns.values())  # without turns the slow one would have a fifth of the others'


def test_room_left_by_a_worker_that_goes_is_taken_by_another() -> None:
    grid = clocked(one_more, [4.0, 1.0, 1.0], incidents=[Incident(0, "crash", 1.0)])
    told = run(Asynchronous(concurrency=1, devices=2), grid, 2, timeout=50.0)
    assert [device for device, _, _ in grid.grid.asked] == [1, 2, 1, 2]  # type: ignore[attr-defined]
    assert told.figures[0]["failed"][0]["reason"] == "disconnected while at work"


@pytest.mark.parametrize("system", [Asynchronous, FedBuff])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_less_than_one_at_a_time_is_refused(system: type[ServerSystem], value: float) -> None:
    with pytest.raises(ValueError, match=f"concurrency = {value}: accepted: an integer >= 1, or infinity"):
        system(concurrency=value)  # type: ignore[call-arg]
