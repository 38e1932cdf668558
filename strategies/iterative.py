"""Strategies that make the exchanges of their iterations themselves."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from channel.layout import Layout
from channel.uplinks import IdealUplink, MeanUplink, Uplink
from strategies.iterations import Figures, Iterations, Look, NobodyAnswers, Vanished
from strategies.mean_exchange import WEIGHT_KEY, MeanExchange, Vector
from strategies.names import SEPARATELY_CODED
from strategies.own_rounds import OwnRounds

__all__ = [
    "Figures",
    "Iterations",
    "IterativeStrategy",
    "Look",
    "NobodyAnswers",
    "Vanished",
    "check_choice",
    "check_counts",
    "check_not_negative",
    "check_positive",
    "refuse_separate_codes",
]


class IterativeStrategy(OwnRounds):
    """A strategy that makes the exchanges of its iterations itself.

    A subclass says in :meth:`begin` what its iterations are. Its weights are those the devices send.

    Attributes
    ----------
    on_iteration : callable or None
        Called with each iteration's figures; see docs/record.md.
    before_iteration : callable or None
        Called before each iteration; it may wait for nodes.
    run : Iterations or None
        The run in progress; None before :meth:`start`.
    """

    weighted_by_key = WEIGHT_KEY
    on_iteration: Callable[[Figures], None] | None = None
    before_iteration: Callable[[], None] | None = None
    run: Iterations | None = None
    _past: tuple[int, Mapping[str, Any]] | None = None

    @abstractmethod
    def begin(self, exchange: MeanExchange, w: Vector) -> Iterations:
        """A run from the initial model `w`, of shape (d,). Called once by :meth:`start`."""

    def state(self) -> dict[str, Any]:
        """What the run in progress remembers after a round; see :meth:`go_on_from`."""
        return {} if self.run is None else self.run.state()

    def go_on_from(self, round: int, state: Mapping[str, Any]) -> None:
        """Let :meth:`start` begin after this round of another run, whose :meth:`state` was taken then."""
        self._past = (round, state)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run `num_rounds` iterations; parameters as those of ``Strategy.start``. Federated evaluation is not used.

        What devices draw is fixed by the entry ``seed`` of `train_config`, 0 without it.
        """
        model = {name: array.numpy() for name, array in initial_arrays.items()}
        layout = Layout.of_arrays(model)
        exchange = MeanExchange(grid, layout.size, train_config or ConfigRecord(), timeout)
        run = self.run = self.begin(exchange, layout.flatten(model))
        result = Result()
        first = 0
        if self._past is not None:
            first, state = self._past
            run.restore(state)

        def note(round: int) -> None:
            arrays = {name: Array(np.ascontiguousarray(a)) for name, a in layout.unflatten(run.w).items()}
            result.arrays = ArrayRecord(arrays)
            metrics = evaluate_fn(round, result.arrays) if evaluate_fn else None
            if metrics is not None:
                result.evaluate_metrics_serverapp[round] = metrics

        if first == 0:
            note(0)
        for iteration in range(first, num_rounds):
            if run.stopped:
                break
            if self.before_iteration is not None:
                self.before_iteration()
            if (figures := run.iterate(iteration)) is None:
                break
            if self.on_iteration is not None:
                self.on_iteration(figures)
            note(iteration + 1)
        return result


def check_positive(**values: float) -> None:
    """Refuse what is not a finite number > 0."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: accepted: a finite number > 0")


def check_not_negative(**values: float) -> None:
    """Refuse what is not a finite number >= 0."""
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} = {value!r}: accepted: a finite number >= 0")


def check_counts(**counts: float) -> None:
    """Refuse what is not a whole number >= 1."""
    for name, count in counts.items():
        if not 1 <= count < math.inf or count != int(count):
            raise ValueError(f"{name} = {count!r}: accepted: an integer >= 1")


def check_choice(accepted: Collection[str], **values: str) -> None:
    """Refuse what is not one of `accepted`."""
    for name, value in values.items():
        if value not in accepted:
            raise ValueError(f"{name} = {value!r}: accepted: {', '.join(accepted)}")


def refuse_separate_codes(uplink: Uplink, accepted: str) -> None:
    """Refuse a noisy uplink that codes each exchange on its own."""
    if isinstance(uplink, IdealUplink) or not isinstance(uplink, MeanUplink):
        return
    if (code := uplink.order(1, 0).code) != "uncoded":
        raise ValueError(f"uplink.code = {code!r}: {SEPARATELY_CODED}; accepted: {accepted}")
