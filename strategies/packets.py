"""Packets of one exchange: read from devices' replies, decoded, and handed to the strategy as replies of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

from channel.codecs.ceo import NO_SIDE_INFORMATION, decode_in_order
from channel.codecs.factor_layers import LARGEST_BATCH, decode_each, layers_bits
from channel.codecs.packet import Packet
from channel.layout import Layout
from channel.order import PACKET_KEY, PacketOrder
from channel.records import records_in
from strategies.air_messages import as_numbers, failure_of, metrics_of_most
from strategies.received import (
    LARGEST_NORM,
    Metrics,
    check_seed,
    largest_norm,
    read_array,
    read_joules,
    read_metrics,
    read_norm,
    read_seconds,
    read_weight,
    said_of_transmission,
)
from strategies.refusal import LOST, BadPayload, Failure, said, shown


@dataclass(frozen=True)
class SentPacket:
    """A device's packet, as it leaves the device."""

    device: int
    packet: Packet
    weight: float
    norm: float
    metrics: Metrics
    seconds: float | None
    joules: float | None = None


@dataclass(frozen=True)
class DecodedPackets:
    """What the server makes of packets that arrived.

    Attributes
    ----------
    updates : dict of int to Tensor of shape (d,)
        By device.
    lost : dict of int to str
        Whose packets are damaged, or of another size than the model, and why they cannot be decoded.
    refused : dict of int to str
        Whose packets are decoded, but say an update too large to be believed. They are not lost: what is refused must
        not be sent again.
    suspected_wraps : dict of int to int
        Of the nested quantiser's second group, see :class:`channel.codecs.ceo.DecodedRound`.
    """

    updates: dict[int, Tensor]
    lost: dict[int, str]
    refused: dict[int, str]
    suspected_wraps: dict[int, int]

    @property
    def failures(self) -> list[Failure]:
        """Whose packets were of no use, and why."""
        unresolved = {device: NO_SIDE_INFORMATION in reason for device, reason in self.lost.items()}
        lost = [Failure(d, why, LOST if unresolved[d] else "packet") for d, why in self.lost.items()]
        return lost + [Failure(device, why, "norm") for device, why in self.refused.items()]


def read_packets(
    replies: Sequence[tuple[int, Message | None]], weighted_by_key: str, order: PacketOrder, layout: Layout
) -> tuple[list[SentPacket], list[Failure]]:
    """What devices send, by device, and who sends nothing that could be sent.

    Metrics that most devices report in one form are taken as the exchange's: who reports them otherwise, or not, is
    refused, and what few report is left out, for strategies take no replies that differ.
    """
    packets: list[SentPacket] = []
    failures: list[Failure] = []
    largest = largest_norm(layout)
    for device, reply in replies:
        if reply is None or reply.has_error():
            failures.append(failure_of(device, reply))
            continue
        try:
            check_seed(reply, order.seed)
            packets.append(_read(device, reply, weighted_by_key, most_bytes(order, device, layout), largest))
        except BadPayload as bad:
            failures.append(Failure(device, str(bad), bad.kind))
    return _with_metrics_of_most(packets, failures), failures


def most_bytes(order: PacketOrder, device: int, layout: Layout) -> int:
    """Bytes that no packet of the device exceeds, whatever it holds."""
    if (codec := order.factor_codec) is not None:
        return layers_bits(codec, LARGEST_BATCH, dense_layers(layout)) // 8
    own = order.codec_of(device, layout.size)
    return max(own.bits(layout.size, "fixed"), own.bits(layout.size, "entropy")) // 8


def dense_layers(layout: Layout) -> list[tuple[int, int]]:
    """n_in and n_out of the layers whose weights these are."""
    return [(shape[1], shape[0]) for shape in layout.shapes if len(shape) == 2]


def _read(device: int, reply: Message, weighted_by_key: str, most: int, largest: float) -> SentPacket:
    arrays = records_in(reply.content, ArrayRecord)
    if PACKET_KEY not in arrays or PACKET_KEY not in arrays[PACKET_KEY]:
        raise BadPayload(
            "the reply carries no packet: does the device's ClientApp use the mod clients.transmit?", "missing"
        )
    content = read_array(arrays[PACKET_KEY][PACKET_KEY], "the packet's bytes", (), (np.uint8,), most=most)
    metrics = read_metrics(reply)
    weight, packet = read_weight(metrics, weighted_by_key), Packet(content.tobytes())
    norm = read_norm(said_of_transmission(reply), largest=largest)
    return SentPacket(device, packet, weight, norm, metrics, read_seconds(reply), read_joules(reply))


def _with_metrics_of_most(packets: Sequence[SentPacket], failures: list[Failure]) -> list[SentPacket]:
    """The packets with the metrics that most of them have; the others' devices go to `failures`."""
    forms = metrics_of_most([packet.metrics for packet in packets])
    kept: list[SentPacket] = []
    for packet in packets:
        own = {name: as_numbers(packet.metrics[name]) for name in forms if name in packet.metrics}
        wrong = [name for name in forms if name not in own or own[name].shape != forms[name]]
        if wrong:
            given = shown(packet.metrics.get(wrong[0]))
            reason = f"metric {wrong[0]!r} is {given}; most devices report an array of shape {forms[wrong[0]]}"
            failures.append(Failure(packet.device, said(reason), "metrics"))
        else:
            kept.append(replace(packet, metrics={name: value.tolist() for name, value in own.items()}))
    return kept


def decode_packets(
    packets: Sequence[SentPacket],
    order: PacketOrder,
    size: int,
    largest: float = LARGEST_NORM,
    layers: Sequence[tuple[int, int]] | None = None,
) -> DecodedPackets:
    """Decode the packets that arrived, of updates of `size` entries, none of a norm above `largest`.

    Such an update is refused before others are decoded with what it says. `layers` are those of the model, for codecs
    of factors.
    """
    by_device = {sent.device: sent.packet for sent in packets}
    seeds = {device: order.seed_of(device) for device in by_device}

    def too_long(update: Tensor) -> str | None:
        norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
        return None if norm <= largest else f"the update's norm is {norm:.4g}, expected at most {largest:.4g}"

    if order.factor_codec is not None:
        decoded = decode_each(order.factor_codec, by_device, seeds, size=size, layers=layers, refuse=too_long)
    else:
        codec_of = partial(order.codec_of, size=size)
        decoded = decode_in_order(by_device, codec_of, seeds, size=size, refuse=too_long)
    lost = {device: f"packet lost: {reason}" for device, reason in decoded.lost.items()}
    return DecodedPackets(dict(decoded.updates), lost, dict(decoded.refused), dict(decoded.suspected_wraps))


def reply_with_update(
    to: Message, name: str, arrays: dict[str, NDArray[Any]], update: Tensor, metrics: Metrics
) -> Message:
    """A device's reply as the strategy knows it: the model that it would have sent itself, were the link perfect."""
    layout = Layout.of_arrays(arrays)
    trained = arrays | layout.unflatten(layout.flatten(arrays).astype(np.float64) + update.double().numpy())
    record = ArrayRecord({key: Array(np.ascontiguousarray(array)) for key, array in trained.items()})
    return Message(RecordDict({name: record, "metrics": MetricRecord(dict(metrics))}), reply_to=to)
