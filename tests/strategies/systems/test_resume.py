"""A run that was killed goes on as the unbroken one would have, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.faults import Faults, Incident
from fedmac.clock.links import Link
from fedmac.state_file import read_state, write_state
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from strategies.systems.server_system import ServerSystem
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from tests.fedmac.clock.simulated import InstantGrid, clocked
from tests.strategies.systems.least_squares import SIZE, Run, kept_within, resumed_from, run, sgd_step, uneven

SYSTEMS: dict[str, Callable[[], ServerSystem]] = {
    "synchronous": lambda: Synchronous(deadline_s=4.0),
    "backup": lambda: Synchronous(backup_workers=2),
    "asynchronous": lambda: Asynchronous(staleness_exponent=0.5, largest_staleness=6),
    "stale-synchronous": lambda: StaleSynchronous(staleness_bound=1),
    "fedbuff": lambda: FedBuff(buffer=3),
    "two at a time": lambda: FedBuff(buffer=3, concurrency=2),
}
ROUNDS = 12


def grid() -> ClockedGrid:
    """Everything at once: jitter, stragglers, queues, losses, a hang, outages."""
    incidents = [Incident(0, "hang", 3.0, 6.0), Incident(1, "crash", 5.0, 4.0), Incident(4, "join", 2.0)]
    faults = Faults(5, 3, loss=0.05, mean_up_s=30.0, mean_down_s=3.0, incidents=incidents)
    return clocked(
        sgd_step, uneven(5), link=Link(3200.0, 6400.0, 0.01), server_bps=6400.0, faults=faults, seed=3, jitter=0.2,
        straggler_probability=0.1, straggler_slowdown=5.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("after", [1, 5, 11])
def test_a_run_resumed_after_any_round_is_the_unbroken_one(name: str, after: int, tmp_path: Path) -> None:
    unbroken = run(SYSTEMS[name](), grid(), ROUNDS, timeout=25.0)
    killed = run(SYSTEMS[name](), grid(), after, timeout=25.0, states=True)
    system, clock = killed.states[-1]
    write_state(tmp_path / "state.safetensors", {"system": system, "clock": clock})

    kept = read_state(tmp_path / "state.safetensors")
    resumed, resumed_grid = SYSTEMS[name](), grid()
    resumed.go_on_from(after, kept["system"])
    resumed_grid.restore(kept["clock"])
    rest = run(resumed, resumed_grid, ROUNDS, timeout=25.0)
    assert np.array_equal(rest.models, unbroken.models[after + 1 :])
    assert rest.times == unbroken.times[after + 1 :]
    assert rest.figures == unbroken.figures[after:]


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("timeout", [25.0, 4.0])  # the shorter one gives stragglers up
def test_a_run_resumed_within_a_round_is_the_unbroken_one(name: str, timeout: float, tmp_path: Path) -> None:
    unbroken, kept = kept_within(SYSTEMS[name](), grid(), tmp_path / "state.safetensors", ROUNDS, timeout)
    within = [one for one in kept if not one["over"]]
    assert within[0]["round"] == 0
    assert [one["system"]["replies"] for one in kept] == list(range(1, len(kept) + 1))
    assert any(one["system"]["figures"]["strays"] for one in within) == (timeout < 25.0)
    for one in within:
        rest = resumed_from(one, SYSTEMS[name](), grid(), ROUNDS, timeout)
        after = one["round"]
        assert np.array_equal(rest.models, unbroken.models[after + 1 :])
        assert rest.times == unbroken.times[after + 1 :]
        assert rest.figures == unbroken.figures[after:]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_state_of_a_version_that_kept_none_within_rounds_is_taken_as_of_a_round_s_end(name: str) -> None:
    unbroken = run(SYSTEMS[name](), grid(), ROUNDS, timeout=25.0, states=True)
    system, clock = run(SYSTEMS[name](), grid(), 5, timeout=25.0, states=True).states[-1]
    old = {key: value for key, value in system.items() if key not in ("replies", "stopped", "figures")}
    old["system"] = {k: v for k, v in system["system"].items() if k not in ("heard", "updates", "excused")}
    rest = resumed_from({"round": 5, "system": old, "clock": clock}, SYSTEMS[name](), grid(), ROUNDS, 25.0)
    assert np.array_equal(rest.models, unbroken.models[6:])
    assert rest.figures == unbroken.figures[5:]


def test_a_run_that_had_ended_early_does_not_begin_again() -> None:
    def too_short() -> Synchronous:
        return Synchronous(deadline_s=0.5, most_empty_rounds=2)

    ended = run(too_short(), clocked(sgd_step, uneven(3)), 10, states=True)
    assert "stopped" in ended.figures[-1]
    system, clock = ended.states[-1]
    rest = resumed_from({"round": 2, "system": system, "clock": clock}, too_short(), clocked(sgd_step, uneven(3)), 10)
    assert rest.figures == []


def test_on_a_grid_without_a_clock_a_round_goes_on_with_what_it_has(tmp_path: Path) -> None:
    # Two of three have answered. Device 0 was at its second step, which is lost with its message; now it is first.
    first, second, third = (sgd_step(device, np.zeros(SIZE), step) for device, step in ((0, 1), (1, 1), (0, 3)))
    told = in_real_time_after_two(lambda: FedBuff(buffer=3), tmp_path / "state.safetensors")
    assert told.final == pytest.approx((first + second + third) / 3)
    for make in (Asynchronous, StaleSynchronous, lambda: FedBuff(buffer=3)):
        told = in_real_time_after_two(make, tmp_path / "state.safetensors")
        assert [figures["accepted"] for figures in told.figures] == [3]
        assert len(told.models) == 1  # the one that begins the first round has been told already


def test_on_a_grid_without_a_clock_a_synchronous_round_begins_anew(tmp_path: Path) -> None:
    told = in_real_time_after_two(Synchronous, tmp_path / "state.safetensors")
    assert [figures["accepted"] for figures in told.figures] == [3]
    assert told.final == pytest.approx(np.mean([sgd_step(device, np.zeros(SIZE), 2) for device in range(3)], axis=0))


def in_real_time_after_two(make: Callable[[], ServerSystem], path: Path) -> Run:
    """The first round of three workers, killed after two replies, and gone on with on a grid without a clock."""
    _, kept = kept_within(make(), clocked(sgd_step, uneven(3)), path, 1)
    system = make()
    system.go_on_from(0, kept[1]["system"])
    return run(system, InstantGrid(3, sgd_step), 1)


def test_on_a_grid_without_a_clock_workers_are_sent_the_model_anew() -> None:
    first, second = Asynchronous(), Asynchronous()
    run(first, clocked(sgd_step, uneven(3)), 4)
    second.go_on_from(4, first.state())
    told = run(second, InstantGrid(3, sgd_step), 8)
    assert len(told.models) == 4
    assert np.isfinite(told.final).all()
