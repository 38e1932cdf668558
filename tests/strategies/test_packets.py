"""Packets as replies: every strategy on a digital link, and what is lost on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    CODECS,
    EDEN,
    Channel,
    Codec,
    DigitalUplink,
    DitheredQuantizer,
    FixedRateLink,
    IdealUplink,
    NestedDitheredQuantizer,
    PacketOrder,
    RandomLinearCode,
    Rayleigh,
    Retransmission,
    ScaledSign,
)
from channel.order import ANEW, DEVICE, DEVICE_QUERY, ORDER_KEY, PACKET_KEY, TRANSMISSION_KEY
from channel.uplinks import AnalogUplink
from clients import transmit
from clients.app import Workplace
from clients.training import Training
from clients.transmit import RESIDUAL_KEY
from fedmac.engines.local import FIRST_NODE
from strategies import AirGrid, OverTheAir
from tests import fleet
from tests.fleet import Tamper

QUIET: Any = {"fraction_evaluate": 0.0}
SIZE = 610  # entries of the fleet's model
QUIET_AIR = Channel(noise_power=1e-3)


def fine() -> DitheredQuantizer:
    """Steps of 1/16384 of the largest entry of an update."""
    return DitheredQuantizer(levels=2**14, bucket=None)


def digital(codec: Codec | None = None, **more: Any) -> DigitalUplink:
    return DigitalUplink(codec or fine(), **{"channel": QUIET_AIR} | more)


def out_of_reach(*devices: int, of: int = 4) -> Channel:
    """A channel on which these devices have no gain."""
    return Channel(power_gain=np.array([0.0 if d in devices else 1.0 for d in range(of)]), noise_power=1e-3)


@dataclass
class Exchange:
    """One exchange of packets from the initial model, and everything that can be seen of it."""

    uplink: DigitalUplink = field(default_factory=digital)
    work: Workplace = field(default_factory=fleet.workplace)
    tamper: Mapping[int, Tamper] | None = None
    devices: Iterable[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        grid = fleet.local_grid(self.work) if self.tamper is None else fleet.message_grid(self.work, self.tamper)
        records: list[dict[str, Any]] = []
        self.air = AirGrid(grid, self.uplink, seed=self.seed, on_exchange=records.append)
        self.start = fleet.initial(self.work)
        nodes = self.air.get_node_ids()
        asked = nodes if self.devices is None else [nodes[device] for device in self.devices]
        self.replies = list(self.air.send_and_receive(fleet.train_messages(self.start, asked)))
        (self.record,) = records
        json.dumps(self.record, allow_nan=False)

    @property
    def updates(self) -> dict[int, NDArray[np.float64]]:
        """What each device that was heard adds to the model, as the server has it."""
        return {
            reply.metadata.src_node_id - FIRST_NODE: fleet.flat(reply.content.array_records["arrays"])
            - fleet.flat(self.start)
            for reply in self.replies
        }

    @property
    def reasons(self) -> dict[int, str]:
        """Why devices were not heard."""
        return {failure["device"]: failure["reason"] for failure in self.record["failures"]}


def plain_updates(work: Workplace) -> dict[int, NDArray[np.float64]]:
    """What the devices would send on a perfect link."""
    start = fleet.initial(work)
    grid = fleet.local_grid(work)
    replies = grid.send_and_receive(fleet.train_messages(start, grid.get_node_ids()))
    return {d: fleet.flat(r.content.array_records["arrays"]) - fleet.flat(start) for d, r in enumerate(replies)}


# What arrives.


def test_each_device_is_a_reply_of_its_own_within_half_a_step_of_its_update() -> None:
    exchange = Exchange()
    plain = plain_updates(exchange.work)
    assert list(exchange.updates) == [0, 1, 2, 3]
    for device, update in plain.items():
        step = np.abs(update).max() / 2**14
        assert step > 0
        # The step is rounded up to float32.
        assert np.abs(exchange.updates[device] - update).max() <= step / 2 * (1 + 1e-6)


def test_a_reply_carries_the_devices_own_metrics_and_the_record_their_mean() -> None:
    exchange = Exchange()
    sizes = [len(part) for part in exchange.work.data.parts]
    metrics = [reply.content.metric_records["metrics"] for reply in exchange.replies]
    assert [m["num-examples"] for m in metrics] == sizes
    mean = np.average([float(str(m["train_loss"])) for m in metrics], weights=sizes)
    assert exchange.record["metrics"]["train_loss"] == pytest.approx(mean, rel=1e-12)
    assert exchange.record["weights"] == pytest.approx([n / sum(sizes) for n in sizes], rel=1e-12)


def test_the_record_and_the_ledger_say_what_the_packets_cost() -> None:
    exchange = Exchange(digital(DitheredQuantizer(levels=3)))
    bits = DitheredQuantizer(levels=3).bits(SIZE)
    record = exchange.record
    assert record["packet_bits"] == [bits] * 4
    assert (record["heard"], record["participants"], record["arrived"]) == (True, 4, [0, 1, 2, 3])
    assert (record["silent"], record["failures"]) == ([], [])
    assert record["bits_per_device_mean"] == bits + 32
    assert record["energy_j_per_device_mean"] == pytest.approx(np.mean(record["energies"]))
    assert record["energy_j_per_device_mean"] > 0
    assert record["clock_s"] == record["air_time_s"] + record["compute_s"]
    assert record["compute_s"] == record["train_s_max"]


@pytest.mark.parametrize("packing", ["fixed", "entropy"])
@pytest.mark.parametrize("name", CODECS)
def test_what_arrives_is_what_the_codec_decodes_under_the_devices_seed(name: str, packing: Any) -> None:
    codec = CODECS[name](bits=2.0) if name == "rotated-dithered" else CODECS[name]()
    uplink = digital(codec, packing=packing)
    exchange = Exchange(uplink)
    order = uplink.packet_order(1, 0, range(4))
    plain = plain_updates(exchange.work)
    assert list(exchange.updates) == [0, 1, 2, 3]
    for device, update in plain.items():
        own = order.codec_of(device)
        if isinstance(own, NestedDitheredQuantizer):
            continue  # decoded with what the others say; see below
        packet = own.encode(torch.from_numpy(update), seed=order.seed_of(device), packing=packing)
        assert exchange.record["packet_bits"][device] == packet.bits
        decoded = own.decode(packet, seed=order.seed_of(device)).numpy()
        np.testing.assert_allclose(exchange.updates[device], decoded, rtol=0, atol=1e-12)


def test_devices_do_not_share_a_dither() -> None:
    """Errors under one seed would be the same for all, and not average out."""
    exchange = Exchange(digital(DitheredQuantizer(levels=1)))
    plain = plain_updates(exchange.work)
    scaled = [(exchange.updates[d] - plain[d]) / np.abs(plain[d]).max() for d in range(4)]
    for one, other in ((0, 1), (1, 2), (2, 3)):
        correlation = np.corrcoef(scaled[one], scaled[other])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(SIZE), "four standard deviations of a correlation of nothing"


# Strategies.

FLOWER: dict[str, Callable[[], Strategy]] = {
    "fedavg": lambda: FedAvg(**QUIET),
    "fedadam": lambda: FedAdam(eta=0.01, **QUIET),
    "krum": lambda: Krum(num_malicious_nodes=1, **QUIET),
    "multikrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=2, **QUIET),
    "fedmedian": lambda: FedMedian(**QUIET),
    "fedtrimmedavg": lambda: FedTrimmedAvg(beta=0.3, **QUIET),
    "bulyan": lambda: Bulyan(num_malicious_nodes=0, **QUIET),
    "qfedavg": lambda: QFedAvg(client_learning_rate=0.5, **QUIET),
    "clipping": lambda: DifferentialPrivacyServerSideFixedClipping(
        FedAvg(**QUIET), noise_multiplier=0.0, clipping_norm=0.5, num_sampled_clients=4
    ),
}


class Counted:
    """Wraps a strategy's aggregation to count the replies that reach it."""

    def __init__(self, strategy: Strategy) -> None:
        self.counts: list[int] = []
        aggregate = strategy.aggregate_train

        def counting(server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
            listed = list(replies)
            self.counts.append(len(listed))
            return aggregate(server_round, listed)

        strategy.aggregate_train = counting  # type: ignore[method-assign]


@pytest.mark.parametrize("grid_of", [fleet.local_grid, fleet.message_grid])
@pytest.mark.parametrize("name", FLOWER)
def test_a_strategy_on_a_fine_quantiser_is_plain_flower(name: str, grid_of: Callable[[Any], Grid]) -> None:
    work = fleet.workplace()
    plain = fleet.run(FLOWER[name](), fleet.local_grid(work), work)
    strategy = FLOWER[name]()
    counted = Counted(strategy)
    sent = fleet.run(OverTheAir(strategy, digital(DitheredQuantizer(levels=2**14))), grid_of(work), work)
    assert counted.counts == [4, 4, 4]
    moved = np.abs(fleet.flat(plain.arrays) - fleet.flat(fleet.initial(work))).max()
    assert moved > 0.01
    # Updates of entries up to 1 come within half a step of 6e-5 in each of three rounds, which training carries on;
    # adaptive steps divide by sqrt(v) + 1e-3. Krum's choice is the same, or the models would differ by far more.
    off = np.abs(fleet.flat(plain.arrays) - fleet.flat(sent.arrays)).max()
    assert off < (5e-3 if name == "fedadam" else 5e-4)
    assert off > 0, "nothing was quantised"


def test_fedavg_follows_the_ideal_uplink_within_the_quantisers_step() -> None:
    work = fleet.workplace()
    paths: list[list[NDArray[Any]]] = []
    for uplink in (IdealUplink(), digital()):
        seen: list[NDArray[Any]] = []

        def look(_round: int, arrays: ArrayRecord, seen: list[NDArray[Any]] = seen) -> MetricRecord:
            seen.append(fleet.flat(arrays))
            return MetricRecord()

        strategy = OverTheAir(FedAvg(**QUIET), uplink)
        strategy.start(fleet.local_grid(work), fleet.initial(work), num_rounds=5, evaluate_fn=look)
        paths.append(seen)
    ideal, packets = paths
    step = max(np.abs(after - before).max() for before, after in zip(ideal, ideal[1:], strict=False)) / 2**14
    for number, (there, here) in enumerate(zip(ideal, packets, strict=True)):
        # A round adds at most half a device's step, a device's update is up to a few times the mean, and gradient
        # steps of 0.5 do not magnify what was there by more than 2 a round on this model.
        assert np.abs(there - here).max() <= 4 * step * (2**number - 1)


def test_what_krum_discards_is_one_devices_model_and_no_mean() -> None:
    exchange = Exchange()
    strategy = Krum(num_malicious_nodes=1, **QUIET)
    chosen = fleet.run(OverTheAir(strategy, digital()), fleet.local_grid(exchange.work), exchange.work, rounds=1)
    models = [fleet.flat(exchange.start) + update for update in exchange.updates.values()]
    distances = [np.abs(fleet.flat(chosen.arrays) - model).max() for model in models]
    assert sorted(distances)[0] < 1e-12
    assert sorted(distances)[1] > 1e-3


@pytest.mark.parametrize("name", FLOWER)
def test_a_strategy_gets_only_the_replies_that_arrived(name: str) -> None:
    work = fleet.workplace()
    strategy = FLOWER[name]()
    counted = Counted(strategy)
    result = fleet.run(OverTheAir(strategy, digital(channel=out_of_reach(2))), fleet.local_grid(work), work)
    assert counted.counts == [3, 3, 3]
    assert np.isfinite(fleet.flat(result.arrays)).all()
    assert not np.allclose(fleet.flat(result.arrays), fleet.flat(fleet.initial(work)))


def test_fedavg_of_those_that_arrived_is_fedavg_of_them_alone() -> None:
    lost, never = Exchange(digital(channel=out_of_reach(1))), Exchange(devices=[0, 2, 3])
    assert lost.updates.keys() == never.updates.keys()
    for device in (0, 2, 3):
        np.testing.assert_array_equal(lost.updates[device], never.updates[device])


# Order and repetition.


def test_the_order_in_which_replies_arrive_does_not_matter() -> None:
    """The message grid returns them the other way round."""
    here, there = Exchange(digital(NestedDitheredQuantizer())), Exchange(digital(NestedDitheredQuantizer()), tamper={})
    assert list(here.updates) == list(there.updates) == [0, 1, 2, 3]
    for device in range(4):
        np.testing.assert_array_equal(here.updates[device], there.updates[device])
    assert here.record["suspected_wraps"] == there.record["suspected_wraps"]


@pytest.mark.parametrize("codec", [EDEN(bits=1), ScaledSign()], ids=lambda codec: codec.name)
def test_a_seed_repeats_a_run_bit_by_bit_on_any_number_of_workers(codec: Codec) -> None:
    def final(seed: int, workers: int) -> NDArray[Any]:
        work = fleet.workplace()
        feedback = 1.0 if codec.name == "scaled-sign" else None
        uplink = digital(codec, error_feedback=feedback, channel=Channel(Rayleigh()), link=FixedRateLink(0.5))
        start = fleet.initial(work)
        with fleet.local_grid(work, workers=workers) as grid:
            result = OverTheAir(FedAvg(**QUIET), uplink, seed=seed).start(grid, start, num_rounds=4)
        return fleet.flat(result.arrays)

    assert np.array_equal(final(1, workers=1), final(1, workers=2))
    assert not np.allclose(final(1, workers=1), final(2, workers=1))


# What may go wrong.


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
        r"the update's norm is 2\.4\d*e\+301, expected at most 1e\+100",
    ),
}
NOT_SENT: dict[str, tuple[Tamper, str]] = {
    "no packet": (without_packet, r"carries no packet.*clients\.transmit"),
    "no array": (garbled, "the packet cannot be read"),
    "no bytes": (with_array(np.zeros(3)), r"the packet has dtype <f8 and shape \(3,\), expected bytes"),
    "a matrix": (with_array(np.zeros((3, 3), np.uint8)), r"shape \(3, 3\), expected bytes"),
    "nothing": (with_array(np.zeros(0, np.uint8)), r"shape \(0,\), expected bytes"),
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


@pytest.mark.parametrize("there", [n for n in CODECS if n != "rotated-dithered"])
@pytest.mark.parametrize("here", [n for n in CODECS if n != "rotated-dithered"])
def test_a_packet_of_any_codec_is_decoded_by_another_or_lost_and_never_raises(here: str, there: str) -> None:
    update = torch.from_numpy(np.random.default_rng(5).standard_normal(SIZE))
    packet = CODECS[there]().encode(update, seed=1).payload
    from strategies.packets import SentPacket, decode_packets

    first = PacketOrder("dithered", {}, 0).codec_of(0).encode(update, seed=1).payload
    sent = [SentPacket(0, first, 1.0, {}, None), SentPacket(1, packet, 1.0, {}, None)]
    updates, failures, _ = decode_packets(sent, PacketOrder(here, {}, 0, first_group=0), SIZE)
    assert {*updates, *(failure.device for failure in failures)} == {0, 1}
    assert all(bool(torch.isfinite(update).all()) for update in updates.values())


@pytest.mark.parametrize("tamper", [None, {}])
def test_the_error_of_a_device_whose_training_diverges_is_recorded(tamper: Mapping[int, Tamper] | None) -> None:
    work = fleet.workplace()
    work.data.device(3).inputs[:] = torch.inf
    exchange = Exchange(work=work, tamper=tamper)
    assert "610 entries are not finite" in exchange.reasons[3]
    assert list(exchange.updates) == [0, 1, 2]


def looking(strategy: FedAvg, uplink: DigitalUplink, rounds: int) -> tuple[list[NDArray[Any]], list[dict[str, Any]]]:
    """The model after each round, and the records."""
    seen: list[NDArray[Any]] = []
    records: list[dict[str, Any]] = []

    def look(_round: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(fleet.flat(arrays))
        return MetricRecord()

    work = fleet.workplace()
    OverTheAir(strategy, uplink, on_exchange=records.append).start(
        fleet.local_grid(work), fleet.initial(work), num_rounds=rounds, evaluate_fn=look
    )
    return seen, records


@pytest.mark.parametrize("name", [n for n in FLOWER if n != "clipping"])
def test_if_all_are_in_outage_the_model_stays_and_the_run_goes_on(name: str) -> None:
    strategy = FLOWER[name]()
    assert isinstance(strategy, FedAvg)
    seen, records = looking(strategy, digital(channel=out_of_reach(0, 1, 2, 3)), rounds=2)
    assert [r["round"] for r in records] == [1, 2]
    assert np.array_equal(seen[0], seen[1])
    assert np.array_equal(seen[0], seen[2])
    for record in records:
        assert not record["heard"]
        assert record["silent"] == [0, 1, 2, 3]
        assert {failure["reason"] for failure in record["failures"]} == {"not sent: in outage"}
    assert records[-1]["bits_per_device_mean"] == 0
    assert records[-1]["energy_j_per_device_max"] == 0


def test_a_round_in_which_nothing_is_heard_is_followed_by_one_that_is() -> None:
    """A packet takes some 2.4 ms at an SNR of 1; fades are deeper than that in some rounds, and not in others."""
    uplink = digital(DitheredQuantizer(levels=1), channel=Channel(Rayleigh()), retransmission=Retransmission(0, 1.5e-3))
    seen, records = looking(FedAvg(**QUIET), uplink, rounds=12)
    heard = [len(r["devices"]) - len(r["silent"]) for r in records]
    assert 0 in heard
    assert max(heard) > 0
    for before, after, record, count in zip(seen, seen[1:], records, heard, strict=False):
        assert record["heard"] == (count > 0)
        assert np.array_equal(before, after) == (count == 0)
        assert [f["device"] for f in record["failures"]] == record["silent"]


def test_vectors_that_are_no_updates_are_refused() -> None:
    from channel.order import BLOCKS_KEY

    work = fleet.workplace()
    air = AirGrid(fleet.local_grid(work), digital())
    messages = fleet.train_messages(fleet.initial(work), air.get_node_ids())
    for message in messages:
        message.content[BLOCKS_KEY] = ConfigRecord({"gradient": SIZE})
    with pytest.raises(ValueError, match="vectors that are no updates, which packets do not carry yet"):
        air.send_and_receive(messages)


# Device numbers.


def nameless(grid: Grid) -> None:
    """Nodes without a partition of their own say so when they are asked."""


def test_nodes_are_decoded_by_the_number_the_server_gave_them_whatever_they_call_themselves() -> None:
    """A node may have no number of its own, or one that another has."""

    def unknown(reply: Message) -> Message:
        reply.content[TRANSMISSION_KEY] = ConfigRecord({"device": -1})
        return reply

    class Unnamed(fleet.MessageGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            asked = DEVICE_QUERY in messages[0].content.config_records
            replies = super().send_and_receive(messages, timeout=timeout)
            # Numbered 3, 2, 1, 0 by who they are, and so anew by the server: the order of their node ids.
            return [unknown(reply) for reply in replies] if asked else replies

    work = fleet.workplace()
    plain = plain_updates(work)
    air = AirGrid(Unnamed(fleet.local_grid(work)), digital())
    air.get_node_ids()
    air._device_of = {node: 3 - device for node, device in air._device_of.items()}  # not the partition's own
    start = fleet.initial(work)
    replies = list(air.send_and_receive(fleet.train_messages(start, list(air.grid.get_node_ids()))))
    assert len(replies) == 4
    for reply in replies:
        update = fleet.flat(reply.content.array_records["arrays"]) - fleet.flat(start)
        assert np.abs(update - plain[reply.metadata.src_node_id - FIRST_NODE]).max() < 1e-3


# Error feedback.


def packet_message(order: PacketOrder, received: NDArray[Any], *, anew: bool = False, device: int = 0) -> Message:
    fleet.identify()
    told = ConfigRecord({**order.to_config(), DEVICE: device, ANEW: anew})
    return Message(RecordDict({"arrays": fleet.record({"w": received}), ORDER_KEY: told}), FIRST_NODE, "train")


def sending(update: NDArray[Any]) -> Callable[[Message, Context], Message]:
    def app(message: Message, context: Context) -> Message:
        trained = message.content.array_records["arrays"]["w"].numpy() + update
        content = RecordDict({"arrays": fleet.record({"w": trained}), "metrics": MetricRecord({"num-examples": 5})})
        return Message(content, reply_to=message)

    return app


def payload_of(reply: Message) -> bytes:
    return reply.content.array_records[PACKET_KEY][PACKET_KEY].numpy().tobytes()


def test_the_sum_of_decoded_updates_follows_the_sum_of_updates() -> None:
    rng = np.random.default_rng(0)
    trend = rng.standard_normal(200)
    context = fleet.context()
    sums = {1.0: np.zeros(200), None: np.zeros(200)}
    total = np.zeros(200)
    for number in range(60):
        update = trend + 0.3 * rng.standard_normal(200)
        total += update
        for weight in sums:
            order = PacketOrder("scaled-sign", {}, number, error_feedback=weight)
            reply = transmit(packet_message(order, np.zeros(200)), context, sending(update))
            sums[weight] += order.codec_of(0).decode(payload_of(reply), seed=order.seed_of(0)).numpy()
    residual = context.state.array_records[RESIDUAL_KEY][RESIDUAL_KEY].numpy()
    # sum of decoded = sum of updates - the residual, by construction of error feedback with weight 1.
    np.testing.assert_allclose(sums[1.0] + residual, total, rtol=0, atol=1e-9)
    with_feedback, without = (np.linalg.norm(sums[w] - total) / np.linalg.norm(total) for w in (1.0, None))
    # Signs alone keep their error of 0.6 whatever the number of rounds; with feedback it falls as 1/rounds.
    assert without > 0.4
    assert with_feedback < 0.1


def test_without_error_feedback_a_device_keeps_nothing() -> None:
    context = fleet.context()
    transmit(packet_message(PacketOrder("scaled-sign"), np.zeros(20)), context, sending(np.ones(20)))
    assert RESIDUAL_KEY not in context.state


def test_a_run_that_begins_drops_the_residual_of_the_one_before() -> None:
    order = PacketOrder("scaled-sign", error_feedback=1.0)
    update = np.arange(20.0)
    fresh, used = fleet.context(), fleet.context()
    expected = payload_of(transmit(packet_message(order, np.zeros(20), anew=True), fresh, sending(update)))
    transmit(packet_message(order, np.zeros(20), anew=True), used, sending(-(update**2)))
    kept = transmit(packet_message(order, np.zeros(20)), used, sending(update))
    assert payload_of(kept) != expected
    again = transmit(packet_message(order, np.zeros(20), anew=True), used, sending(update))
    assert payload_of(again) == expected


@pytest.mark.parametrize(
    "uplink",
    [
        digital(ScaledSign(), error_feedback=1.0),
        AnalogUplink(RandomLinearCode(ratio=0.5, decoder="projection", error_feedback=True)),
    ]
    if False
    else [digital(ScaledSign(), error_feedback=1.0)],
    ids=["packets"],
)
def test_error_feedback_begins_anew_with_each_run_on_the_same_nodes(uplink: DigitalUplink) -> None:
    work = fleet.workplace()
    grid, start = fleet.local_grid(work), fleet.initial(work)
    strategy = OverTheAir(FedAvg(**QUIET), uplink)
    first, second = (fleet.flat(strategy.start(grid, start, num_rounds=3).arrays) for _ in range(2))
    assert np.array_equal(first, second)
    without = OverTheAir(FedAvg(**QUIET), digital(ScaledSign())).start(grid, start, num_rounds=3)
    assert not np.allclose(first, fleet.flat(without.arrays))


# Nested packets.


def test_nested_packets_of_the_second_group_are_shorter_and_wraps_are_in_the_record() -> None:
    uplink = digital(NestedDitheredQuantizer(levels=3, ratio=3))
    exchange = Exchange(uplink, work=fleet.workplace(5))
    plain, nested = DitheredQuantizer(levels=3).bits(SIZE), NestedDitheredQuantizer(levels=3, ratio=3).bits(SIZE)
    assert nested < plain
    assert exchange.record["packet_bits"] == [plain] * 3 + [nested] * 2
    assert 0 < exchange.record["suspected_wraps"] < 2 * SIZE


def test_nested_packets_with_enough_room_are_within_half_a_step() -> None:
    """Devices differ by less than a tenth of their largest entry if they hold the same rows."""
    work = fleet.workplace(training=Training(learning_rate=0.05, full_batch=True))
    work.data.parts[:] = [work.data.parts[0]] * 4
    exchange = Exchange(digital(NestedDitheredQuantizer(levels=64, ratio=17, bucket=None)), work=work)
    update = exchange.updates[0]
    step = np.abs(plain_updates(work)[0]).max() / 64
    for device in (1, 2, 3):
        assert np.abs(exchange.updates[device] - update).max() <= step * (1 + 1e-6)
    assert exchange.record["suspected_wraps"] == 0


def test_without_a_packet_of_the_first_group_the_second_is_lost_and_told_why() -> None:
    exchange = Exchange(digital(NestedDitheredQuantizer(), channel=out_of_reach(0, 1)))
    assert exchange.updates == {}
    assert {exchange.reasons[d] for d in (2, 3)} == {
        "packet lost: no side information: no packet of the first group was decoded"
    }
    assert exchange.record["arrived"] == [2, 3]
    assert (exchange.record["heard"], exchange.record["silent"]) == (False, [0, 1, 2, 3])
