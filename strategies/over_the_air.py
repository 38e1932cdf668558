"""Any mean-based Flower strategy, over the air."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

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

from channel.randomness import key
from channel.uplinks import Uplink
from strategies.air_grid import AirGrid
from strategies.air_record import Record

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
        self.air: AirGrid | None = None

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
        """Run the wrapped strategy over the air; the parameters are those of ``Strategy.start``."""
        self.air = AirGrid(
            grid,
            self.uplink,
            seed=self.seed,
            weighted_by_key=getattr(self.strategy, "weighted_by_key", "num-examples"),
            on_exchange=self.on_exchange,
        )
        arguments = (initial_arrays, num_rounds, timeout, train_config, evaluate_config, evaluate_fn)
        if type(self.strategy).start is not Strategy.start:
            return self.strategy.start(self.air, *arguments)
        return super().start(self.air, *arguments)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's messages; devices are sampled by the run's seed."""
        with sampled_by(key(self.seed, "sampling", server_round)):
            return list(self.strategy.configure_train(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The wrapped strategy's aggregate."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's evaluation messages; devices are sampled by the run's seed."""
        with sampled_by(key(self.seed, "evaluation sampling", server_round)):
            return list(self.strategy.configure_evaluate(server_round, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The wrapped strategy's evaluation."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The wrapped strategy's summary."""
        self.strategy.summary()


@contextmanager
def sampled_by(seed: int) -> Iterator[None]:
    """Seed Python's global generator, from which Flower's strategies sample nodes, and put its state back after."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
