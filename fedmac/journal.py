"""The record of one run: what is noted and kept after each round."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from flwr.app import ArrayRecord, MetricRecord
from torch import Tensor

from channel.layout import Layout
from channel.memory import CannotBeKept
from clients.mean_objective import MeanObjective
from fedmac.checkpoint import Checkpoint
from fedmac.learning_task import LearningTask
from fedmac.record import RoundRecord

if TYPE_CHECKING:
    from fedmac.clock.clocked_grid import Span
    from fedmac.clock.exchange_clock import ExchangeClock


SERVERS = (
    "num-examples",
    "parameters",
    "training_examples",
    "placement",
    "spectral_gap",
    "backend",
    "spans",
    "stopped",
)
"""Names in records that devices' metrics do not take, beside those of the server's evaluation."""


class Journal:
    """Joins what strategy, air and clock report of a round with the server's evaluation.

    Parameters
    ----------
    task : LearningTask
        Whose rounds they are.
    first : mapping, optional
        What the record of round 0 says of the run.
    """

    def __init__(self, task: LearningTask, first: RoundRecord | None = None) -> None:
        self.scenario = task.scenario
        self.workplace = task.workplace
        self.task = task
        self.first = first or {}
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
        """Called by a strategy with figures of its own before its round is evaluated."""
        self.iteration = figures
        if "stopped" in figures:
            name = f"{self.task.variant.name} (seed {self.task.seed})"
            warnings.warn(f"{name}: ended early: {figures['stopped']}", stacklevel=2)

    def evaluate(self, round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower at the end of each round, and with round 0 before the first."""
        record: RoundRecord = {"round": round}
        if round == 0:
            record["parameters"] = self.workplace.trainer.size
            record["training_examples"] = sum(map(len, self.workplace.data.parts))
            record |= self.first
        every, last = self.scenario.evaluation.every, self.scenario.rounds
        start = time.perf_counter()
        if round % every == 0 or round == last:
            state = _flat(arrays)
            record |= self._held_out(state) | self._objective(state)
        self.wall_evaluate += time.perf_counter() - start
        if round > 0:
            exchange, self.exchange = self.exchange, {}
            metrics = exchange.pop("metrics", {})
            record |= {name: value for name, value in metrics.items() if name not in record and not _is_servers(name)}
            record |= exchange | self.iteration
            if self.clock is not None and self.clock.on_span is not None:
                record["spans"] = [list(span) for span in self.spans]
                self.spans.clear()
        record["wall_evaluate_s"] = self.wall_evaluate
        record["wall_s"] = time.perf_counter() - self.start
        self.task.on_round(self.task.label | record | self.task.label)
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


class HasState(Protocol):
    """What can say where it stands between two rounds."""

    def state(self) -> dict[str, Any]:
        """As plain values."""
        ...


class Keeper:
    """Evaluates after each round, and then keeps a checkpoint.

    Attributes
    ----------
    kept : int
        The last round after which it has.
    """

    def __init__(self, task: LearningTask, strategy: HasState, journal: Journal) -> None:
        self.every = task.scenario.engine.checkpoint_every
        self.strategy = strategy
        self.journal = journal
        self.keep = task.keep
        self.kept = 0

    def __call__(self, round: int, arrays: ArrayRecord) -> MetricRecord | None:
        """Called by Flower at the end of each round."""
        metrics = self.journal.evaluate(round, arrays)
        if round > 0 and self.every and round % self.every == 0:
            self.put_down(round, arrays)
            self.kept = round
        return metrics

    def put_down(self, round: int, arrays: ArrayRecord) -> None:
        """Keep a checkpoint of this moment: `round` rounds are over, and the model is this."""
        if self.keep is None:
            return
        try:
            self.keep(Checkpoint(round, arrays, self.strategy.state(), self.journal.state()))
        except CannotBeKept as error:
            warnings.warn(f"no checkpoints: {error}; a run that is interrupted starts anew", stacklevel=2)
            self.keep = None


def _is_servers(name: str) -> bool:
    """Whether a device may not give a metric this name: the server speaks of it, now or in another round."""
    return name in SERVERS or name.startswith(("test_", "validation_"))


def _flat(arrays: ArrayRecord) -> Tensor:
    named = {name: array.numpy() for name, array in arrays.items()}
    return torch.from_numpy(Layout.of_arrays(named).flatten(named))
