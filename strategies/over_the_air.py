"""Any mean-based Flower strategy, over the air."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from channel.memory import CannotBeKept
from channel.randomness import key
from channel.uplinks import Uplink
from strategies.air_grid import AirGrid
from strategies.air_record import Record
from strategies.iterative import IterativeStrategy
from strategies.strategy_state import restore_strategy, strategy_state
from strategies.trust import Trust

NEEDS_INDIVIDUAL_UPDATES: tuple[type[Strategy], ...] = (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedMedian,
    FedTrimmedAvg,
    FedXgbBagging,
    FedXgbCyclic,
    Krum,
    MultiKrum,
    QFedAvg,
)
"""Flower's strategies that look at each device's update; on the sum alone they would be silently wrong."""


POLL_SECONDS = 0.5
"""Between two looks at who is connected."""


class OverTheAir(Strategy):
    """A Flower strategy whose training replies come over a multiple-access channel.

    The wrapped strategy configures, aggregates and evaluates as it always does and knows nothing of radio: it sees
    one reply that holds the model plus the received mean update. The devices' ClientApp uses the mod
    :func:`clients.transmit`.

    Parameters
    ----------
    strategy : Strategy
        A strategy that needs only the mean of the updates: FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, FedProx,
        or your own.
    uplink : Uplink
        What happens between devices and server.
    seed : int, default 0
        Seed of the codes, the fading, the noise and the sampling of devices.
    on_exchange : callable, optional
        Called with the record of each exchange.
    devices : int, optional
        How many devices there are: a round begins when so many are connected, or as many as the strategy says if this
        is not given.
    nodes_timeout : float, default 600
        Seconds to wait for them; then :class:`~strategies.node_wait.NodesMissing` is raised.
    trust : Trust, optional
        How far devices are believed.

    Attributes
    ----------
    air : AirGrid or None
        The grid of the run in progress, with its ledger; None before :meth:`start`.

    Raises
    ------
    ValueError
        If the strategy needs individual updates and the uplink delivers only their sum.
    TypeError
        If `strategy` is not a Flower strategy of the message API.

    Examples
    --------
    >>> from channel import AnalogUplink, MinimumMSE, RandomLinearCode
    >>> from flwr.serverapp.strategy import FedAvg
    >>> strategy = OverTheAir(FedAvg(), AnalogUplink(RandomLinearCode(ratio=0.1), MinimumMSE()))
    """

    def __init__(
        self,
        strategy: Strategy,
        uplink: Uplink,
        *,
        seed: int = 0,
        on_exchange: Callable[[Record], None] | None = None,
        devices: int | None = None,
        nodes_timeout: float = 600.0,
        trust: Trust | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"strategy: expected a flwr.serverapp.strategy.Strategy, got {type(strategy).__name__}")
        if isinstance(strategy, NEEDS_INDIVIDUAL_UPDATES) and not uplink.individual:
            raise ValueError(
                f"strategy: {type(strategy).__name__} needs each device's own update, but {type(uplink).__name__} "
                "delivers only their sum; use a strategy of the mean (FedAvg, FedAvgM, FedAdam, FedYogi, FedAdagrad, "
                "FedProx) or a digital link, which delivers individual updates"
            )
        self.strategy = strategy
        self.uplink = uplink
        self.seed = seed
        self.on_exchange = on_exchange
        self.devices = devices
        self.nodes_timeout = nodes_timeout
        self.trust = trust
        self.air: AirGrid | None = None
        self._past: tuple[int, Mapping[str, Any]] | None = None
        self._first = 0

    def state(self) -> dict[str, Any]:
        """What the run in progress remembers between two rounds, the model aside; see :meth:`go_on_from`.

        It holds arrays that are in use: write it before the run goes on.

        Raises
        ------
        CannotBeKept
            If the wrapped strategy makes its rounds itself and is no :class:`~strategies.iterative.IterativeStrategy`.
        RuntimeError
            Before :meth:`start`.
        """
        if self.air is None:
            raise RuntimeError("OverTheAir.state: no run has begun; accepted: after the first round")
        if isinstance(self.strategy, IterativeStrategy):
            return {"air": self.air.state(), "strategy": self.strategy.state()}
        if type(self.strategy).start is not Strategy.start:
            raise CannotBeKept(
                f"{type(self.strategy).__name__}: makes its rounds itself, so that nobody can begin in the middle; "
                "accepted: Flower's own start(), or an IterativeStrategy"
            )
        return {"air": self.air.state(), "strategy": strategy_state(self.strategy)}

    def go_on_from(self, round: int, state: Mapping[str, Any]) -> None:
        """Let :meth:`start`, with the model as it was then, go on after this round of a run with the same parts."""
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
        """Run the wrapped strategy over the air; the parameters are those of ``Strategy.start``.

        After :meth:`go_on_from` the rounds up to that one are left out, and no metrics of theirs are in the result.

        Raises
        ------
        NodesMissing
            If too few devices are connected when a round is to begin, and stay away.
        """
        self.air = AirGrid(
            grid,
            self.uplink,
            seed=self.seed,
            weighted_by_key=getattr(self.strategy, "weighted_by_key", "num-examples"),
            on_exchange=self.on_exchange,
            trust=self.trust,
            numbers_within=timeout,
        )
        self._first = 0
        if self._past is not None:
            self._first, state = self._past
            devices_go_on = self.air.restore(state["air"])
            if isinstance(self.strategy, IterativeStrategy):
                nodes = state["strategy"]["nodes"] if devices_go_on else []
                self.strategy.go_on_from(self._first, {**state["strategy"], "nodes": nodes})
            else:
                restore_strategy(self.strategy, state["strategy"])
        if isinstance(self.strategy, IterativeStrategy):
            self.strategy.before_iteration = self._wait_for_all
        if type(self.strategy).start is not Strategy.start:
            arguments = (initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
            return self.strategy.start(self.air, *arguments)
        evaluate = None if evaluate_fn is None else partial(self._evaluate, evaluate_fn)
        rest = num_rounds - self._first
        return super().start(self.air, initial_arrays, rest, timeout, train_config, evaluate_config, evaluate)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages; devices are sampled by the run's seed."""
        round = self._first + server_round
        with self._waiting_for("min_train_nodes"), sampled_by(key(self.seed, "sampling", round)):
            return list(self.strategy.configure_train(round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The wrapped strategy's aggregate."""
        return self.strategy.aggregate_train(self._first + server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's evaluation messages; devices are sampled by the run's seed."""
        round = self._first + server_round
        with self._waiting_for("min_evaluate_nodes"), sampled_by(key(self.seed, "evaluation sampling", round)):
            return list(self.strategy.configure_evaluate(round, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The wrapped strategy's evaluation."""
        return self.strategy.aggregate_evaluate(self._first + server_round, replies)

    def summary(self) -> None:
        """The wrapped strategy's summary."""
        self.strategy.summary()

    def _evaluate(
        self, evaluate: Callable[[int, ArrayRecord], MetricRecord | None], server_round: int, arrays: ArrayRecord
    ) -> MetricRecord | None:
        """The server's evaluation, but of rounds that were evaluated before the run went on."""
        if self._first and server_round == 0:
            return None
        return evaluate(self._first + server_round, arrays)

    def _waiting_for(self, least: str) -> AbstractContextManager[None]:
        """While nodes are sampled: how many the strategy asks for, so that it cannot do so for ever."""
        if self.air is None:
            return nullcontext()
        wanted = [int(getattr(self.strategy, name, 0)) for name in ("min_available_nodes", least)]
        return self.air.wait.needs(max(self.devices or 0, *wanted), self.nodes_timeout)

    def _wait_for_all(self) -> None:
        """Until all devices are connected."""
        assert self.air is not None
        with self.air.wait.needs(self.devices or 0, self.nodes_timeout):
            while len(self.air.get_node_ids()) < (self.devices or 0):
                time.sleep(POLL_SECONDS)


@contextmanager
def sampled_by(seed: int) -> Iterator[None]:
    """Seed Python's global generator, from which Flower's strategies sample nodes, and put its state back after."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
