"""An exchange over the air of which the server hears means: of updates, or of vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from channel.layout import Layout
from channel.order import BLOCKS_KEY, RECEPTION_KEY, TransmitOrder
from channel.records import records_in
from channel.uplinks import MeanUplink, Reception
from strategies.air_messages import energy_share, model_of, scalars_of, weighted_metrics
from strategies.books import Books
from strategies.cohort import CohortGrid, Gathered
from strategies.devices import Devices
from strategies.exchange import Exchange
from strategies.gathering import Wanted, gathered_blocks
from strategies.received import LARGEST_NORM, largest_norm

NOT_FINITE = "the model would not be finite: the update received is left out"


@dataclass(frozen=True)
class ExchangeOfMeans:
    """Devices send at once, and the strategy gets one reply for all of them.

    Attributes
    ----------
    uplink : MeanUplink
        How they are heard.
    exchange : Exchange
        What is asked.
    devices : Devices
        Who is asked.
    books : Books
        Where the exchange is charged.
    """

    uplink: MeanUplink
    exchange: Exchange
    devices: Devices
    books: Books

    def of_updates(self) -> list[Message]:
        """The usual training: devices send their updates, and the reply is the model plus the received mean update."""
        asked = self.exchange.messages[0]
        arrays = model_of(asked)
        layout = Layout.of_arrays(arrays)
        with self.books.training():
            gathered = self._gather_updates(layout)
        (reception,) = self._hear([gathered])
        learnt: dict[str, NDArray[Any]] | None = None
        if reception is not None and reception.update is not None:
            learnt = _added(layout, arrays, reception.update)
            reception = reception if learnt is not None else _left_out(reception)
        self.books.tell_of_means(self.exchange, gathered, [reception])
        if reception is None or learnt is None:
            return []
        name = next(iter(records_in(asked.content, ArrayRecord)))
        return [self._merged(name, arrays | learnt, gathered, {name: reception})]

    def of_vectors(self) -> list[Message]:
        """Devices send vectors, each over a block of channel uses of its own; the reply holds their means."""
        order = self._order()
        if order.build_code().error_feedback:
            raise ValueError(
                "AirGrid: error feedback adds to a message what earlier ones left out, which has no meaning for "
                "vectors that are no updates; accepted: a code without error feedback"
            )
        asked = records_in(self.exchange.messages[0].content, ConfigRecord)[BLOCKS_KEY]
        sizes: dict[str | None, int] = {name: int(str(size)) for name, size in sorted(asked.items())}
        names = [str(name) for name in sizes]
        with self.books.training():
            gathered = self._gather(order, sizes)
        receptions = self._hear(gathered)
        self.books.tell_of_means(self.exchange, gathered[0], receptions, names)
        heard = {name: one for name, one in zip(names, receptions, strict=True) if one is not None}
        means = {name: one.update.numpy() for name, one in heard.items() if one.update is not None}
        if len(means) < len(sizes):
            return self.devices.errors(self.exchange.messages, gathered[0].failures)
        return [self._merged("vectors", means, gathered[0], heard)]

    def _order(self) -> TransmitOrder:
        return self.uplink.order(self.exchange.number, self.exchange.seed)

    def _gather_updates(self, layout: Layout) -> Gathered:
        """Train in place where that is possible, and by message elsewhere."""
        # Error feedback lives in a device's context, an action of the app's own in the app, and a code that is not
        # linear works on single updates: all need messages.
        messages, order, grid = self.exchange.messages, self._order(), self.devices.grid
        code = order.build_code()
        in_place = messages[0].metadata.message_type == MessageType.TRAIN and code.linear and not code.error_feedback
        if in_place and isinstance(grid, CohortGrid):
            key, trust = self.devices.weighted_by_key, self.devices.trust
            gathered = grid.train_cohort(messages, key, self.uplink.needs_updates, trust)
            if gathered.cohort is not None and trust.largest_weight_share < 1:
                gathered.cohort.weights = trust.capped(gathered.cohort.weights)
            self.devices.judge_cohort(self.exchange.round, gathered)
        else:
            (gathered,) = self._gather(order, {None: layout.size}, largest_norm(layout))
        return gathered

    def _gather(
        self, order: TransmitOrder, sizes: Mapping[str | None, int], longest: float = LARGEST_NORM
    ) -> list[Gathered]:
        """Ask the devices by message, and check what each sends."""
        messages, devices = self.exchange.messages, self.devices
        wanted = Wanted(order, sizes, scalars_of(messages[0]), devices.weighted_by_key, longest)
        answers = devices.ask(messages, order, self.exchange.timeout)
        gathered = gathered_blocks(answers, wanted, devices.trust, devices.numbers.total)
        devices.judge(self.exchange.round, answers, gathered[0].failures)
        return gathered

    def _hear(self, gathered: Sequence[Gathered]) -> list[Reception | None]:
        """What the server hears of each block; None where nobody sends."""
        share = energy_share(self.exchange.messages[0])
        number, seed = self.exchange.number, self.exchange.seed
        with self.books.receiving():
            return [
                None if one.cohort is None else self.uplink.receive(one.cohort, number, seed, block, share)
                for block, one in enumerate(gathered)
            ]

    def _merged(
        self, name: str, arrays: dict[str, NDArray[Any]], gathered: Gathered, heard: Mapping[str, Reception]
    ) -> Message:
        """One reply for all: the arrays, the mean metrics, and who was heard how well."""
        assert gathered.cohort is not None
        metrics = weighted_metrics(gathered.metrics, gathered.cohort.weights)
        metrics[self.devices.weighted_by_key] = 1.0
        node_of = self.devices.numbers.nodes()
        nodes = [node_of[device] for device in gathered.cohort.devices.tolist()]
        noise = {f"{block}.noise-variance": one.noise_variance for block, one in heard.items()}
        snr = min(one.snr for one in heard.values())
        content = RecordDict(
            {
                name: ArrayRecord({key: Array(np.ascontiguousarray(a)) for key, a in arrays.items()}),
                "metrics": MetricRecord(metrics),
                RECEPTION_KEY: ConfigRecord({"nodes": nodes, "snr": snr, **noise}),
            }
        )
        return Message(content, reply_to=self.exchange.messages[0])


def _added(layout: Layout, arrays: Mapping[str, NDArray[Any]], update: Tensor) -> dict[str, NDArray[Any]] | None:
    """The model plus an update; None if that is more than its numbers can hold."""
    with np.errstate(over="ignore"):
        learnt = layout.unflatten(layout.flatten(arrays).astype(np.float64) + update.numpy())
    return dict(learnt) if all(np.isfinite(array).all() for array in learnt.values()) else None


def _left_out(reception: Reception) -> Reception:
    """A reception whose update is not used, and says so."""
    said = [*reception.record.get("warnings", []), NOT_FINITE]
    return replace(reception, update=None, record=reception.record | {"heard": False, "warnings": said})
