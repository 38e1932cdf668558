"""One run of one variant: its strategy on a Grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray

from channel.channel import Channel
from fedmac.air_refusals import met_on_the_air
from fedmac.build import block_sizes, build_strategy, build_uplink
from fedmac.journal import Journal, Keeper
from fedmac.learning_task import LearningTask
from fedmac.logs import quiet_flower
from fedmac.record import RoundRecord
from strategies.iterative import IterativeStrategy
from strategies.names import STRATEGIES
from strategies.over_the_air import OverTheAir


def learn(task: LearningTask, grid: Grid) -> dict[str, NDArray[Any]]:
    """Run one variant of a scenario on `grid`, which reaches the devices.

    Returns
    -------
    dict of ndarray
        The final model.

    Raises
    ------
    NodesMissing
        If devices are not connected when a round is to begin, for longer than ``engine.nodes_timeout_s``.
    """
    kind = STRATEGIES[task.scenario.strategy.name]
    # The clock needs the engines, which build on this module.
    if kind.peers:
        from fedmac.learn_peers import learn_peers

        return learn_peers(task, grid)
    if kind.on_clock:
        from fedmac.learn_system import learn_system

        return learn_system(task, grid)
    return learn_over_the_air(task, grid)


def learn_over_the_air(task: LearningTask, grid: Grid) -> dict[str, NDArray[Any]]:
    """Run one variant whose strategy goes over the air (an ideal link too); result and errors are :func:`learn`'s."""
    scenario, seed = task.scenario, task.seed
    uplink = build_uplink(scenario, seed, block_sizes(task.workplace.trainer))
    journal = Journal(task, placement_record(uplink.channel, scenario.data.devices, seed))
    if scenario.devices is not None:
        from fedmac.clock.build_clock import build_exchange_clock, on_time

        journal.clock = build_exchange_clock(scenario, seed, task.workplace, journal.spans.append)
        grid = on_time(grid, journal.clock)
    inner = build_strategy(scenario)
    if isinstance(inner, IterativeStrategy):
        inner.on_iteration = journal.note_iteration
    strategy = OverTheAir(
        inner,
        uplink,
        seed=seed,
        on_exchange=journal.note_exchange,
        devices=scenario.data.devices,
        nodes_timeout=scenario.engine.nodes_timeout_s,
        trust=scenario.trust.of(scenario.data.devices),
    )
    initial = task.initial()
    if task.past is not None:
        journal.restore(task.past.journal)
        strategy.go_on_from(task.past.round, task.past.state)
    with quiet_flower(), met_on_the_air(scenario):
        try:
            model = strategy.start(
                grid,
                initial,
                num_rounds=scenario.rounds,
                timeout=scenario.engine.round_timeout_s,
                train_config=ConfigRecord(task.label),
                evaluate_config=ConfigRecord(task.label),
                evaluate_fn=until_stopped(Keeper(task, strategy, journal), journal),
            ).arrays
        except Stopped as stopped:
            model = stopped.model
    return {name: array.numpy() for name, array in (model or initial).items()}


class Stopped(Exception):
    """The clock ends the run after a round; Flower's own loop has no other way out."""

    def __init__(self, model: ArrayRecord) -> None:
        super().__init__("stopped by the clock")
        self.model = model


def until_stopped(keeper: Keeper, journal: Journal) -> Callable[[int, ArrayRecord], MetricRecord | None]:
    """The keeper, after whose round the run ends with :class:`Stopped` if the clock says why, as its record does."""

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        metrics = keeper(round, arrays)
        if round > 0 and journal.clock is not None and journal.clock.stopped is not None:
            journal.note_iteration({"stopped": journal.clock.stopped})  # which warns of it
            raise Stopped(arrays)
        return metrics

    return evaluate


def placement_record(channel: Channel, devices: int, seed: int) -> RoundRecord:
    """Where devices are when a run begins, for its record (docs/record.md); nothing where nothing places them."""
    positions = channel.positions(0, devices, seed)
    if positions is None:
        return {}
    sees = channel.fading.line_of_sight(0, devices, seed)
    with np.errstate(divide="ignore"):  # a device out of reach: minus infinity, null in the record
        gains_db = 10.0 * np.log10(channel.mean_power(0, devices, seed))
    placement = {
        "x_m": positions[:, 0].tolist(),
        "y_m": positions[:, 1].tolist(),
        "line_of_sight": None if sees is None else sees.tolist(),
        "mean_gain_db": gains_db.tolist(),
    }
    return {"placement": placement}
