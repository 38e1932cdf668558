"""Backup workers, deadlines and empty rounds."""

from __future__ import annotations

import numpy as np
import pytest

from fedmac.clock.links import Link
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from tests.fedmac.clock.simulated import clocked, one_more
from tests.strategies.systems.least_squares import run, sgd_step


def test_a_round_lasts_as_long_as_its_slowest_worker() -> None:
    told = run(Synchronous(), clocked(sgd_step, [1.0, 2.0, 5.0]), 3)
    assert told.times == [0.0, 5.0, 10.0, 15.0]


def test_with_backup_workers_a_round_does_not_wait_for_the_slowest() -> None:
    grid = clocked(one_more, [1.0, 2.0, 5.0])
    told = run(Synchronous(backup_workers=1), grid, 6, size=1)
    assert told.times == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert [figures["accepted"] for figures in told.figures] == [2] * 6
    # The slow worker's replies come at 5 and at 10, just after the reply of device 1 ends a round, and are dropped.
    assert [figures["late"] for figures in told.figures] == [0, 0, 1, 0, 0, 1]
    assert told.final == 6.0


def test_what_a_dropped_update_cost_is_charged() -> None:
    grid = clocked(one_more, [1.0, 2.0, 5.0])
    run(Synchronous(backup_workers=1), grid, 6, size=1)
    assert grid.used().compute_j[2] == 20.0  # two steps of 5 s at 2 W; the third is at work


def test_a_deadline_ends_a_round_with_whom_is_there() -> None:
    told = run(Synchronous(deadline_s=3.0), clocked(one_more, [1.0, 2.0, 50.0]), 4, size=1)
    # From the second round on the third worker is still at the first: no more will come after 2 s.
    assert told.times == [0.0, 3.0, 5.0, 7.0, 9.0]
    assert [figures["accepted"] for figures in told.figures] == [2] * 4


def test_a_reply_on_the_stroke_of_the_deadline_counts() -> None:
    told = run(Synchronous(deadline_s=2.0), clocked(one_more, [1.0, 2.0]), 2, size=1)
    assert [figures["accepted"] for figures in told.figures] == [2, 2]


def test_a_deadline_shorter_than_every_step_gives_empty_rounds_and_an_end_with_its_reason() -> None:
    grid = clocked(one_more, [4.0, 5.0])
    told = run(Synchronous(deadline_s=1.5, most_empty_rounds=4), grid, 100, size=1)
    assert [figures["empty"] for figures in told.figures] == [True] * 4
    assert "stopped" not in told.figures[-2]
    assert told.figures[-1]["stopped"] == (
        "4 rounds in a row were empty with deadline_s = 1.5: the quickest reply took 4 s; accepted: a longer deadline, "
        "fewer local steps, or another system"
    )
    assert told.final == 0.0
    assert grid.now == 6.0


def test_backups_for_everybody_are_refused_also_with_one_worker() -> None:
    with pytest.raises(ValueError, match=r"backup_workers = 1: there are 1 workers; accepted: 0"):
        run(Synchronous(backup_workers=1), clocked(one_more, [1.0]), 1, size=1)
    with pytest.raises(ValueError, match=r"backup_workers = 4: there are 4 workers; accepted: an integer from 0 to 3"):
        Synchronous(backup_workers=4, devices=4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backup_workers": -1}, "backup_workers = -1: accepted: an integer >= 0"),
        ({"deadline_s": 0.0}, "deadline_s = 0.0: accepted: a number > 0"),
        ({"most_empty_rounds": 0}, "most_empty_rounds = 0: accepted: an integer >= 1"),
        ({"on_lost": "panic"}, "on_lost = 'panic': accepted: go-on, wait"),
    ],
)
def test_parameters_out_of_range_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synchronous(**given)  # type: ignore[arg-type]


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="staleness_bound = -1: accepted: an integer >= 0, or infinity"):
        StaleSynchronous(staleness_bound=-1)


def test_workers_at_one_server_queue_for_it() -> None:
    # 5 numbers of 64 bits over a link of 320 bit/s: each message takes the server's link for a second.
    grid = clocked(sgd_step, [1.0] * 8, link=Link(320.0, 320.0, 0.0), server_bps=320.0)
    told = run(Synchronous(), grid, 1)
    # The eighth is sent from 7 to 8 and computes until 9; by then the others' replies, a second each, are in.
    assert told.times[-1] == pytest.approx(10.0)
    assert np.allclose(grid.used().bits_up, 320.0)
