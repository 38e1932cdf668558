"""Updates of workers as packets of a codec."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from channel.codecs import CODECS, EDEN, QSGD, NestedDitheredQuantizer, TopK
from channel.codecs.codec import Codec
from channel.order import ORDER_KEY, PACKET_KEY, TRANSMISSION_KEY
from clients.transmit import transmit
from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import Link
from fedmac.clock.network import Network
from fedmac.clock.reply_bits import bits_of_reply, packet_bits
from fedmac.codec_figures import AT_BITS
from fedmac.engines.local import FIRST_NODE
from strategies.refusal import BadPayload
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.coded_updates import CodedUpdates
from strategies.systems.fedbuff import FedBuff
from strategies.systems.model_form import ModelForm
from strategies.systems.server_system import ServerSystem
from strategies.systems.synchronous import Synchronous
from tests.fedmac.clock.simulated import INSTANT, ONE_FLOP_A_SECOND, Answer, InstantGrid, Vector, clocked, vector
from tests.strategies.systems.least_squares import SIZE, run, sgd_step, uneven

EXACT = TopK(1.0)
"""Keeps every entry as it is."""

Tamper = Callable[[Message], Message]


class CodingGrid(InstantGrid):
    """Devices with the mod that encodes; `tamper` is what happens to their replies."""

    def __init__(self, devices: int, answer: Answer, tamper: Tamper = lambda reply: reply) -> None:
        super().__init__(devices, answer)
        self.tamper = tamper
        self.sent_bits: list[float] = []

    def _answered(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = Context(1, node, {"partition-id": node - FIRST_NODE}, RecordDict(), {})
        reply = self.tamper(transmit(message, context, lambda own, _: super(CodingGrid, self)._answered(own)))
        self.sent_bits.append(packet_bits(reply))
        return reply


def coded(system: ServerSystem, codec: Codec, **given: object) -> ServerSystem:
    """A system whose workers send packets."""
    system.coding = CodedUpdates(codec, **given)  # type: ignore[arg-type]
    return system


def coding(
    answer: Answer, seconds: list[float], link: Link = INSTANT, tamper: Tamper = lambda reply: reply
) -> ClockedGrid:
    """Such devices on a clock."""
    speeds, network = Fleet([ONE_FLOP_A_SECOND], len(seconds), 0), Network([link] * len(seconds))
    return ClockedGrid(CodingGrid(len(seconds), answer, tamper), speeds, network, lambda device: seconds[device])


def single(device: int, x: Vector, step: int) -> Vector:
    """A step in single precision, which packets carry."""
    return sgd_step(device, x, step).astype(np.float32)


START = np.zeros(SIZE, np.float32)


@pytest.mark.parametrize("system", [Synchronous, Asynchronous, FedBuff])
def test_a_codec_that_loses_nothing_is_no_codec(system: type[ServerSystem]) -> None:
    # In single precision, on links without length: the times are the same, and the updates to the bit.
    plain = run(system(), clocked(single, uneven(3)), 5, x=START)
    packets = run(coded(system(), EXACT), coding(single, uneven(3)), 5, x=START)
    assert np.array_equal(plain.models, packets.models)
    assert plain.times == packets.times


@pytest.mark.parametrize("system", [Synchronous, Asynchronous])
def test_the_model_moves_by_what_is_decoded(system: type[ServerSystem]) -> None:
    coding_of, codec = CodedUpdates(QSGD(3), seed=5), QSGD(3)
    told = run(coded(system(), codec, seed=5), coding(single, [1.0]), 1, x=START)
    update = single(0, START, 1)
    order, number = coding_of.order(1), FIRST_NODE
    packet = codec.encode(torch.from_numpy(update), seed=order.seed_of(number))
    decoded = codec.decode(packet, seed=order.seed_of(number)).numpy()
    assert np.array_equal(told.final, decoded)
    assert not np.array_equal(decoded, update)


def test_draws_go_by_the_device_and_not_by_its_node() -> None:
    numbers = {FIRST_NODE + device: device for device in range(3)}
    by_device = CodedUpdates(QSGD(1), seed=1, numbers=numbers)
    config = by_device.record(FIRST_NODE + 2, 4)
    assert config["device"] == 2
    assert by_device.order(4).seed != by_device.order(5).seed


@pytest.mark.parametrize("name", [name for name in CODECS if name != NestedDitheredQuantizer.name])
@pytest.mark.parametrize("packing", ["fixed", "entropy"])
def test_a_reply_takes_the_bits_of_its_packet(name: str, packing: str) -> None:
    codec = CODECS[name](**AT_BITS[name][-1])
    grid = coding(lambda d, x, s: x + np.random.default_rng([d, s]).normal(size=len(x)).astype(np.float32), [1.0, 2.0])
    run(coded(Synchronous(), codec, packing=packing), grid, 3, x=np.zeros(600, np.float32))
    assert isinstance(grid.grid, CodingGrid)
    assert sum(grid.used().bits_up) == sum(grid.grid.sent_bits)
    assert len(grid.grid.sent_bits) == 6
    assert 0 < sum(grid.grid.sent_bits) < 6 * 32 * 600


def test_the_length_of_a_packet_at_a_fixed_rate_is_known_before_it_is_made() -> None:
    coding_of = CodedUpdates(EDEN(2))
    message = Message(RecordDict({"arrays": vector(START), ORDER_KEY: coding_of.record(FIRST_NODE, 1)}), 2, "train")
    assert bits_of_reply(message, 160.0) == EDEN(2).bits(SIZE)
    message.content[ORDER_KEY] = CodedUpdates(EDEN(2), "entropy").record(FIRST_NODE, 1)
    assert np.isnan(bits_of_reply(message, 160.0))
    del message.content[ORDER_KEY]
    assert bits_of_reply(message, 160.0) == 160.0


def test_a_packet_takes_as_long_as_its_bits_at_the_links_rate() -> None:
    codec = QSGD(1)
    bits, down = codec.bits(SIZE), 32 * SIZE
    grid = coding(single, [3.0], Link(up_bps=100.0, down_bps=1e3, latency_s=0.5))
    told = run(coded(Synchronous(), codec), grid, 1, x=START)
    assert told.times[-1] == pytest.approx(0.5 + down / 1e3 + 3.0 + 0.5 + bits / 100.0)


def bit_flipped(reply: Message) -> Message:
    content = reply.content[PACKET_KEY][PACKET_KEY].numpy().copy()  # type: ignore[index]
    content[len(content) // 2] ^= 1
    reply.content[PACKET_KEY] = ArrayRecord({PACKET_KEY: Array(content)})
    return reply


def of_another_step(reply: Message) -> Message:
    said = reply.content.config_records[TRANSMISSION_KEY]
    said["seed"] = int(str(said["seed"])) + 1
    return reply


def without_packet(reply: Message) -> Message:
    reply.content.pop(PACKET_KEY)
    return reply


def far_too_long(reply: Message) -> Message:
    reply.content[PACKET_KEY] = ArrayRecord({PACKET_KEY: Array(np.zeros(10**5, np.uint8))})
    return reply


def of_another_size(reply: Message) -> Message:
    packet = QSGD(1).encode(torch.ones(SIZE - 1), seed=0)
    reply.content[PACKET_KEY] = ArrayRecord({PACKET_KEY: Array(np.frombuffer(packet.payload, np.uint8).copy())})
    return reply


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (bit_flipped, "packet lost"),
        (of_another_step, "made under the seed"),
        (without_packet, "carries no packet"),
        (far_too_long, "the packet's bytes of shape"),
        (of_another_size, "packet lost"),
    ],
)
def test_a_bad_packet_is_refused_and_counted(tamper: Tamper, reason: str) -> None:
    def of_the_second(reply: Message) -> Message:
        return tamper(reply) if reply.metadata.src_node_id == FIRST_NODE + 1 else reply

    grid = coding(lambda _d, x, _s: x + np.float32(1), [1.0, 1.5], tamper=of_the_second)
    told = run(coded(Asynchronous(devices=3), EXACT), grid, 1, x=START)
    assert told.final.tolist() == [3.0] * SIZE  # of the first worker alone
    (figures,) = told.figures
    assert {one["node"] for one in figures["failed"]} == {FIRST_NODE + 1}
    assert all(reason in one["reason"] for one in figures["failed"])


def test_a_worker_that_fails_says_why_and_sends_no_bits() -> None:
    def fails(device: int, x: Vector, step: int) -> Vector:
        raise ValueError("no memory left")

    grid = coding(fails, [1.0])
    told = run(coded(Asynchronous(), QSGD(1), packing="entropy"), grid, 1, x=START)
    assert "no memory left" in told.figures[0]["failed"][0]["reason"]
    assert grid.used().bits_up.tolist() == [0.0]


def test_a_packet_needs_the_order_it_was_made_for() -> None:
    coding_of, form = CodedUpdates(QSGD(1)), ModelForm(vector(START))
    grid = InstantGrid(1, single)
    message = Message(
        RecordDict({"arrays": vector(START), "config": coding_of.record(FIRST_NODE, 1)}), FIRST_NODE, "train"
    )
    message.content["config"]["server-round"] = 1  # type: ignore[index]
    with pytest.raises(BadPayload, match=r"no packet: does the worker's ClientApp use the mod clients\.transmit"):
        coding_of.read(grid._answered(message), form, FIRST_NODE, 1)


def test_a_quantiser_that_needs_side_information_is_refused() -> None:
    with pytest.raises(ValueError, match="codec = 'nested': decodes packets with what others say"):
        CodedUpdates(NestedDitheredQuantizer())
