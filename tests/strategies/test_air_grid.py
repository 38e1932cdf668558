"""The air as a Grid: what is merged, what is dropped, what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM
from flwr.supercore.run import Run
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    AnalogUplink,
    Channel,
    ChannelInversion,
    IdealUplink,
    MinimumMSE,
    RandomLinearCode,
    RandomMask,
    Rayleigh,
    Uncoded,
    Uplink,
)
from channel.order import SYMBOLS_KEY, TRANSMISSION_KEY
from clients.app import Workplace
from clients.training import Training
from fedmac.engines.local import FIRST_NODE
from fedmac.record import MEASURED
from strategies import AirGrid, OverTheAir
from strategies.air_messages import weighted_metrics
from tests import fleet
from tests.fleet import Tamper
from tests.one_exchange import OneExchange

RAYLEIGH = Channel(Rayleigh(), noise_power=0.01)

UPLINKS: dict[str, Uplink] = {
    "ideal": IdealUplink(),
    "random-linear": AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), RAYLEIGH),
    "random-linear-lmmse": AnalogUplink(RandomLinearCode(ratio=0.5, decoder="lmmse"), MinimumMSE(), RAYLEIGH),
    "random-mask": AnalogUplink(RandomMask(ratio=0.3), MinimumMSE(), RAYLEIGH),
    "uncoded": AnalogUplink(Uncoded(), MinimumMSE(), RAYLEIGH),
    "traced, erased": AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), RAYLEIGH, erasure=0.2, trace=True),
}
LOUD = UPLINKS["uncoded"]

on_both_paths = pytest.mark.parametrize("tamper", [None, {}], ids=["in place", "by message"])


class Exchange(OneExchange):
    """Of which the server hears a mean."""

    @property
    def arrays(self) -> ArrayRecord:
        """The model in the one reply."""
        (reply,) = self.replies
        return reply.content.array_records["arrays"]

    @property
    def update(self) -> NDArray[np.float64]:
        """What the server adds to its model."""
        update: NDArray[np.float64] = fleet.flat(self.arrays) - fleet.flat(self.start)
        return update

    @property
    def reasons(self) -> dict[int, str]:
        """Why devices were not heard."""
        return {failure["device"]: failure["reason"] for failure in self.record["failures"]}


@pytest.mark.parametrize("name", UPLINKS)
def test_coding_each_device_equals_superposing_first_and_coding_once(name: str) -> None:
    runs: list[tuple[NDArray[Any], list[dict[str, Any]]]] = []
    for grid_of in (fleet.local_grid, fleet.message_grid):
        records: list[dict[str, Any]] = []
        work = fleet.workplace()
        strategy = OverTheAir(FedAvg(fraction_evaluate=0.0), UPLINKS[name], seed=5, on_exchange=records.append)
        runs.append((fleet.flat(fleet.run(strategy, grid_of(work), work).arrays), records))
    (in_place, records_in_place), (by_message, records_by_message) = runs
    np.testing.assert_allclose(by_message, in_place, rtol=0, atol=1e-6)
    for a, b in zip(records_in_place, records_by_message, strict=True):
        shared = {key for key in a if a[key] is not None and b.get(key) is not None} - set(MEASURED)
        assert {"weights", "update_norms", "channel_uses", "heard", "metrics"} <= shared
        for key in shared:
            assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-9), key


@pytest.mark.parametrize("name", UPLINKS)
def test_the_server_gets_one_reply_that_holds_the_model_and_its_metrics(name: str) -> None:
    exchange = Exchange(uplink=UPLINKS[name])
    (reply,) = exchange.replies
    assert list(reply.content.array_records) == ["arrays"]
    assert reply.content["arrays"].keys() == exchange.start.keys()
    assert dict(reply.content["metrics"])["num-examples"] == 1.0
    assert exchange.record["heard"]
    assert exchange.record["devices"] == [0, 1, 2, 3]
    assert exchange.record["failures"] == []


def test_weights_are_the_fractions_of_examples() -> None:
    exchange = Exchange()
    sizes = np.array([len(part) for part in exchange.work.data.parts])
    assert exchange.record["weights"] == pytest.approx(list(sizes / sizes.sum()), rel=1e-15)


# What a device may get wrong.


def symbols_of(reply: Message) -> NDArray[Any]:
    return reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy().copy()


def with_symbols(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content[SYMBOLS_KEY] = fleet.record({SYMBOLS_KEY: change(symbols_of(reply))})
        return reply

    return tamper


def with_transmission(**changes: Any) -> Tamper:
    def tamper(reply: Message) -> Message:
        config = {**reply.content.config_records[TRANSMISSION_KEY], **changes}
        reply.content[TRANSMISSION_KEY] = ConfigRecord({k: v for k, v in config.items() if v is not None})
        return reply

    return tamper


@pytest.mark.parametrize("said", [None, "long", -1.0, float("inf")])
def test_an_exchange_takes_as_long_as_its_slowest_device_that_says_how_long(said: object) -> None:
    exchange = Exchange(
        tamper={
            0: with_transmission(seconds=0.5),
            1: with_transmission(seconds=2.0),
            2: with_transmission(seconds=said),
            3: with_transmission(seconds=0.5),
        }
    )
    assert exchange.record["failures"] == [], "what a device says of its time costs it nothing"
    assert (exchange.record["train_s_max"], exchange.record["train_s_mean"]) == (2.0, 1.0)
    assert exchange.record["compute_s"] == 2.0
    assert exchange.record["clock_s"] == exchange.record["air_time_s"] + 2.0


def with_metrics(**changes: Any) -> Tamper:
    def tamper(reply: Message) -> Message:
        metrics = {**reply.content.metric_records["metrics"], **changes}
        reply.content["metrics"] = MetricRecord({k: v for k, v in metrics.items() if v is not None})
        return reply

    return tamper


def spoilt(value: float) -> Tamper:
    def spoil(symbols: NDArray[Any]) -> NDArray[Any]:
        symbols[7] = value
        return symbols

    return with_symbols(spoil)


def without(record: str) -> Tamper:
    def tamper(reply: Message) -> Message:
        del reply.content[record]
        return reply

    return tamper


def plain_model(reply: Message) -> Message:
    """What a ClientApp without the mod replies."""
    reply.content = RecordDict(
        {"arrays": fleet.record({"w": np.zeros(610)}), "metrics": MetricRecord({"num-examples": 3})}
    )
    return reply


def garbled(reply: Message) -> Message:
    """Bytes that are no array."""
    array = Array("float64", (610,), "numpy.ndarray", b"\x93NUMPY but not really")
    reply.content[SYMBOLS_KEY] = ArrayRecord({SYMBOLS_KEY: array})
    return reply


BAD_REPLIES: dict[str, tuple[Tamper, str]] = {
    "NaN": (spoilt(np.nan), "1 of 610 symbols are not finite"),
    "Inf": (spoilt(-np.inf), "1 of 610 symbols are not finite"),
    "too few": (with_symbols(lambda s: s[:-1]), r"symbols of shape \(609,\).*expected shape \(610,\)"),
    "a matrix": (with_symbols(lambda s: s.reshape(61, 10)), r"symbols of shape \(61, 10\)"),
    "whole numbers": (with_symbols(lambda s: s.astype(np.int64)), "symbols have dtype <i8"),
    "long double": (with_symbols(lambda s: s.astype(np.longdouble)), "symbols have dtype <f16"),
    "other bytes first": (with_symbols(lambda s: s.astype(">f8")), "symbols have dtype >f8"),
    "no array": (garbled, "the symbols cannot be read"),
    "no symbols": (without(SYMBOLS_KEY), r"carries no symbols.*clients\.transmit"),
    "the model itself": (plain_model, r"carries no symbols.*clients\.transmit"),
    "another model": (with_transmission(size=611), "update of 611 entries"),
    "no size": (with_transmission(size=None), "update of None entries"),
    "norm missing": (with_transmission(norm=None), "norm is None"),
    "norm without end": (with_transmission(norm=1e200), r"norm is 1e\+200.*at most 1e\+100"),
    "norm a word": (with_transmission(norm="large"), "norm is 'large', expected a finite number"),
    "norm NaN": (with_transmission(norm=float("nan")), "norm is nan"),
    "norm negative": (with_transmission(norm=-1.0), r"norm is -1\.0"),
    "weight zero": (with_metrics(**{"num-examples": 0}), "num-examples.* is 0, expected a positive number"),
    "weight negative": (with_metrics(**{"num-examples": -2}), "num-examples.* is -2"),
    "weight infinite": (with_metrics(**{"num-examples": float("inf")}), "num-examples.* is inf"),
    "weight missing": (with_metrics(**{"num-examples": None}), "num-examples.* is None, expected a number"),
    "weight a list": (with_metrics(**{"num-examples": [1, 2]}), "num-examples.* expected a number"),
    "no metrics": (without("metrics"), "num-examples.* is None"),
    "an error": (lambda reply: fleet.error_reply(reply, "battery empty"), "battery empty"),
    "nothing": (lambda reply: None, "no reply in time"),
}


@pytest.mark.parametrize("name", BAD_REPLIES)
def test_a_bad_reply_is_dropped_and_named_and_the_others_are_averaged(name: str) -> None:
    tamper, reason = BAD_REPLIES[name]
    exchange = Exchange(tamper={1: tamper})
    assert list(exchange.reasons) == [1]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(exchange.reasons[1])
    assert exchange.record["devices"] == [0, 2, 3]
    assert exchange.record["participants"] == 3
    assert sum(exchange.record["weights"]) == pytest.approx(1.0)
    without_it = Exchange(devices=[0, 2, 3])
    np.testing.assert_allclose(exchange.update, without_it.update, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["random-linear", "random-mask", "uncoded"])
def test_over_a_fading_channel_a_lost_device_is_as_if_it_had_not_been_asked(name: str) -> None:
    lost = Exchange(uplink=UPLINKS[name], tamper={1: lambda reply: None})
    never = Exchange(uplink=UPLINKS[name], devices=[0, 2, 3])
    assert lost.record["gains"] == never.record["gains"]
    np.testing.assert_allclose(lost.update, never.update, rtol=0, atol=1e-6)


@pytest.mark.parametrize("uplink", [IdealUplink(), LOUD])
def test_if_no_device_sends_the_server_hears_nothing_and_pays_nothing(uplink: Uplink) -> None:
    exchange = Exchange(uplink=uplink, tamper=dict.fromkeys(range(4), lambda reply: None))
    assert exchange.replies == []
    assert list(exchange.reasons) == [0, 1, 2, 3]
    assert not exchange.record["heard"]
    assert exchange.record["participants"] == 0
    assert exchange.record["channel_uses"] == 0
    assert exchange.air.ledger.exchanges == []


@pytest.mark.parametrize("make", [FedAvg, FedAvgM, FedAdam])
def test_a_round_without_senders_leaves_the_model_unchanged(make: type[FedAvg]) -> None:
    work = fleet.workplace()
    start = fleet.flat(fleet.initial(work))
    seen: list[NDArray[Any]] = []

    def look(_round: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append(fleet.flat(arrays))
        return MetricRecord()

    rounds_left = iter([None, None, None, None])  # the four replies of the first round are lost
    lossy: Tamper = lambda reply: next(rounds_left, reply)  # noqa: E731
    grid = fleet.message_grid(work, dict.fromkeys(range(4), lossy))
    strategy = OverTheAir(make(fraction_evaluate=0.0), IdealUplink())
    strategy.start(grid, fleet.initial(work), num_rounds=2, evaluate_fn=look)
    assert np.array_equal(seen[1], start)
    assert not np.allclose(seen[2], start)


def broken(work: Workplace, devices: Iterable[int]) -> Workplace:
    """A class that the model does not know makes training raise."""
    for device in devices:
        work.data.device(device).targets[0] = 99
    return work


@on_both_paths
def test_a_device_that_raises_is_named_with_its_error(tamper: Mapping[int, Tamper] | None) -> None:
    exchange = Exchange(work=broken(fleet.workplace(), [2]), tamper=tamper)
    assert list(exchange.reasons) == [2]
    assert "Error" in exchange.reasons[2]
    whole = Exchange(devices=[0, 1, 3])
    np.testing.assert_allclose(exchange.update, whole.update, rtol=0, atol=1e-12)


@on_both_paths
def test_if_every_device_raises_the_round_is_recorded_as_unheard(tamper: Mapping[int, Tamper] | None) -> None:
    exchange = Exchange(work=broken(fleet.workplace(), range(4)), tamper=tamper)
    assert exchange.replies == []
    assert len(exchange.reasons) == 4
    assert not exchange.record["heard"]


@on_both_paths
@pytest.mark.parametrize("uplink", [IdealUplink(), LOUD])
def test_a_device_whose_training_diverges_is_dropped(tamper: Mapping[int, Tamper] | None, uplink: Uplink) -> None:
    work = fleet.workplace()
    work.data.device(3).inputs[:] = torch.inf
    exchange = Exchange(work=work, uplink=uplink, tamper=tamper)
    assert list(exchange.reasons) == [3]
    assert "finite" in exchange.reasons[3]
    assert np.isfinite(exchange.update).all()


# Edges.


@on_both_paths
@pytest.mark.parametrize("name", UPLINKS)
def test_updates_of_norm_zero_leave_the_model_as_it_is(name: str, tamper: Mapping[int, Tamper] | None) -> None:
    work = fleet.workplace(training=Training(learning_rate=1e-320, local_epochs=1, batch_size=16))
    exchange = Exchange(work=work, uplink=UPLINKS[name], tamper=tamper)
    assert exchange.record["update_norms"] == [0.0] * 4
    assert np.array_equal(exchange.update, np.zeros(610))


@on_both_paths
@pytest.mark.parametrize("name", ["random-linear", "uncoded"])
def test_one_device_without_an_update_is_silent_beside_others(name: str, tamper: Mapping[int, Tamper] | None) -> None:
    work = fleet.workplace()
    train = work.train

    def idle(received: Tensor, device: int, config: Mapping[str, Any]) -> tuple[Tensor, int, float]:
        return (received.clone(), 5, 1.0) if device == 2 else train(received, device, config)

    work.train = idle  # type: ignore[method-assign]
    exchange = Exchange(work=work, uplink=UPLINKS[name], tamper=tamper)
    assert exchange.record["silent"] == [2]
    assert exchange.record["amplitudes"][2] == 0.0
    assert exchange.record["heard"]
    assert np.isfinite(exchange.update).all()


@on_both_paths
@pytest.mark.parametrize("name", UPLINKS)
def test_one_device_is_enough(name: str, tamper: Mapping[int, Tamper] | None) -> None:
    exchange = Exchange(work=fleet.workplace(1), uplink=UPLINKS[name], tamper=tamper)
    assert exchange.record["weights"] == [1.0]
    assert np.linalg.norm(exchange.update) > 0


@pytest.mark.parametrize(
    "uplink",
    [
        AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), power_limit=0.0),
        AnalogUplink(RandomLinearCode(ratio=0.5), ChannelInversion(), Channel(power_gain=0.0)),
        AnalogUplink(Uncoded(), MinimumMSE(), Channel(power_gain=0.0)),
        AnalogUplink(Uncoded(), MinimumMSE(), energy_per_round=0.0),
    ],
    ids=["no power", "no gain", "no gain, least error", "no energy"],
)
@on_both_paths
def test_if_nobody_can_be_heard_the_model_stays_and_the_record_says_so(
    uplink: Uplink, tamper: Mapping[int, Tamper] | None
) -> None:
    exchange = Exchange(uplink=uplink, tamper=tamper)
    assert exchange.replies == []
    assert exchange.record["heard"] is False
    assert exchange.record["silent"] == [0, 1, 2, 3]
    assert exchange.record["energy_j_per_device_max"] == 0.0


def test_a_device_out_of_reach_is_silent_and_the_others_are_heard() -> None:
    gains = np.array([1.0, 0.0, 1.0, 1.0])
    exchange = Exchange(uplink=AnalogUplink(Uncoded(), ChannelInversion(), Channel(power_gain=gains, noise_power=0.0)))
    assert exchange.record["silent"] == [1]
    assert exchange.record["energy_j_per_device_max"] > 0


# A Grid like any other.


def test_training_cannot_be_pushed_past_the_air() -> None:
    work = fleet.workplace()
    air = AirGrid(fleet.local_grid(work), IdealUplink())
    for kind in ("train", "train.second"):
        with pytest.raises(RuntimeError, match="send_and_receive"):
            air.push_messages(fleet.train_messages(fleet.initial(work), air.get_node_ids(), kind))


def test_evaluation_takes_the_control_channel_unchanged() -> None:
    work = fleet.workplace()
    air = AirGrid(fleet.local_grid(work), LOUD)
    arrays = fleet.initial(work)
    replies = list(air.send_and_receive(fleet.train_messages(arrays, air.get_node_ids(), "evaluate")))
    state = torch.from_numpy(fleet.flat(arrays))
    expected = [work.trainer.evaluate(state, work.data.device(device)).loss for device in range(4)]
    assert [reply.content.metric_records["metrics"]["loss"] for reply in replies] == expected
    pushed = list(air.push_messages(fleet.train_messages(arrays, air.get_node_ids(), "evaluate")))
    assert len(list(air.pull_messages(pushed))) == 4
    assert air.exchanges == 0
    assert air.send_and_receive([]) == []


def test_an_action_of_its_own_kind_of_training_reaches_the_app() -> None:
    work = fleet.workplace()
    grid = fleet.local_grid(work)
    asked: list[str] = []

    @grid.app.train("twice")
    def twice(message: Message, context: Any) -> Message:
        asked.append(message.metadata.message_type)
        doubled = {k: 2 * a.numpy() for k, a in message.content.array_records["arrays"].items()}
        content = RecordDict({"arrays": fleet.record(doubled), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    air = AirGrid(grid, IdealUplink())
    arrays = fleet.initial(work)
    (reply,) = air.send_and_receive(fleet.train_messages(arrays, air.get_node_ids(), "train.twice"))
    assert asked == ["train.twice"] * 4
    np.testing.assert_allclose(
        fleet.flat(reply.content.array_records["arrays"]), 2 * fleet.flat(arrays), rtol=0, atol=1e-12
    )


def test_the_rest_is_the_wrapped_grids() -> None:
    work = fleet.workplace()
    grid = fleet.message_grid(work)
    air = AirGrid(grid, IdealUplink())
    air.set_run(Run.create_empty(run_id=7))
    assert air.run is grid.run
    assert air.run.run_id == 7
    assert [node.node_id for node in air.get_nodes()] == list(grid.get_node_ids())
    message = air.create_message(RecordDict(), "evaluate", 3, "group")
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (3, "evaluate")


class Renamed(fleet.MessageGrid):
    """Nodes under the random ids of a real run, of which some do not know their device."""

    ids: tuple[int, ...] = (907, 31, 555, 412)
    mute: tuple[int, ...] = ()

    def get_node_ids(self) -> list[int]:
        return list(self.ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        nodes = [message.metadata.dst_node_id for message in messages]
        for message, node in zip(messages, nodes, strict=True):
            message.metadata.dst_node_id = FIRST_NODE + self.ids.index(node)
        replies = list(super().send_and_receive(messages))
        for message, node in zip(messages, nodes, strict=True):
            message.metadata.dst_node_id = node
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = self.ids[reply.metadata.src_node_id - FIRST_NODE]
        of_mute = {m.metadata.message_id for m in messages if m.metadata.dst_node_id in self.mute}
        return [reply for reply in replies if reply.metadata.reply_to_message_id not in of_mute]


def test_nodes_come_in_the_order_of_their_devices() -> None:
    air = AirGrid(Renamed(fleet.local_grid(fleet.workplace())), IdealUplink())
    assert air.get_node_ids() == [907, 31, 555, 412]


def test_nodes_that_do_not_say_their_device_get_the_numbers_that_are_left() -> None:
    grid = Renamed(fleet.local_grid(fleet.workplace()))
    grid.mute = (907, 555)
    # Devices 1 and 3 answer; 555 < 907 take 0 and 2.
    with pytest.warns(UserWarning, match="2 of 4 nodes have not said within 300 s which device they are"):
        assert AirGrid(grid, IdealUplink()).get_node_ids() == [555, 31, 907, 412]


@pytest.mark.parametrize(("limit", "waited"), [(7.0, 7.0), (3600.0, 300.0)])
def test_nodes_are_not_waited_for_longer_than_a_round_when_they_are_to_say_their_device(
    limit: float, waited: float
) -> None:
    class Noting(Renamed):
        limits: ClassVar[list[float | None]] = []

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            self.limits.append(timeout)
            return super().send_and_receive(messages, timeout=timeout)

    work = fleet.workplace()
    grid = Noting(fleet.local_grid(work))
    grid.mute = (555,)
    with pytest.warns(UserWarning, match=f"1 of 4 nodes have not said within {waited:g} s"):
        OverTheAir(FedAvg(fraction_evaluate=0.0), IdealUplink()).start(
            grid, fleet.initial(work), num_rounds=1, timeout=limit
        )
    assert grid.limits == [waited, limit]


def test_a_node_that_joins_later_is_asked_then() -> None:
    grid = Renamed(fleet.local_grid(fleet.workplace()))
    grid.ids = (31, 907)
    air = AirGrid(grid, IdealUplink())
    assert air.get_node_ids() == [31, 907]
    grid.ids = (31, 907, 5)
    assert air.get_node_ids() == [31, 907, 5]


def test_a_training_message_must_carry_one_model() -> None:
    work = fleet.workplace()
    air = AirGrid(fleet.local_grid(work), IdealUplink())
    messages = fleet.train_messages(fleet.initial(work), air.get_node_ids())
    messages[0].content["more"] = fleet.initial(work)
    with pytest.raises(ValueError, match=r"exactly one ArrayRecord.*'arrays', 'more'"):
        air.send_and_receive(messages)


def test_the_message_path_leaves_the_strategys_messages_as_they_were() -> None:
    work = fleet.workplace()
    air = AirGrid(fleet.message_grid(work), IdealUplink())
    messages = fleet.train_messages(fleet.initial(work), air.get_node_ids())
    shared = messages[0].content
    air.send_and_receive(messages)
    assert set(shared) == {"arrays", "config"}


def test_metrics_are_averaged_where_every_device_reports_them() -> None:
    devices: list[Any] = [{"loss": 1.0, "classes": [1, 2], "own": 3}, {"loss": 2.0, "classes": [3, 6]}]
    assert weighted_metrics(devices, np.array([0.75, 0.25])) == {"loss": 1.25, "classes": [1.5, 3.0]}
    assert weighted_metrics([], np.array([])) == {}


def test_a_number_in_a_list_of_its_own_is_that_number() -> None:
    devices: list[Any] = [{"loss": [1.0]}, {"loss": 2.0}]
    assert weighted_metrics(devices, np.array([0.75, 0.25])) == {"loss": 1.25}
    assert weighted_metrics(devices[:1], np.array([1.0])) == {"loss": 1.0}
