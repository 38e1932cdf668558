"""One run of a system of a server and its workers: on a simulated clock, or over a network in real time."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from channel.uplinks import IdealUplink
from fedmac.build import build_coded_updates
from fedmac.clock.build_clock import build_clock
from fedmac.clock.clocked_grid import ClockedGrid, Span
from fedmac.engines.local import LocalGrid
from fedmac.journal import Journal, Keeper
from fedmac.learning_task import LearningTask
from fedmac.logs import quiet_flower
from fedmac.record import RoundRecord
from strategies.air_grid import AirGrid
from strategies.names import STRATEGIES
from strategies.systems.server_system import Figures, ServerSystem


def learn_system(task: LearningTask, grid: Grid) -> dict[str, NDArray[Any]]:
    """Run one variant whose strategy is a system; result and errors are :func:`fedmac.learn.learn`'s.

    On the local engine time is simulated: the devices get the scenario's clock. On others it is the wall's.
    """
    scenario, seed = task.scenario, task.seed
    spans: list[Span] = []
    timed = build_clock(scenario, seed, grid, task.workplace, spans.append) if isinstance(grid, LocalGrid) else None
    system: ServerSystem = STRATEGIES[scenario.strategy.name].load()(
        devices=scenario.data.devices, **scenario.strategy.parameters
    )
    journal = Journal(task)
    # Of nodes in the wild the devices' numbers have to be asked for, which AirGrid knows how to.
    within = scenario.engine.round_timeout_s
    asked = grid if timed is not None else AirGrid(grid, IdealUplink(), seed=seed, numbers_within=within)
    nodes = asked.get_node_ids()
    system.numbers = number = {node: device for device, node in enumerate(nodes)}
    system.trust = scenario.trust.of(scenario.data.devices)
    if scenario.uplink.kind == "digital":
        system.coding = build_coded_updates(scenario, seed, number)
    system.on_round = lambda figures: journal.note_iteration(_record(figures, number, system, timed, spans))
    initial = task.initial()
    if task.past is not None:
        journal.restore(task.past.journal)
        system.go_on_from(task.past.round, task.past.state["system"])
        if timed is not None:
            timed.restore(task.past.state["clock"])
    with quiet_flower():
        result = system.start(
            timed or grid,
            initial,
            num_rounds=scenario.rounds,
            timeout=scenario.engine.round_timeout_s,
            train_config=ConfigRecord(task.label),
            evaluate_fn=Keeper(task, SystemState(system, timed), journal),
        )
    return {name: array.numpy() for name, array in (result.arrays or initial).items()}


class SystemState:
    """What a system and its clock remember, in one.

    Parameters
    ----------
    system : ServerSystem
        The system.
    clock : ClockedGrid, optional
        Its clock, where time is simulated.
    """

    def __init__(self, system: ServerSystem, clock: ClockedGrid | None) -> None:
        self.system = system
        self.clock = clock

    def state(self) -> dict[str, Any]:
        """Of both, after a round."""
        return {"system": self.system.state(), "clock": None if self.clock is None else self.clock.state()}


def _record(
    figures: Figures, number: dict[int, int], system: ServerSystem, timed: ClockedGrid | None, spans: list[Span]
) -> RoundRecord:
    """A round's figures by device numbers, with what the clock tells."""
    failed = figures.pop("failed")
    record: RoundRecord = {**figures}
    record["failures"] = [
        {"device": number.get(one["node"], -1), "reason": one["reason"], "kind": one["kind"]} for one in failed
    ]
    if timed is None:
        record["clock_s"] = 0.0 if system.run is None else system.run.now
        return record
    record |= timed.used().record()
    if timed.on_span is not None:
        record["spans"] = [list(span) for span in spans]
        spans.clear()
    return record
