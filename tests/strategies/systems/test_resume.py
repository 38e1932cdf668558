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
from tests.strategies.systems.least_squares import run, sgd_step, uneven

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


def test_on_a_grid_without_a_clock_workers_are_sent_the_model_anew() -> None:
    first, second = Asynchronous(), Asynchronous()
    run(first, clocked(sgd_step, uneven(3)), 4)
    second.go_on_from(4, first.state())
    told = run(second, InstantGrid(3, sgd_step), 8)
    assert len(told.models) == 4
    assert np.isfinite(told.final).all()
