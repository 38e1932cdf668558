"""Exchanges of packets that adapt: who is asked at all, and what becomes of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp.strategy import FedAvg

from channel import Adaptation, Channel, DigitalUplink, DitheredQuantizer, GaussMarkov, Rayleigh, Retransmission
from strategies import AirGrid
from tests import fleet
from tests.fleet import Tamper
from tests.packet_exchange import QUIET, SIZE, Exchange, digital, looking

COARSE = DitheredQuantizer(levels=3)
AMPLE = 1.0  # seconds: any packet here is whole in a fraction of it
SHORT = 1.5e-3


def fitting(deadline: float, *power_gains: float, **more: Any) -> DigitalUplink:
    channel = Channel(power_gain=np.array(power_gains), noise_power=1e-3)
    settings = {"channel": channel, "retransmission": Retransmission(0, deadline), "adaptation": Adaptation("fit")}
    return digital(**settings | more)


class Called:
    """Notes which devices' apps were called; what they reply is left as it is."""

    def __init__(self) -> None:
        self.devices: list[int] = []

    def tamper(self, devices: int = 4) -> dict[int, Tamper]:
        return {device: self._noting(device) for device in range(devices)}

    def _noting(self, device: int) -> Tamper:
        def note(reply: Message) -> Message:
            self.devices.append(device)
            return reply

        return note


def test_a_device_without_a_packet_short_enough_is_not_called_and_the_others_are_as_if_it_had_not_been() -> None:
    called = Called()
    exchange = Exchange(fitting(AMPLE, 1.0, 0.0, 1.0, 1.0, codec=COARSE), tamper=called.tamper())
    assert sorted(called.devices) == [0, 2, 3]
    assert exchange.not_asked == {1: "not asked: no packet of dithered is as short as the 0 bits that it may take"}
    assert exchange.reasons == {}, "who is not asked has not failed"
    assert (exchange.record["devices"], exchange.record["silent"]) == ([0, 2, 3], [])
    never = Exchange(digital(COARSE), devices=[0, 2, 3])
    assert exchange.updates.keys() == never.updates.keys() == {0, 2, 3}
    for device in (0, 2, 3):
        np.testing.assert_array_equal(exchange.updates[device], never.updates[device])


def test_the_model_changes_by_the_mean_of_those_that_could_send() -> None:
    uplink = fitting(SHORT, 1.0, 0.0, 0.3, 0.1)
    exchange = Exchange(uplink)
    models, (record,) = looking(FedAvg(**QUIET), uplink, rounds=1)
    assert record["devices"] == [0, 2, 3]
    assert len(set(record["packet_bits"])) == 3, "the same codec for all: a test of less"
    mean = np.average([exchange.updates[d] for d in (0, 2, 3)], axis=0, weights=record["weights"])
    np.testing.assert_allclose(models[1], models[0] + mean, rtol=0, atol=1e-12)


def test_if_nobody_has_a_packet_short_enough_the_model_is_unchanged_and_the_round_recorded() -> None:
    models, records = looking(FedAvg(**QUIET), fitting(1e-9, 1.0, 1.0, 1.0, 1.0), rounds=2)
    assert len(models) == 3
    for model in models[1:]:
        np.testing.assert_array_equal(model, models[0])
    for number, record in enumerate(records, start=1):
        assert (record["exchange"], record["round"], record["heard"]) == (number, number, False)
        assert (record["participants"], record["bits_per_device_mean"]) == (0, 0)
        assert {one["device"] for one in record["not_asked"]} == {0, 1, 2, 3}
        assert record["failures"] == []


def test_packets_that_fit_arrive_whole_on_channels_that_fade() -> None:
    uplink = digital(
        channel=Channel(Rayleigh(), noise_power=0.1),
        retransmission=Retransmission(0, 2e-3),
        adaptation=Adaptation("fit"),
    )
    _, records = looking(FedAvg(**QUIET), uplink, rounds=4)
    sizes = {bits for record in records for bits in record["packet_bits"]}
    assert len(sizes) > 4, "as many codecs as channels"
    assert max(sizes) < uplink.codec.bits(SIZE)
    for record in records:
        assert record["arrived"] == record["devices"]
        assert all(one["reason"].startswith("not asked: no packet") for one in record["not_asked"])


def test_importance_is_that_of_the_round_before() -> None:
    """In the first round nobody was heard and all get the same; later the error w^2 |x|^2 4^-b sets the sizes."""
    work = fleet.workplace()
    mean_bits = 5.0
    uplink = digital(DitheredQuantizer(levels=2**14, bucket="whole"), adaptation=Adaptation("least-error", mean_bits))
    records: list[dict[str, Any]] = []
    air = AirGrid(fleet.local_grid(work), uplink, on_exchange=records.append)
    start, nodes = fleet.initial(work), air.get_node_ids()
    norms = {d: np.linalg.norm(update) for d, update in Exchange(digital()).updates.items()}
    for round in (1, 2):
        air.send_and_receive(fleet.train_messages(start, nodes, round=round))
    first, second = (np.array(record["packet_bits"]) for record in records)
    assert len(set(first)) == 1
    sizes = [len(part) for part in work.data.parts]
    expected = np.log2([sizes[d] * norms[d] for d in range(4)])
    # b_i = log2(w_i |x_i|) + a constant; levels are whole numbers: at 3 bits and more within log2(9/7) of a bit.
    np.testing.assert_allclose(second / SIZE - np.mean(second) / SIZE, expected - expected.mean(), atol=0.37)
    assert np.ptp(second / SIZE) > 0.5
    assert max(first.sum(), second.sum()) <= mean_bits * SIZE * 4
    assert records[0]["bits_per_device_mean"] == first.mean() + 64, "norm and weight"


def test_of_those_selected_the_others_keep_what_they_said_last() -> None:
    called = Called()
    work = fleet.workplace()
    uplink = digital(adaptation=Adaptation(select=2))
    records: list[dict[str, Any]] = []
    air = AirGrid(fleet.message_grid(work, called.tamper()), uplink, on_exchange=records.append)
    start, nodes = fleet.initial(work), air.get_node_ids()
    for round in range(1, 5):
        air.send_and_receive(fleet.train_messages(start, nodes, round=round))
    asked = [record["devices"] for record in records]
    assert all(len(devices) == 2 for devices in asked)
    assert sorted(called.devices) == sorted(device for devices in asked for device in devices)
    # Who was never heard counts as important as the largest: with one that was, a new one is asked each time.
    assert {*asked[0], *asked[1], *asked[2]} == {0, 1, 2, 3}
    for record in records:
        assert {one["reason"] for one in record["not_asked"]} == {"not asked: others are worth more per joule"}
        assert len(record["not_asked"]) == 2
        assert sorted([*record["devices"], *(one["device"] for one in record["not_asked"])]) == [0, 1, 2, 3]
        assert record["failures"] == []


@pytest.mark.parametrize("tamper", [None, {}])
def test_a_run_knows_what_it_lost_before_and_the_record_says_how_far_channels_are_believed(tamper: Any) -> None:
    work = fleet.workplace()
    grid = fleet.local_grid(work) if tamper is None else fleet.message_grid(work, tamper)
    adaptation = Adaptation(csi="previous", outer_loop=True)
    records: list[dict[str, Any]] = []
    uplink = digital(COARSE, channel=Channel(GaussMarkov(0.0), noise_power=0.1), adaptation=adaptation)
    air = AirGrid(grid, uplink, on_exchange=records.append)
    start, nodes = fleet.initial(work), air.get_node_ids()
    for round in range(1, 6):
        air.send_and_receive(fleet.train_messages(start, nodes, round=round))
    offsets = np.zeros(4)
    for record in records:
        arrived = np.isin(np.arange(4), record["arrived"])
        offsets += np.where(arrived, -1 / 9, 1.0)
        np.testing.assert_allclose(record["offsets_db"], offsets, atol=1e-12)
    assert any(len(record["arrived"]) < 4 for record in records)


def test_another_run_begins_without_experience() -> None:
    uplink = digital(COARSE, adaptation=Adaptation("least-error", 2.0, select=2))
    first, second = (looking(FedAvg(**QUIET), uplink, rounds=3) for _ in range(2))
    for here, there in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize(("weight", "norm"), [(1e308, 1.0), (30, 1e100)])
def test_a_device_that_makes_up_its_weight_or_norm_does_not_get_the_others_budget(weight: float, norm: float) -> None:
    def boasting(reply: Message) -> Message:
        reply.content.metric_records["metrics"]["num-examples"] = weight
        reply.content.config_records["fedmac.transmission"]["norm"] = norm
        return reply

    work = fleet.workplace()
    uplink = digital(adaptation=Adaptation("least-error", 4.0))
    records: list[dict[str, Any]] = []
    air = AirGrid(fleet.message_grid(work, {1: boasting}), uplink, on_exchange=records.append)
    start, nodes = fleet.initial(work), air.get_node_ids()
    for round in (1, 2):
        air.send_and_receive(fleet.train_messages(start, nodes, round=round))
    for record in records:
        assert record["devices"] == [0, 2, 3]
        assert [failure["device"] for failure in record["failures"]] == [1]


def test_a_reply_without_a_norm_is_no_packet() -> None:
    def silent_of_its_norm(reply: Message) -> Message:
        del reply.content.config_records["fedmac.transmission"]["norm"]
        return reply

    exchange = Exchange(tamper={1: silent_of_its_norm})
    assert exchange.reasons == {1: "the update's norm is None, expected a finite number >= 0, at most 1e+100"}
