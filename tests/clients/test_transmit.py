"""The transmit mod and the device's app: what leaves a device, and what never does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from channel import Layout, TransmitOrder
from channel.order import DEVICE_QUERY, ORDER_KEY, SYMBOLS_KEY, TRANSMISSION_KEY
from channel.uplinks import symbol_scale
from clients import transmit
from clients.app import client_app
from clients.residual import RESIDUAL_KEY
from fedmac.engines.local import FIRST_NODE
from tests import fleet

SIZE = 60
RECEIVED = {"w": np.linspace(0, 1, 50).reshape(5, 10), "b": np.ones(10), "count": np.array(3)}

Arrays = dict[str, NDArray[Any]]


def message(order: TransmitOrder | None, kind: str = "train", received: Arrays | None = None) -> Message:
    fleet.identify()
    content = RecordDict({"arrays": fleet.record(received or RECEIVED), "config": ConfigRecord({"server-round": 1})})
    if order is not None:
        content[ORDER_KEY] = ConfigRecord(order.to_config())
    return Message(content, FIRST_NODE, kind)


class App:
    """Stands for a ClientApp: adds `update` to what it receives, and notes what it was given."""

    def __init__(self, update: NDArray[Any]) -> None:
        self.update = update
        self.given: list[Message] = []

    def __call__(self, message: Message, context: Context) -> Message:
        self.given.append(message)
        received = {name: a.numpy() for name, a in message.content.array_records["arrays"].items()}
        layout = Layout.of_arrays(received)
        trained = received | layout.unflatten(layout.flatten(received) + self.update)
        trained["count"] = received["count"] + 1
        content = RecordDict(
            {"arrays": fleet.record(trained), "metrics": MetricRecord({"num-examples": 5, "own": 2.5})}
        )
        return Message(content, reply_to=message)


def update(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(SIZE)


ORDERS = [
    TransmitOrder("uncoded", {}, 7),
    TransmitOrder("random-linear", {"ratio": 0.25}, 7),
    TransmitOrder("random-mask", {"ratio": 0.25}, 7),
]
PROJECTION = {"ratio": 0.25, "decoder": "projection", "error_feedback": True}


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.code)
def test_a_reply_carries_symbols_norm_and_metrics_and_never_the_model(order: TransmitOrder) -> None:
    reply = transmit(message(order), fleet.context(device=3), App(update()))
    assert set(reply.content) == {SYMBOLS_KEY, TRANSMISSION_KEY, "metrics"}
    assert list(reply.content.array_records) == [SYMBOLS_KEY]
    symbols = reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy()
    assert symbols.shape == (order.build_code().uses(SIZE),)
    assert dict(reply.content.config_records[TRANSMISSION_KEY]) == {
        "device": 3, "norm": pytest.approx(np.linalg.norm(update()), rel=1e-9), "size": SIZE,
        "seconds": pytest.approx(0.0, abs=60.0), "seed": order.seed,
    }  # fmt: skip
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": 5, "own": 2.5}


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.code)
def test_symbols_are_the_coded_update_at_unit_power(order: TransmitOrder) -> None:
    reply = transmit(message(order), fleet.context(), App(update()))
    code = order.build_code()
    symbols = torch.from_numpy(reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy())
    expected = code.encode(torch.from_numpy(update()), 7) * (symbol_scale(code, SIZE) / float(np.linalg.norm(update())))
    # The received model is subtracted again: rounding of float64.
    torch.testing.assert_close(symbols, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("code", ["random-linear", "random-mask"])
@pytest.mark.parametrize("level", [1e-6, 1.0, 1e6])
def test_mean_power_is_one_in_expectation_whatever_the_update(code: str, level: float) -> None:
    powers = []
    for seed in range(300):
        order = TransmitOrder(code, {"ratio": 0.25}, seed)
        reply = transmit(message(order), fleet.context(), App(level * update()))
        powers.append(np.mean(reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy() ** 2))
    # 15 symbols: a block's power deviates by about sqrt(2 (1 - 1/4) / 15) = 0.32, the mean of 300 by 0.02.
    assert np.mean(powers) == pytest.approx(1.0, abs=0.07)


def test_the_app_sees_no_order_and_the_servers_record_stays_whole() -> None:
    app = App(update())
    shared = message(ORDERS[1]).content
    for node in range(2):
        transmit(Message(shared, FIRST_NODE + node, "train"), fleet.context(node), app)
    assert set(shared) == {"arrays", "config", ORDER_KEY}
    assert all(set(given.content) == {"arrays", "config"} for given in app.given)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_without_an_order_the_apps_own_reply_passes_through(kind: str) -> None:
    app = App(update())
    asked = message(None, kind)
    reply = transmit(asked, fleet.context(), app)
    assert app.given == [asked]
    assert set(reply.content) == {"arrays", "metrics"}


def test_an_apps_error_passes_through() -> None:
    def fails(message: Message, context: Context) -> Message:
        return fleet.error_reply(Message(RecordDict(), reply_to=message), "no battery")

    assert transmit(message(ORDERS[1]), fleet.context(), fails).error.reason == "no battery"


def test_a_node_says_which_device_it_is() -> None:
    fleet.identify()
    asked = Message(RecordDict({DEVICE_QUERY: ConfigRecord()}), FIRST_NODE, "train")
    app = App(update())
    reply = transmit(asked, fleet.context(device=2), app)
    assert dict(reply.content.config_records[TRANSMISSION_KEY]) == {"device": 2}
    assert app.given == []
    nameless = Context(1, 5, {}, RecordDict(), {})
    assert transmit(asked, nameless, app).content.config_records[TRANSMISSION_KEY]["device"] == -1


def test_no_update_is_sent_as_silence() -> None:
    reply = transmit(message(ORDERS[1]), fleet.context(), App(np.zeros(SIZE)))
    assert reply.content.config_records[TRANSMISSION_KEY]["norm"] == 0.0
    assert not reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy().any()


def test_single_precision_is_sent_in_single_precision() -> None:
    received = {name: a.astype(np.float32) for name, a in RECEIVED.items() if name != "count"} | {"count": np.array(3)}
    reply = transmit(message(ORDERS[1], received=received), fleet.context(), App(update()))
    assert reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy().dtype == np.float32


def test_a_diverged_update_is_left_for_the_server_to_see() -> None:
    """No silent zero: the server drops and names the device."""
    spoilt = update()
    spoilt[3] = np.nan
    reply = transmit(message(ORDERS[0]), fleet.context(), App(spoilt))
    assert np.isnan(reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy()).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("code", ["random-linear", "random-mask"])
def test_error_feedback_loses_nothing_but_the_last_residual(code: str, dtype: type[np.floating]) -> None:
    context = fleet.context()
    received = {"w": np.zeros(50, dtype), "b": np.zeros(10, dtype), "count": np.array(0)}
    decoded, wanted = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for exchange in range(8):
        order = TransmitOrder(code, PROJECTION, exchange)
        reply = transmit(message(order, received=received), context, App(update(exchange)))
        built = order.build_code()
        norm = float(reply.content.config_records[TRANSMISSION_KEY]["norm"])  # type: ignore[arg-type]
        symbols = torch.from_numpy(reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy()).double()
        coded = symbols * (norm / symbol_scale(built, SIZE))
        decoded += built.decode(coded, SIZE, order.seed)
        wanted += torch.from_numpy(update(exchange))
    residual = torch.from_numpy(context.state.array_records[RESIDUAL_KEY][RESIDUAL_KEY].numpy()).double()
    assert float(residual.norm()) > 0.1
    tolerance = 1e-12 if dtype is np.float64 else 1e-4  # rounding of eight additions
    torch.testing.assert_close(decoded + residual, wanted, rtol=tolerance, atol=tolerance)


def test_without_error_feedback_a_device_keeps_nothing() -> None:
    context = fleet.context()
    transmit(message(ORDERS[1]), context, App(update()))
    assert not context.state


def test_a_message_without_one_model_is_refused() -> None:
    asked = message(ORDERS[1])
    asked.content["more"] = fleet.record(RECEIVED)
    with pytest.raises(ValueError, match=r"transmit: the message must carry exactly one ArrayRecord.*'more'"):
        transmit(asked, fleet.context(), App(update()))


def test_a_reply_without_the_model_is_refused() -> None:
    def forgets(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 5})}), reply_to=message)

    with pytest.raises(ValueError, match="transmit: the reply must carry exactly one ArrayRecord"):
        transmit(message(ORDERS[1]), fleet.context(), forgets)


def test_a_reply_of_another_model_is_refused_by_the_arrays_name() -> None:
    def other(message: Message, context: Context) -> Message:
        arrays = ArrayRecord({"w": Array(np.ones((5, 9))), "b": Array(np.ones(10))})
        return Message(RecordDict({"arrays": arrays}), reply_to=message)

    with pytest.raises(ValueError, match=r"array 'w': expected shape \(5, 10\), found shape \(5, 9\)"):
        transmit(message(ORDERS[1]), fleet.context(), other)


# The app.


def test_the_app_trains_its_own_devices_examples() -> None:
    work = fleet.workplace()
    app, start = client_app(lambda _context, _config: work), fleet.initial(work)
    (asked,) = fleet.train_messages(start, [FIRST_NODE + 2], round=4)
    reply = app(asked, fleet.context(device=2))
    expected, examples, loss = work.train(torch.from_numpy(fleet.flat(start)), 2, {"server-round": 4})
    assert np.array_equal(fleet.flat(reply.content.array_records["arrays"]), expected.numpy())
    assert reply.content.array_records["arrays"].keys() == start.keys()
    assert dict(reply.content.metric_records["metrics"]) == {"num-examples": examples, "train_loss": loss}
    assert examples == len(work.data.parts[2])


def test_a_node_that_was_not_told_its_part_of_the_data_says_how_to_start_it() -> None:
    work = fleet.workplace()
    app = client_app(lambda _context, _config: work)
    (asked,) = fleet.train_messages(fleet.initial(work), [FIRST_NODE])
    with pytest.raises(ValueError, match=r'"partition-id" is missing; start the node with --node-config'):
        app(asked, Context(1, 5, {}, RecordDict(), {}))
