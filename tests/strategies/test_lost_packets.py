"""What is lost on the way: damaged, foreign and unbelievable packets, and devices that send none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    CODECS,
    EDEN,
    Codec,
    PacketOrder,
)
from channel.order import PACKET_KEY
from strategies.packets import SentPacket, decode_packets
from tests import fleet
from tests.fleet import Tamper
from tests.packet_exchange import SIZE, Exchange, fine


def with_payload(change: Callable[[bytes], bytes]) -> Tamper:
    def tamper(reply: Message) -> Message:
        payload = reply.content.array_records[PACKET_KEY][PACKET_KEY].numpy().tobytes()
        changed = np.frombuffer(change(payload), dtype=np.uint8)
        reply.content[PACKET_KEY] = ArrayRecord({PACKET_KEY: Array(changed)})
        return reply

    return tamper


def with_array(array: NDArray[Any]) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content[PACKET_KEY] = fleet.record({PACKET_KEY: array})
        return reply

    return tamper


def damaged(payload: bytes) -> bytes:
    return payload[:100] + bytes([payload[100] ^ 1]) + payload[101:]


def made_by(codec: Codec, update: Tensor) -> Tamper:
    return with_payload(lambda _: codec.encode(update, seed=0).payload)


def without_packet(reply: Message) -> Message:
    del reply.content[PACKET_KEY]
    return reply


def garbled(reply: Message) -> Message:
    array = Array("uint8", (610,), "numpy.ndarray", b"\x93NUMPY but not really")
    reply.content[PACKET_KEY] = ArrayRecord({PACKET_KEY: array})
    return reply


def with_weight(value: object) -> Tamper:
    def tamper(reply: Message) -> Message:
        metrics = {**reply.content.metric_records["metrics"], "num-examples": value}
        reply.content["metrics"] = MetricRecord(metrics)
        return reply

    return tamper


SENT_FOR_NOTHING: dict[str, tuple[Tamper, str]] = {
    "damaged": (with_payload(damaged), "packet lost: the checksum does not match"),
    "truncated": (with_payload(lambda p: p[:-7]), "packet lost: the checksum does not match"),
    "a few bytes": (with_payload(lambda p: p[:3]), "packet lost: 3 bytes are no packet"),
    "another model": (made_by(fine(), torch.ones(609)), "packet lost: a packet of 609 entries; the update has 610"),
    "another codec": (made_by(EDEN(bits=2), torch.ones(SIZE)), "packet lost: .*made by another codec"),
    "too large": (
        made_by(fine(), torch.full((SIZE,), 1e300, dtype=torch.float64)),
        r"the update's norm is inf, expected at most",
    ),
}
NOT_SENT: dict[str, tuple[Tamper, str]] = {
    "no packet": (without_packet, r"carries no packet.*clients\.transmit"),
    "no array": (garbled, "the packet's bytes cannot be read"),
    "no bytes": (with_array(np.zeros(3)), "the packet's bytes have dtype <f8, expected uint8"),
    "a matrix": (with_array(np.zeros((3, 3), np.uint8)), r"shape \(3, 3\), expected 1 to 1170"),
    "nothing": (with_array(np.zeros(0, np.uint8)), r"shape \(0,\), expected 1 to 1170"),
    "weight zero": (with_weight(0), "num-examples.* is 0, expected a positive number"),
    "an error": (lambda reply: fleet.error_reply(reply, "battery empty"), "battery empty"),
    "no reply": (lambda reply: None, "no reply in time"),
}


@pytest.mark.parametrize("name", [*SENT_FOR_NOTHING, *NOT_SENT])
def test_a_bad_packet_is_dropped_and_named_and_the_others_are_as_if_it_had_not_been(name: str) -> None:
    tamper, reason = (SENT_FOR_NOTHING | NOT_SENT)[name]
    exchange = Exchange(tamper={1: tamper})
    assert list(exchange.reasons) == [1]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(exchange.reasons[1])
    whole = Exchange()
    assert list(exchange.updates) == [0, 2, 3]
    for device in (0, 2, 3):
        np.testing.assert_array_equal(exchange.updates[device], whole.updates[device])


@pytest.mark.parametrize("name", SENT_FOR_NOTHING)
def test_a_packet_sent_for_nothing_is_charged_and_its_device_silent(name: str) -> None:
    exchange = Exchange(tamper={1: SENT_FOR_NOTHING[name][0]})
    assert (exchange.record["participants"], exchange.record["silent"]) == (4, [1])
    assert exchange.record["arrived"] == [0, 1, 2, 3]
    assert exchange.record["energies"][1] > 0


@pytest.mark.parametrize("name", NOT_SENT)
def test_what_is_no_packet_is_not_sent_and_costs_nothing(name: str) -> None:
    exchange = Exchange(tamper={1: NOT_SENT[name][0]})
    assert exchange.record["devices"] == [0, 2, 3]
    assert (exchange.record["participants"], exchange.record["silent"]) == (3, [])
    assert len(exchange.record["energies"]) == 3


@pytest.mark.parametrize("there", CODECS)
@pytest.mark.parametrize("here", CODECS)
def test_a_packet_of_any_codec_is_decoded_by_another_or_lost_and_never_raises(here: str, there: str) -> None:
    update = torch.from_numpy(np.random.default_rng(5).standard_normal(SIZE))
    packet = CODECS[there]().encode(update, seed=1).payload
    first = PacketOrder("dithered", {}, 0).codec_of(0).encode(update, seed=1).payload
    sent = [SentPacket(0, first, 1.0, 1.0, {}, None), SentPacket(1, packet, 1.0, 1.0, {}, None)]
    decoded = decode_packets(sent, PacketOrder(here, {}, 0, first_group=0), SIZE)
    assert {*decoded.updates, *(failure.device for failure in decoded.failures)} == {0, 1}
    assert all(bool(torch.isfinite(update).all()) for update in decoded.updates.values())


@pytest.mark.parametrize("tamper", [None, {}])
def test_the_error_of_a_device_whose_training_diverges_is_recorded(tamper: Mapping[int, Tamper] | None) -> None:
    work = fleet.workplace()
    work.data.device(3).inputs[:] = torch.inf
    exchange = Exchange(work=work, tamper=tamper)
    assert "610 entries are not finite" in exchange.reasons[3]
    assert list(exchange.updates) == [0, 1, 2]
