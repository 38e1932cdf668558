"""Workers crash, hang, come back and join late, and messages get lost: nothing stands still without saying why."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from fedmac.clock.faults import Faults, Incident
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from strategies.systems.server_system import ServerSystem
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from tests.fedmac.clock.simulated import Vector, clocked, one_more
from tests.strategies.systems.least_squares import run

EVERY_SYSTEM = [Synchronous, Asynchronous, StaleSynchronous, FedBuff]


def test_synchronous_goes_on_without_a_crashed_worker_and_takes_it_back() -> None:
    grid = clocked(one_more, [1.0, 1.0, 1.0], incidents=[Incident(2, "crash", 1.5, 2.0)])
    told = run(Synchronous(), grid, 5, size=1)
    # It goes in the second round, which then ends with two, as does the third; back at 3.5, in the fourth (3 to 4) it
    # begins at once and ends it at 4.5.
    assert [figures["accepted"] for figures in told.figures] == [3, 2, 2, 3, 3]
    assert told.times == [0.0, 1.0, 2.0, 3.0, 4.5, 5.5]
    assert told.figures[1]["failed"][0]["reason"] == "disconnected while at work"


def test_synchronous_can_wait_for_a_crashed_worker() -> None:
    grid = clocked(one_more, [1.0, 1.0, 1.0], incidents=[Incident(2, "crash", 1.5, 2.0)])
    told = run(Synchronous(on_lost="wait"), grid, 3, size=1)
    assert [figures["accepted"] for figures in told.figures] == [3, 3, 3]
    assert told.times == [0.0, 1.0, 4.5, 5.5]


def test_synchronous_that_waits_for_a_worker_that_never_comes_back_ends_with_the_reason() -> None:
    grid = clocked(one_more, [1.0, 1.0], incidents=[Incident(1, "crash", 1.5)])
    told = run(Synchronous(on_lost="wait"), grid, 5, size=1)
    assert told.figures[-1]["stopped"].startswith("nothing can happen any more")


@pytest.mark.parametrize("system", [Asynchronous, StaleSynchronous, FedBuff])
def test_systems_without_a_barrier_go_on_when_a_worker_crashes(system: type[ServerSystem]) -> None:
    grid = clocked(one_more, [1.0] * 4, incidents=[Incident(3, "crash", 2.5)])
    told = run(system(), grid, 10, size=1)
    assert "stopped" not in told.figures[-1]
    assert told.figures[-1]["connected"] == 3


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_a_worker_that_joins_late_takes_part_from_then_on(system: type[ServerSystem]) -> None:
    grid = clocked(one_more, [1.0] * 3, incidents=[Incident(2, "join", 4.0)])
    told = run(system(devices=3), grid, 8, size=1)
    first = min(step for device, step, _ in grid.grid.asked if device == 2)  # type: ignore[attr-defined]
    assert first == 1
    assert told.figures[-1]["connected"] == 3
    assert grid.used().busy_s[2] == pytest.approx(told.times[-1] - 4.0)
    assert grid.used().utilisation[2] == pytest.approx(1.0)


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_a_worker_that_hangs_is_given_up_and_asked_again(system: type[ServerSystem]) -> None:
    grid = clocked(one_more, [1.0, 1.0], incidents=[Incident(1, "hang", 0.5, 30.0)])
    told = run(system(), grid, 30, size=1, timeout=10.0)
    reasons = [failure["reason"] for figures in told.figures for failure in figures["failed"]]
    assert reasons[:1] == ["no reply in 10 s"]
    assert sum(figures["strays"] for figures in told.figures) >= 1  # its late reply answers nothing any more
    assert "stopped" not in told.figures[-1]
    assert {device for device, step, _ in grid.grid.asked if step > 1} == {0, 1}  # type: ignore[attr-defined]


def test_the_clock_of_one_that_hangs_for_good_holds_up_nobody() -> None:
    grid = clocked(one_more, [1.0, 1.0, 1.3], incidents=[Incident(1, "hang", 2.5)])
    told = run(StaleSynchronous(staleness_bound=1), grid, 20, size=1, timeout=5.0)
    assert len(told.figures) == 20
    assert "stopped" not in told.figures[-1]
    assert {failure["node"] for figures in told.figures for failure in figures["failed"]} == {grid.get_node_ids()[1]}
    # Those who are heard keep to the bound: who is one ahead may begin one step more.
    assert max(figures["clock_spread"] for figures in told.figures) == 2


def test_one_that_hung_goes_on_from_the_clock_of_the_slowest() -> None:
    grid = clocked(one_more, [1.0, 1.0, 1.0], incidents=[Incident(1, "hang", 2.5, 30.0)])
    system = StaleSynchronous(staleness_bound=0)
    told = run(system, grid, 60, size=1, timeout=5.0)
    assert "stopped" not in told.figures[-1]
    # From its own clock it would be tens of steps behind, and the others would wait for all of them.
    late = [figures for figures, time in zip(told.figures, told.times[1:], strict=True) if time > 40.0]
    assert len(late) > 10
    assert all(figures["clock_spread"] <= 1 and not figures["failed"] for figures in late)
    assert all(later - sooner <= 2.0 for sooner, later in pairwise(time for time in told.times if time > 40.0))


@pytest.mark.parametrize(("workers", "bound"), [(3, 0), (3, 1), (4, 0)])
def test_where_all_are_given_up_at_times_nobody_waits_for_ever(workers: int, bound: int) -> None:
    for seed in range(20):
        faults = Faults(workers, seed, loss=0.35)
        grid = clocked(one_more, [1.0 + 0.1 * worker for worker in range(workers)], faults=faults)
        told = run(StaleSynchronous(staleness_bound=bound), grid, 30, size=1, timeout=3.0)
        assert "nothing can happen any more" not in told.figures[-1].get("stopped", ""), seed


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_lost_messages_are_made_up_for(system: type[ServerSystem]) -> None:
    faults = Faults(4, 5, loss=0.2)
    told = run(system(), clocked(one_more, [1.0, 1.1, 1.2, 1.3], faults=faults), 20, size=1, timeout=5.0)
    assert len(told.figures) == 20
    assert any(figures["failed"] for figures in told.figures)


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_where_every_worker_hangs_for_ever_the_run_ends_with_the_reason(system: type[ServerSystem]) -> None:
    grid = clocked(one_more, [1.0, 1.0], incidents=[Incident(0, "hang", 0.5), Incident(1, "hang", 0.5)])
    told = run(system(), grid, 5, size=1, timeout=10.0)
    assert told.figures[-1]["stopped"].endswith(
        "times in a row a worker brought nothing, the last one: no reply in 10 s"
    )


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_where_all_workers_are_gone_for_ever_the_run_ends_with_the_reason(system: type[ServerSystem]) -> None:
    grid = clocked(one_more, [1.0, 1.0], incidents=[Incident(0, "crash", 2.5), Incident(1, "crash", 3.5)])
    told = run(system(), grid, 50, size=1)
    assert told.figures[-1]["stopped"].startswith("nothing can happen any more")


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_workers_that_fail_or_send_no_model_are_left_out_and_told(system: type[ServerSystem]) -> None:
    def answer(device: int, model: Vector, step: int) -> Vector:
        if device == 0:
            raise ValueError("no data")
        if device == 1:
            return model * np.nan
        if device == 2:
            return np.zeros(7)
        return model + 1.0

    told = run(system(), clocked(answer, [1.0, 1.0, 1.0, 1.0]), 3, size=2)
    reasons = " | ".join(failure["reason"] for figures in told.figures for failure in figures["failed"])
    assert "no data" in reasons
    assert "2 of 2 entries of the trained model are not finite" in reasons
    assert "shape (7,), expected shape (2,)" in reasons
    assert np.isfinite(told.final).all()
    assert told.final.max() > 0


def test_work_that_a_crash_cuts_short_is_charged_as_far_as_it_came() -> None:
    grid = clocked(one_more, [4.0, 4.0], incidents=[Incident(1, "crash", 3.0)])
    run(Synchronous(), grid, 1, size=1)
    used = grid.used()
    assert used.busy_s.tolist() == [4.0, 3.0]
    assert used.compute_j.tolist() == [8.0, 6.0]
    assert used.present_s.tolist() == [4.0, 3.0]
    assert used.idle_j.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("system", EVERY_SYSTEM)
def test_devices_that_crash_now_and_then_do_not_stop_a_run(system: type[ServerSystem]) -> None:
    faults = Faults(6, 9, mean_up_s=8.0, mean_down_s=2.0)
    told = run(system(), clocked(one_more, [1.0] * 6, faults=faults), 20, size=1, timeout=20.0)
    assert "stopped" not in told.figures[-1]
    assert any(figures["connected"] < 6 for figures in told.figures)
