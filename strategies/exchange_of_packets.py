"""An exchange over a digital uplink: each device sends its update as a packet of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from numpy.typing import NDArray

from channel.layout import Layout
from channel.order import BLOCKS_KEY, PacketOrder
from channel.records import records_in
from channel.uplinks import DigitalUplink, Experience
from strategies.air_messages import model_of
from strategies.air_record import Record, cost_of_packets, packet_record
from strategies.believed_weights import capped_metrics
from strategies.books import Books
from strategies.devices import Answers, Devices
from strategies.exchange import Exchange
from strategies.packets import DecodedPackets, SentPacket, decode_packets, dense_layers, read_packets, reply_with_update
from strategies.received import largest_norm
from strategies.refusal import LOST, Failure
from strategies.trust import DECODED


@dataclass(frozen=True)
class _Delivered:
    """What became of packets: what was decoded, who failed and why, and figures for the record."""

    decoded: DecodedPackets = field(default_factory=lambda: DecodedPackets({}, {}, {}, {}))
    good: list[SentPacket] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    figures: Record = field(default_factory=dict)


@dataclass(frozen=True)
class ExchangeOfPackets:
    """Devices send packets, and the strategy gets a reply for each that could be decoded.

    Attributes
    ----------
    uplink : DigitalUplink
        What happens to packets.
    exchange : Exchange
        What is asked.
    devices : Devices
        Who is asked.
    books : Books
        Where the exchange is charged.
    experience : Experience
        What the server has learnt in the run so far, and learns of this exchange.
    """

    uplink: DigitalUplink
    exchange: Exchange
    devices: Devices
    books: Books
    experience: Experience

    def replies(self) -> list[Message]:
        """Plan, ask, send, decode."""
        self._check()
        message_to = {self.devices.numbers.of(message): message for message in self.exchange.messages}
        model = model_of(self.exchange.messages[0])
        layout, total = Layout.of_arrays(model), self.devices.numbers.total
        able, number, seed = np.array(sorted(message_to)), self.exchange.number, self.exchange.seed
        plan = self.uplink.plan(self.experience, able, total, layout.size, number, seed)
        asked = {device: message for device, message in message_to.items() if device not in plan.not_asked}
        with self.books.training():
            answers = self.devices.ask(list(asked.values()), plan.order, self.exchange.timeout)
            packets, failures = self._read(answers, plan.order, layout)
        with self.books.receiving():
            sent = self._deliver(packets, plan.order, layout) if packets else _Delivered()
            replies = self._replies(message_to, model, sent)
            acknowledged = {*sent.decoded.updates, *sent.decoded.refused}
            self.experience.acknowledge(plan.order.seed, asked, acknowledged)
        failures += sent.failures
        self.devices.judge(self.exchange.round, answers, failures)
        not_asked = {**self.exchange.not_asked, **plan.not_asked}
        self.books.tell_of_packets(self.exchange, packets, sent.figures, failures, not_asked)
        return replies

    def _check(self) -> None:
        if BLOCKS_KEY in records_in(self.exchange.messages[0].content, ConfigRecord):
            raise ValueError(
                "AirGrid: this strategy's devices send vectors that are no updates, which packets do not carry yet; "
                "accepted: an ideal uplink, or one over the air"
            )

    def _read(self, answers: Answers, order: PacketOrder, layout: Layout) -> tuple[list[SentPacket], list[Failure]]:
        """The packets in devices' answers but those of updates that are too long to be believed; who sends none."""
        packets, failures = read_packets(answers, self.devices.weighted_by_key, order, layout)
        too_long = self.devices.trust.too_long({packet.device: packet.norm for packet in packets})
        failures += [Failure(device, reason, "norm") for device, reason in too_long.items()]
        return [packet for packet in packets if packet.device not in too_long], failures

    def _deliver(self, packets: Sequence[SentPacket], order: PacketOrder, layout: Layout) -> _Delivered:
        """Send packets over the link, decode those that arrive, and charge them all."""
        senders, bits = np.array([packet.device for packet in packets]), [sent.packet.bits for sent in packets]
        number, seed, total = self.exchange.number, self.exchange.seed, self.devices.numbers.total
        link = self.uplink.deliver(senders, total, bits, number, seed, self.experience)
        came = [packet for packet, arrived in zip(packets, link.arrived, strict=True) if arrived]
        lost = [Failure(p.device, why, LOST) for p, why in zip(packets, link.reasons, strict=True) if why]
        longest = min(largest_norm(layout), self.devices.trust.longest({p.device: p.norm for p in packets}) * DECODED)
        decoded = decode_packets(came, order, layout.size, longest, dense_layers(layout))
        good = [packet for packet in came if packet.device in decoded.updates]
        for packet, blocks in zip(packets, link.record["attempts"], strict=True):
            if blocks:
                self.experience.hear(packet.device, packet.weight, packet.norm)
        self.books.charge(self.exchange.round, senders, cost_of_packets(link.cost, packets))
        figures = link.record | packet_record(packets, good, link.cost, decoded.suspected_wraps)
        return _Delivered(decoded, good, lost + decoded.failures, figures)

    def _replies(
        self, message_to: Mapping[int, Message], model: dict[str, NDArray[Any]], sent: _Delivered
    ) -> list[Message]:
        """A reply of each device of whom there is an update, with the weight that is believed."""
        said = [(packet.metrics, packet.weight) for packet in sent.good]
        metrics = capped_metrics(said, self.devices.weighted_by_key, self.devices.trust)
        name = next(iter(records_in(self.exchange.messages[0].content, ArrayRecord)))
        return [
            reply_with_update(message_to[packet.device], name, model, sent.decoded.updates[packet.device], own)
            for packet, own in zip(sent.good, metrics, strict=True)
        ]
