"""Whatever one device replies, an exchange ends, its model is finite, and the others count as they do alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel import AnalogUplink, DitheredQuantizer, MinimumMSE, RandomLinearCode, Uncoded
from channel.codecs import NestedDitheredQuantizer, TopK
from channel.order import DEVICE_QUERY, PACKET_KEY, SYMBOLS_KEY, TRANSMISSION_KEY
from channel.uplinks import IdealUplink, Uplink
from clients.transmit import transmit
from strategies import AirGrid
from strategies.received import read_array
from strategies.refusal import BadPayload
from tests import fleet
from tests.fuzz.budget import CASES, no_hang, of_cases
from tests.fuzz.hostile_bytes import MUTATIONS, mutated
from tests.packet_exchange import digital

SIZE, DEVICES, HOSTILE = 24, 4, 1
LINKS: dict[str, Callable[[], Uplink]] = {
    "ideal": IdealUplink,
    "uncoded": lambda: AnalogUplink(Uncoded(), MinimumMSE()),
    "random-linear": lambda: AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE()),
    "dithered": lambda: digital(DitheredQuantizer()),
    "nested": lambda: digital(NestedDitheredQuantizer()),
    "top-k": lambda: digital(TopK(fraction=0.2), packing="entropy"),
}
START = {"w": np.linspace(-1, 1, SIZE)}

Change = Callable[[Message], Iterable[Message]]


def honest(message: Message, device: int) -> Message:
    """What a device answers whose update is its own constant."""

    def app(message: Message, context: Any) -> Message:
        trained = fleet.record({"w": START["w"] + np.cos(np.arange(SIZE) * (device + 1))})
        metrics = MetricRecord({"num-examples": 10 + device, "train_loss": 0.5})
        return Message(RecordDict({"arrays": trained, "metrics": metrics}), reply_to=message)

    return transmit(message, fleet.context(device, DEVICES), app)


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


# What a device may do to its reply.

NUMBERS = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.sampled_from([-0.0, 1e300, 1e-320, 2**53, 2**63])
)  # fmt: skip
CONFIG_VALUES = st.one_of(
    NUMBERS, st.booleans(), st.text(max_size=20), st.binary(max_size=20), st.lists(st.floats(), max_size=4),
    st.lists(st.text(max_size=3), max_size=3),
)  # fmt: skip
METRIC_VALUES = st.one_of(NUMBERS, st.lists(st.floats(), max_size=4), st.lists(st.integers(), max_size=4))
KEYS = st.sampled_from(["device", "norm", "size", "seconds", "seed", "other", ""])
METRICS = st.sampled_from(["num-examples", "train_loss", "other", ""])
NAMES = st.sampled_from([SYMBOLS_KEY, PACKET_KEY, TRANSMISSION_KEY, "metrics", "arrays", "other"])
DTYPES = st.sampled_from(["<f4", "<f8", ">f8", "<f2", "<i8", "|u1", "<c16", "|b1", "<U3", "|O", "<M8[s]"])
SHAPES = st.one_of(
    st.just((SIZE,)), st.just((SIZE // 2,)), st.lists(st.integers(-2, 40), max_size=3).map(tuple),
    st.just((2**62,)), st.just((2**31, 2**31)),
)  # fmt: skip


def header(dtype: str, fortran: bool, shape: tuple[int, ...], data: bytes) -> bytes:
    text = repr({"descr": dtype, "fortran_order": fortran, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


ARRAY_BYTES = st.one_of(
    st.builds(header, DTYPES, st.booleans(), SHAPES, st.binary(max_size=8 * SIZE)),
    st.binary(max_size=300),
    st.lists(st.floats(width=64), min_size=SIZE, max_size=SIZE).map(
        lambda v: header("<f8", False, (SIZE,), np.array(v).tobytes())
    ),
)


def payload_key(content: RecordDict) -> str | None:
    return next((key for key in (SYMBOLS_KEY, PACKET_KEY) if key in content.array_records), None)


@st.composite
def changed_content(draw: st.DrawFn, content: RecordDict) -> RecordDict:
    """One change of a reply's records."""
    records: dict[str, Any] = dict(content.items())
    kind = draw(st.sampled_from(["bytes", "other bytes", "said", "metrics", "drop", "move", "double"]))
    key = payload_key(content)
    said = dict(content.config_records.get(TRANSMISSION_KEY, ConfigRecord()).items())
    metrics = dict(content.metric_records.get("metrics", MetricRecord()).items())
    if kind == "bytes" and key is not None and key in content.array_records[key]:
        data = mutated(content.array_records[key][key].data, draw(st.lists(MUTATIONS, min_size=1, max_size=3)))
        records[key] = ArrayRecord({key: Array("float64", (SIZE,), "numpy.ndarray", data)})
    elif kind == "other bytes" and key is not None:
        stype = draw(st.sampled_from(["numpy.ndarray", "numpy.ndarray", "torch", ""]))
        records[key] = ArrayRecord({key: Array("float64", (SIZE,), stype, draw(ARRAY_BYTES))})
    elif kind == "said":
        records[TRANSMISSION_KEY] = ConfigRecord({**said, draw(KEYS): draw(CONFIG_VALUES)})
    elif kind == "metrics":
        records["metrics"] = MetricRecord({**metrics, draw(METRICS): draw(METRIC_VALUES)})
    elif kind == "drop":
        records.pop(draw(NAMES), None)
    elif kind == "move" and records:
        records[draw(NAMES)] = records.pop(draw(st.sampled_from(sorted(records))))
    elif kind == "double" and records:
        records[draw(NAMES)] = records[draw(st.sampled_from(sorted(records)))]
    return RecordDict(records)


@st.composite
def hostile_replies(draw: st.DrawFn, reply: Message) -> list[Message]:
    """None, one, or several replies in place of one."""
    replies: list[Message] = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2, 3]))):
        content = reply.content
        for _ in range(draw(st.integers(0, 3))):
            content = draw(changed_content(content))
        if draw(st.integers(0, 9)) == 0:
            made = Message(Error(draw(st.integers(0, 300)), draw(st.text(max_size=400))), reply_to=reply)
        else:
            made = Message(content, reply_to=reply)
        answers = ["message-0", "message-1", "message-1", "message-1", "message-1", "message-9", ""]
        made.metadata.__dict__["_reply_to_message_id"] = draw(st.sampled_from(answers))
        made.metadata.__dict__["_src_node_id"] = draw(st.sampled_from([10 + HOSTILE] * 4 + [10, 1, 99]))
        replies.append(made)
    return replies


@pytest.mark.parametrize("link", LINKS)
@given(data=st.data())
@of_cases(0.25)
def test_an_exchange_ends_and_the_others_count_as_they_do_alone(link: str, data: st.DataObject) -> None:
    with no_hang():
        record, models = exchange(link, lambda reply: data.draw(hostile_replies(reply)))
    assert all(np.isfinite(model).all() for model in models.values())
    assert record["devices"] in ([0, 2, 3], [0, 1, 2, 3])
    if link in ("dithered", "top-k"):  # each update on its own
        for node, model in without_it(link).items():
            np.testing.assert_array_equal(models[node], model)
    elif record["devices"] == [0, 2, 3]:
        assert models.keys() == without_it(link).keys() or link == "nested"
        for node, model in without_it(link).items() if link != "nested" else ():
            np.testing.assert_array_equal(models[node], model)


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
