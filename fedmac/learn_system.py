"""One run of a system of a server and its workers: on a simulated clock, or over a network in real time."""

from __future__ import annotations

from typing import Any

from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from channel.uplinks import IdealUplink
from fedmac.build import build_coded_updates
from fedmac.checkpoint import Checkpoint
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
    initial, state = task.initial(), SystemState(system, timed, spans)
    if task.past is not None:
        journal.restore(task.past.journal)
        state.restore(task.past)
    keeper = Keeper(task, state, journal)
    if scenario.engine.checkpoint_arrivals is not None:
        system.keep_every = scenario.engine.checkpoint_arrivals
        system.on_keep = lambda over: _put_down(keeper, system, over)
    with quiet_flower():
        result = system.start(
            timed or grid,
            initial,
            num_rounds=scenario.rounds,
            timeout=scenario.engine.round_timeout_s,
            train_config=ConfigRecord(task.label),
            evaluate_fn=keeper,
        )
    return {name: array.numpy() for name, array in (result.arrays or initial).items()}


class SystemState:
    """What a system, its clock and the record of a round that is on remember, in one.

    Parameters
    ----------
    system : ServerSystem
        The system.
    clock : ClockedGrid, optional
        Its clock, where time is simulated.
    spans : list of Span
        What devices have done since the last round was over, as far as it is recorded.
    """

    def __init__(self, system: ServerSystem, clock: ClockedGrid | None, spans: list[Span]) -> None:
        self.system = system
        self.clock = clock
        self.spans = spans

    def state(self) -> dict[str, Any]:
        """Of all of them, between two events."""
        clock = None if self.clock is None else self.clock.state()
        return {"system": self.system.state(), "clock": clock, "spans": list(self.spans)}

    def restore(self, past: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.system.go_on_from(past.round, past.state["system"])
        if self.clock is not None:
            self.clock.restore(past.state["clock"])
            self.spans[:] = past.state.get("spans", ())  # not in checkpoints of before they could be within a round


def _put_down(keeper: Keeper, system: ServerSystem, over: bool) -> None:
    """Keep a checkpoint after a reply, unless the round that it has ended has brought one."""
    run = system.run
    if run is not None and not (over and keeper.kept == run.round):
        keeper.put_down(run.round, run.model())


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
        run = system.run
        record["clock_s"] = 0.0 if run is None else run.now
        if run is not None:
            record["bits_per_device_mean"] = 8 * run.wire.up / run.workers
            record["bits_down_per_device_mean"] = 8 * run.wire.down / run.workers
        return record
    record |= timed.used().record()
    if timed.on_span is not None:
        record["spans"] = [list(span) for span in spans]
        spans.clear()
    return record
