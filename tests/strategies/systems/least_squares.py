"""Mini-batch least squares that workers share, and runs of systems on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.state_file import read_state, write_state
from strategies.systems.server_system import Figures, ServerSystem
from tests.fedmac.clock.simulated import vector

Vector = NDArray[np.float64]

SIZE, BATCH, RATE = 5, 8, 0.1


def batch(device: int, step: int) -> tuple[NDArray[np.float64], Vector]:
    """The examples that a device draws for its step."""
    draws = np.random.default_rng([device, step])
    inputs = draws.normal(size=(BATCH, SIZE))
    return inputs, inputs @ np.arange(SIZE) + 0.1 * draws.normal(size=BATCH)


def gradient(x: Vector, inputs: NDArray[np.float64], targets: Vector) -> Vector:
    """Of the mean squared error over two."""
    return inputs.T @ (inputs @ x - targets) / len(targets)


def sgd_step(device: int, x: Vector, step: int) -> Vector:
    """What a worker does."""
    return x - RATE * gradient(x, *batch(device, step))


@dataclass
class Run:
    """What a system has done."""

    figures: list[Figures] = field(default_factory=list)
    models: list[Vector] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    states: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)

    @property
    def final(self) -> Vector:
        return self.models[-1]


def run(
    system: ServerSystem,
    grid: Grid,
    rounds: int,
    *,
    timeout: float = 1e6,
    x: Vector | None = None,
    size: int = SIZE,
    states: bool = False,
) -> Run:
    """Run a system from zero, and keep all that is told."""
    told = Run()
    system.on_round = told.figures.append

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        told.models.append(arrays["x"].numpy())
        told.times.append(getattr(grid, "now", 0.0))
        if states:
            told.states.append((system.state(), grid.state()))  # type: ignore[attr-defined]
        return None

    system.start(
        grid, vector(np.zeros(size) if x is None else x), num_rounds=rounds, timeout=timeout, evaluate_fn=evaluate
    )
    return told


def kept_within(
    system: ServerSystem, clock: ClockedGrid, path: Path, rounds: int, timeout: float = 1e6
) -> tuple[Run, list[dict[str, Any]]]:
    """What a run does, and its state after every reply, as it comes back from a file."""
    kept: list[dict[str, Any]] = []

    def keep(over: bool) -> None:
        assert system.run is not None
        state = {"round": system.run.round, "over": over, "system": system.state(), "clock": clock.state()}
        write_state(path, state, sync=False)
        kept.append(read_state(path))

    system.keep_every, system.on_keep = 1, keep
    return run(system, clock, rounds, timeout=timeout), kept


def resumed_from(
    kept: dict[str, Any], system: ServerSystem, clock: ClockedGrid, rounds: int, timeout: float = 1e6
) -> Run:
    """The rest of a run that goes on from such a state."""
    system.go_on_from(kept["round"], kept["system"])
    clock.restore(kept["clock"])
    return run(system, clock, rounds, timeout=timeout)


def central(workers: int, rounds: int, rate: float = RATE) -> Vector:
    """SGD in one place, on the batches of all workers together."""
    x = np.zeros(SIZE)
    for step in range(1, rounds + 1):
        parts = [batch(device, step) for device in range(workers)]
        inputs, targets = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        x = x - rate * gradient(x, inputs, targets)
    return x


def uneven(workers: int) -> Sequence[float]:
    """Seconds of a step, all different, so that no two replies arrive at once."""
    return [1.0 + 0.37 * device for device in range(workers)]
