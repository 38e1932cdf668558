"""Whatever one device replies, an exchange ends, its model is finite, and the others count as they do alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel import AnalogUplink, DitheredQuantizer, MinimumMSE, RandomLinearCode, Uncoded
from channel.codecs import DeterministicFactorQuantizer, FactorQuantizer, NestedDitheredQuantizer, TopK
from channel.codes import MajorityVote, RandomMask, SparseAMP
from channel.order import BLOCKS_KEY, DEVICE_QUERY, FACTORS_KEY, SCALARS_KEY
from channel.records import records_in
from channel.uplinks import IdealUplink, NonCoherentUplink, Uplink
from clients.transmit import transmit
from clients.vectors import reply_with
from strategies import AirGrid
from strategies.mean_exchange import MeanExchange, Means
from strategies.received import read_array
from strategies.refusal import BadPayload
from tests import fleet
from tests.fuzz.budget import CASES, no_hang, of_cases
from tests.fuzz.hostile_bytes import MUTATIONS, mutated
from tests.fuzz.hostile_replies import ARRAY_BYTES, HOSTILE, SIZE, hostile_replies
from tests.packet_exchange import digital

DEVICES = 4
LINKS: dict[str, Callable[[], Uplink]] = {
    "ideal": IdealUplink,
    "uncoded": lambda: AnalogUplink(Uncoded(), MinimumMSE()),
    "random-linear": lambda: AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE()),
    "random-mask": lambda: AnalogUplink(RandomMask(ratio=0.5), MinimumMSE()),
    "sparse-amp": lambda: AnalogUplink(SparseAMP(ratio=0.5), MinimumMSE()),
    "majority-vote": lambda: AnalogUplink(MajorityVote(step=0.1), MinimumMSE()),
    "non-coherent": NonCoherentUplink,
    "dithered": lambda: digital(DitheredQuantizer()),
    "nested": lambda: digital(NestedDitheredQuantizer()),
    "top-k": lambda: digital(TopK(fraction=0.2), packing="entropy"),
    "factor": lambda: digital(FactorQuantizer()),
    "deterministic-factor": lambda: digital(DeterministicFactorQuantizer()),
}
ALONE = {"dithered", "top-k", "factor", "deterministic-factor"}
"""Links that decode each update on its own."""
START = {"weight": np.linspace(-1, 1, SIZE).reshape(4, 6)}

Change = Callable[[Message], Iterable[Message]]


def honest(message: Message, device: int) -> Message:
    """What a device answers whose update is its own constant."""

    def app(message: Message, context: Any) -> Message:
        asked = records_in(message.content, ConfigRecord)
        if BLOCKS_KEY in asked or SCALARS_KEY in asked:
            return vectors_and_scalars(message, device)
        trained = fleet.record({"weight": START["weight"] + np.cos(np.arange(SIZE) * (device + 1)).reshape(4, 6)})
        metrics = MetricRecord({"num-examples": 10 + device, "train_loss": 0.5})
        content = RecordDict({"arrays": trained, "metrics": metrics})
        if FACTORS_KEY in asked:
            inputs, errors = np.cos(np.arange(12) + device), np.sin(np.arange(8) + device)
            content[FACTORS_KEY] = fleet.record({".inputs": inputs.reshape(2, 6), ".errors": errors.reshape(2, 4)})
        return Message(content, reply_to=message)

    return transmit(message, fleet.context(device, DEVICES), app)


def vectors_and_scalars(message: Message, device: int) -> Message:
    """What a device of a second-order method answers."""
    sizes, scalars = (records_in(message.content, ConfigRecord).get(key, {}) for key in (BLOCKS_KEY, SCALARS_KEY))
    vectors = {name: torch.cos(torch.arange(size, dtype=torch.float64) * (device + 1)) for name, size in sizes.items()}
    return reply_with(message, vectors, {name: [0.5 + device] * count for name, count in scalars.items()})


class Devices(Grid):
    """Four of them, of which one does as it likes."""

    def __init__(self, change: Change) -> None:
        fleet.identify()
        self.change = change
        self.run_of = Run.create_empty(run_id=1)

    def set_run(self, run: Run) -> None:
        self.run_of = run

    @property
    def run(self) -> Run:
        return self.run_of

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def get_nodes(self) -> Iterable[Any]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return [10 + device for device in range(DEVICES)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies: list[Message] = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"message-{number}"
            device = message.metadata.dst_node_id - 10
            asked = DEVICE_QUERY in message.content.config_records
            reply = honest(message, device)
            replies += [reply] if device != HOSTILE or asked else self.change(reply)
        return replies


def exchange(
    link: str, change: Change, devices: Iterable[int] = range(DEVICES)
) -> tuple[dict[str, Any], dict[int, Any]]:
    """The record of an exchange, and the models that the strategy gets, by node."""
    records: list[dict[str, Any]] = []
    air = AirGrid(Devices(change), LINKS[link](), on_exchange=records.append)
    nodes = air.get_node_ids()
    messages = fleet.train_messages(fleet.record(START), [nodes[device] for device in devices])
    replies = list(air.send_and_receive(messages))
    (record,) = records
    json.dumps(record, allow_nan=False)
    return record, {r.metadata.src_node_id: fleet.flat(r.content.array_records["arrays"]) for r in replies}


@cache
def without_it(link: str) -> dict[int, NDArray[Any]]:
    return exchange(link, lambda reply: [reply], [d for d in range(DEVICES) if d != HOSTILE])[1]


@pytest.mark.parametrize("link", LINKS)
@given(data=st.data())
@of_cases(0.25)
def test_an_exchange_ends_and_the_others_count_as_they_do_alone(link: str, data: st.DataObject) -> None:
    with no_hang():
        record, models = exchange(link, lambda reply: data.draw(hostile_replies(reply)))
    assert all(np.isfinite(model).all() for model in models.values())
    assert record["devices"] in ([0, 2, 3], [0, 1, 2, 3])
    if link in ALONE:
        for node, model in without_it(link).items():
            np.testing.assert_array_equal(models[node], model)
    elif record["devices"] == [0, 2, 3]:
        assert models.keys() == without_it(link).keys() or link == "nested"
        for node, model in without_it(link).items() if link != "nested" else ():
            np.testing.assert_array_equal(models[node], model)


ASKED: dict[str, dict[str, Any]] = {
    "vectors": {"wanted": {"hessian_gradient": 1, "newton": 1}},
    "vectors and scalars": {"wanted": {"gradients": 2}, "scalars": {"objectives": 2}},
    "scalars": {"wanted": {}, "scalars": {"objective": 1}},
}
"""What DINGO and its like ask for."""


def means(over: str, asked: str, change: Change, devices: Iterable[int] = range(DEVICES)) -> Means:
    grid: Grid = Devices(change)
    if over != "messages":
        grid = AirGrid(grid, LINKS[over](), weighted_by_key="weight")
    nodes = [list(grid.get_node_ids())[device] for device in devices]
    return MeanExchange(grid, SIZE, ConfigRecord(), timeout=60.0).ask("look", nodes, **ASKED[asked])


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("over", ["messages", "ideal", "uncoded"])
@given(data=st.data())
@of_cases(0.25)
def test_means_of_vectors_and_scalars_are_those_of_who_answers_as_asked(
    over: str, asked: str, data: st.DataObject
) -> None:
    with no_hang():
        found = means(over, asked, lambda reply: data.draw(hostile_replies(reply)))
    assert all(np.isfinite(mean).all() for mean in found.vectors.values())
    assert set(found.scalars) >= set(ASKED[asked].get("scalars", {}))
    nodes = {10 + device for device in range(DEVICES)}
    assert found.nodes in (nodes, nodes - {10 + HOSTILE})
    if found.nodes != nodes:
        alone = means(over, asked, lambda reply: [reply], [d for d in range(DEVICES) if d != HOSTILE])
        for name, mean in alone.vectors.items():
            np.testing.assert_array_equal(found.vectors[name], mean)
        for name in ASKED[asked].get("scalars", {}):
            np.testing.assert_array_equal(found.scalars[name], alone.scalars[name])


@given(data=ARRAY_BYTES, changes=st.lists(MUTATIONS, max_size=3), shape=st.sampled_from([(SIZE,), (0,), (2, 12)]))
@CASES
def test_an_array_is_read_as_numpy_reads_it_or_refused(data: bytes, changes: Any, shape: tuple[int, ...]) -> None:
    array = Array("float64", shape, "numpy.ndarray", mutated(data, changes))
    with no_hang():
        try:
            read = read_array(array, "values", shape, (np.float32, np.float64))
        except BadPayload:
            return
    np.testing.assert_array_equal(read, array.numpy())
    assert read.dtype in (np.float32, np.float64)
