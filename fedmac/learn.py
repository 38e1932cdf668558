"""One run of one variant: a strategy, over the air, on a Grid."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import Channel
from channel.layout import Layout
from channel.memory import CannotBeKept
from clients.app import Workplace
from clients.mean_objective import MeanObjective
from clients.parameters import model_arrays
from fedmac.air_refusals import met_on_the_air
from fedmac.build import block_sizes, build_strategy, build_uplink
from fedmac.checkpoint import Checkpoint
from fedmac.record import RoundRecord
from fedmac.scenario import Scenario, Variant
from strategies.iterative import IterativeStrategy
from strategies.names import STRATEGIES
from strategies.over_the_air import OverTheAir

if TYPE_CHECKING:
    from fedmac.clock.clocked_grid import Span
    from fedmac.clock.exchange_clock import ExchangeClock


def learn(
    variant: Variant,
    seed: int,
    grid: Grid,
    workplace: Workplace,
    on_round: Callable[[RoundRecord], None],
    past: Checkpoint | None = None,
    keep: Callable[[Checkpoint], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """Run one variant of a scenario on `grid`.

    Parameters
    ----------
    variant : Variant
        What to run.
    seed : int
        Seed of the run.
    grid : Grid
        Reaches the devices.
    workplace : Workplace
        Gives the initial model and the held-out rows.
    on_round : callable
        Called with each round's record as soon as the round is over; round 0 is the initial model.
    past : Checkpoint, optional
        Where an earlier run of the same variant and seed stood; this one goes on from there.
    keep : callable, optional
        Called with a checkpoint after every ``engine.checkpoint_every`` rounds.

    Returns
    -------
    dict of ndarray
        The final model.

    Raises
    ------
    NodesMissing
        If devices are not connected when a round is to begin, for longer than ``engine.nodes_timeout_s``.
    """
    scenario = variant.scenario
    if STRATEGIES[scenario.strategy.name].peers:
        from fedmac.learn_peers import learn_peers  # as is this

        return learn_peers(variant, seed, grid, workplace, on_round, past, keep)
    if STRATEGIES[scenario.strategy.name].on_clock:
        from fedmac.learn_system import learn_system  # it builds on this module

        return learn_system(variant, seed, grid, workplace, on_round, past, keep)

    def note_round(record: RoundRecord) -> None:
        on_round({"variant": variant.name, "seed": seed} | record)

    uplink = build_uplink(scenario, seed, block_sizes(workplace.trainer))
    placement = placement_record(uplink.channel, scenario.data.devices, seed)
    journal = Journal(scenario, workplace, note_round, placement)
    if scenario.devices is not None:
        from fedmac.clock.build_clock import (
            build_exchange_clock,
            on_time,
        )  # it needs the engines, which build on this module

        journal.clock = build_exchange_clock(scenario, seed, workplace, journal.spans.append)
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
    initial = ArrayRecord({name: Array(array) for name, array in model_arrays(workplace.trainer.model).items()})
    if past is not None:
        initial = past.model
        journal.restore(past.journal)
        strategy.go_on_from(past.round, past.state)
    after_round = Keeper(scenario.engine.checkpoint_every, strategy, journal, keep)
    with quiet_flower(), met_on_the_air(scenario):
        result = strategy.start(
            grid,
            initial,
            num_rounds=scenario.rounds,
            timeout=scenario.engine.round_timeout_s,
            train_config=ConfigRecord({"variant": variant.name, "seed": seed}),
            evaluate_config=ConfigRecord({"variant": variant.name, "seed": seed}),
            evaluate_fn=after_round,
        )
    return {name: array.numpy() for name, array in (result.arrays or initial).items()}


class HasState(Protocol):
    """What can say where it stands between two rounds."""

    def state(self) -> dict[str, Any]:
        """As plain values."""
        ...


class Keeper:
    """Evaluates after each round, and then keeps a checkpoint."""

    def __init__(
        self, every: int, strategy: HasState, journal: Journal, keep: Callable[[Checkpoint], None] | None
    ) -> None:
        self.every = every
        self.strategy = strategy
        self.journal = journal
        self.keep = keep

    def __call__(self, round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower at the end of each round."""
        metrics = self.journal.evaluate(round, arrays)
        if self.keep is not None and round > 0 and self.every and round % self.every == 0:
            try:
                self.keep(Checkpoint(round, arrays, self.strategy.state(), self.journal.state()))
            except CannotBeKept as error:
                warnings.warn(f"no checkpoints: {error}; a run that is interrupted starts anew", stacklevel=2)
                self.keep = None
        return metrics


def placement_record(channel: Channel, devices: int, seed: int) -> dict[str, Any] | None:
    """Where devices are when a run begins, for its record (docs/record.md); None where nothing places them."""
    positions = channel.positions(0, devices, seed)
    if positions is None:
        return None
    sees = channel.fading.line_of_sight(0, devices, seed)
    with np.errstate(divide="ignore"):  # a device out of reach: minus infinity, null in the record
        gains_db = 10.0 * np.log10(channel.mean_power(0, devices, seed))
    return {
        "x_m": positions[:, 0].tolist(),
        "y_m": positions[:, 1].tolist(),
        "line_of_sight": None if sees is None else sees.tolist(),
        "mean_gain_db": gains_db.tolist(),
    }


class Journal:
    """Joins what the air reports of a round with the server's evaluation."""

    def __init__(
        self,
        scenario: Scenario,
        workplace: Workplace,
        on_round: Callable[[RoundRecord], None],
        placement: dict[str, Any] | None,
    ) -> None:
        self.scenario = scenario
        self.workplace = workplace
        self.on_round = on_round
        self.placement = placement
        self.exchange: dict[str, Any] = {}
        self.iteration: dict[str, Any] = {}
        self.clock: ExchangeClock | None = None
        self.spans: list[Span] = []
        self.start = time.perf_counter()
        self.wall_evaluate = 0.0

    def state(self) -> dict[str, Any]:
        """Seconds spent so far, and the simulated clock: all that is remembered between two rounds."""
        clock = None if self.clock is None else self.clock.state()
        return {"wall": time.perf_counter() - self.start, "wall_evaluate": self.wall_evaluate, "clock": clock}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Count on from a :meth:`state`."""
        self.start = time.perf_counter() - state["wall"]
        self.wall_evaluate = state["wall_evaluate"]
        if self.clock is not None:
            self.clock.restore(state["clock"])

    def note_exchange(self, record: dict[str, Any]) -> None:
        """Called by the air; of several exchanges in a round what was spent and computed adds up."""
        if self.clock is not None and "devices" in record:
            record |= self.clock.pass_exchange(record)
        before = self.exchange
        for key in ("train_s_mean", "train_s_max", "train_j_mean", "train_j_max"):
            if before.get(key) is not None and record.get(key) is not None:
                record[key] += before[key]
        if before.get("devices") == record.get("devices") and "energies" in before and "energies" in record:
            record["energies"] = [a + b for a, b in zip(before["energies"], record["energies"], strict=True)]
        if "blocks" in before and "blocks" in record:
            record["blocks"] = before["blocks"] | record["blocks"]
        record["failures"] = before.get("failures", []) + record["failures"]
        if "not_asked" in before:
            record["not_asked"] = before["not_asked"] + record.get("not_asked", [])
        if "warnings" in before:
            record["warnings"] = list(dict.fromkeys(before["warnings"] + record.get("warnings", [])))
        if "pilot_uses" in before:
            record["pilot_uses"] = before["pilot_uses"] + record.get("pilot_uses", 0)
        if "control_bits" in before:
            record["control_bits"] = before["control_bits"] + record.get("control_bits", 0)
        # Scalars on the control channel say nothing of the air, and leave what was said of it.
        self.exchange = record if "devices" in record else before | record

    def note_iteration(self, figures: dict[str, Any]) -> None:
        """Called by a second-order strategy before its round is evaluated."""
        self.iteration = figures

    def evaluate(self, round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower at the end of each round, and with round 0 before the first."""
        record: RoundRecord = {"round": round}
        if round == 0:
            record["parameters"] = self.workplace.trainer.size
            record["training_examples"] = sum(map(len, self.workplace.data.parts))
            if self.placement is not None:
                record["placement"] = self.placement
        every, last = self.scenario.evaluation.every, self.scenario.rounds
        start = time.perf_counter()
        if round % every == 0 or round == last:
            state = _flat(arrays)
            record |= self._held_out(state) | self._objective(state)
        self.wall_evaluate += time.perf_counter() - start
        if round > 0:
            exchange, self.exchange = self.exchange, {}
            metrics = exchange.pop("metrics", {})
            record |= {name: value for name, value in metrics.items() if name != "num-examples"}
            record |= exchange | self.iteration
            if self.clock is not None and self.clock.on_span is not None:
                record["spans"] = [list(span) for span in self.spans]
                self.spans.clear()
        record["wall_evaluate_s"] = self.wall_evaluate
        record["wall_s"] = time.perf_counter() - self.start
        self.on_round(record)
        shown = {k: v for k, v in record.items() if k.startswith("test_") and v is not None}
        return MetricRecord(shown) if shown else None

    def _objective(self, state: Tensor) -> dict[str, float | None]:
        """What the devices minimise, at the model, and how far above its least value that is."""
        evaluation = self.scenario.evaluation
        if not evaluation.objective:
            return {}
        value, gradient = self.objective.value_and_gradient(state.to(self.workplace.trainer.device))
        norm = float(torch.linalg.vector_norm(gradient.double()))
        figures = {"train_objective": value, "train_gradient_norm": norm}
        if evaluation.optimum is not None:
            figures["objective_gap"] = value - evaluation.optimum
        return {
            name: figure if figure is not None and math.isfinite(figure) else None for name, figure in figures.items()
        }

    @cached_property
    def objective(self) -> MeanObjective:
        """Of all devices, made when it is first asked for."""
        return self.workplace.mean_objective()

    def _held_out(self, state: Tensor) -> dict[str, float | None]:
        figures: dict[str, float | None] = {}
        for split, rows, wanted in (
            ("validation", self.workplace.data.validation, True),
            ("test", self.workplace.data.test, self.scenario.evaluation.test),
        ):
            if wanted and len(rows.targets):
                result = self.workplace.trainer.evaluate(state, rows)
                if result.accuracy is not None:
                    figures[f"{split}_accuracy"] = result.accuracy
                figures[f"{split}_loss"] = result.loss if np.isfinite(result.loss) else None
        return figures


def _flat(arrays: ArrayRecord) -> Tensor:
    named = {name: array.numpy() for name, array in arrays.items()}
    return torch.from_numpy(Layout.of_arrays(named).flatten(named))


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Keep Flower's round-by-round log and its warnings off the terminal; errors still show, log files get warnings."""
    logger = logging.getLogger("flwr")
    files = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    quieted: dict[logging.Logger | logging.Handler, int] = {logger: logging.WARNING if files else logging.ERROR}
    quieted.update((handler, logging.ERROR) for handler in logger.handlers if handler not in files)
    before = {source: source.level for source in quieted}
    for source, level in quieted.items():
        source.setLevel(level)
    try:
        yield
    finally:
        for source, level in before.items():
            source.setLevel(level)
