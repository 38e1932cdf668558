"""Devices that send what nobody can use: left out of the sum, told by kind, counted, and after a while not asked."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from channel import AnalogUplink, MinimumMSE, RandomLinearCode, Uncoded
from channel.order import ORDER_KEY, PACKET_KEY, SYMBOLS_KEY, TRANSMISSION_KEY
from channel.uplinks import IdealUplink, Uplink
from fedmac.engines.local import FIRST_NODE
from strategies import AirGrid
from strategies.received import LARGEST_WEIGHT, LONGEST_SECONDS
from strategies.refusal import LONGEST_REASON
from strategies.trust import Trust
from tests import fleet
from tests.fleet import Tamper
from tests.one_exchange import OneExchange
from tests.packet_exchange import digital

SIZE = 610
LINKS: dict[str, Callable[[], Uplink]] = {
    "ideal": IdealUplink,
    "uncoded": lambda: AnalogUplink(Uncoded(), MinimumMSE()),
    "random-linear": lambda: AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE()),
    "digital": digital,
}
PAYLOAD = {name: PACKET_KEY if name == "digital" else SYMBOLS_KEY for name in LINKS}


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """NumPy's format with a header of one's own."""
    text = header.encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + data


def saved(array: NDArray[Any], *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def with_bytes(data: bytes, stype: str = "numpy.ndarray") -> Tamper:
    """What stands for the symbols or the packet, as bytes."""

    def tamper(reply: Message) -> Message:
        key = PACKET_KEY if PACKET_KEY in reply.content else SYMBOLS_KEY
        reply.content[key] = ArrayRecord({key: Array("float64", (SIZE,), stype, data)})
        return reply

    return tamper


def with_said(**changes: object) -> Tamper:
    def tamper(reply: Message) -> Message:
        record = reply.content.config_records[TRANSMISSION_KEY]
        for name, value in changes.items():
            record[name] = value  # type: ignore[assignment]
        return reply

    return tamper


def with_metrics(**changes: Any) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content["metrics"] = MetricRecord(
            {**reply.content.metric_records["metrics"], **{k.replace("_", "-"): v for k, v in changes.items()}}
        )
        return reply

    return tamper


def with_record(key: str, record: Any) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content = RecordDict({**reply.content, key: record})
        return reply

    return tamper


def without(key: str) -> Tamper:
    def tamper(reply: Message) -> Message:
        reply.content = RecordDict({name: record for name, record in reply.content.items() if name != key})
        return reply

    return tamper


def louder(reply: Message) -> Message:
    """Symbols of a hundred times the power that an update has, or a packet that says so much of itself."""
    if PACKET_KEY in reply.content:
        return with_said(norm=1e30)(reply)  # type: ignore[return-value]
    symbols = reply.content.array_records[SYMBOLS_KEY][SYMBOLS_KEY].numpy()
    reply.content[SYMBOLS_KEY] = fleet.record({SYMBOLS_KEY: 10 * symbols})
    return reply


HUGE = 2**40
TRANSMISSION, METRICS = TRANSMISSION_KEY, "metrics"
HOSTILE: dict[str, tuple[Tamper, str]] = {
    "a number alone": (with_bytes(saved(np.array(1.0))), "shape|dtype"),
    "objects": (with_bytes(saved(np.array([{}, {}], dtype=object), pickled=True)), "dtype"),
    "text": (with_bytes(saved(np.array(["word"] * SIZE))), "dtype"),
    "complex": (with_bytes(saved(np.zeros(SIZE, np.complex128))), "dtype"),
    "a record dtype": (with_bytes(npy("{'descr':[('a','<f8')],'fortran_order':False,'shape':(610,)}")), "dtype"),
    "Fortran order": (with_bytes(saved(np.asfortranarray(np.zeros((10, 61))))), "shape|dtype"),
    "big endian": (with_bytes(saved(np.zeros(SIZE, ">f8"))), "dtype"),
    "terabytes": (with_bytes(npy(f"{{'descr':'<f8','fortran_order':False,'shape':({HUGE},)}}")), "shape|dtype"),
    "fewer than none": (with_bytes(npy("{'descr':'<f8','fortran_order':False,'shape':(-1,)}")), "shape"),
    "a header too long": (with_bytes(npy("{" + " " * 60_000 + "}")), "unreadable"),
    "a nested header": (with_bytes(npy("[" * 5_000)), "unreadable"),
    "no dictionary": (with_bytes(npy("__import__('os')")), "unreadable"),
    "version 2": (with_bytes(npy("{}", version=(2, 0))), "unreadable"),
    "version 99": (with_bytes(npy("{}", version=(99, 0))), "unreadable"),
    "a zip": (with_bytes(b"PK\3\4" + bytes(200)), "unreadable"),
    "a pickle": (with_bytes(b"\x80\4\x95" + bytes(200)), "unreadable"),
    "no bytes": (with_bytes(b""), "unreadable"),
    "a header alone": (with_bytes(npy("{'descr':'<f8','fortran_order':False,'shape':(610,)}")), "length|dtype|shape"),
    "other bytes than NumPy's": (with_bytes(b"\0" * 100, "torch.tensor"), "dtype"),
    "too loud": (louder, "power|norm"),
    "norm a list": (with_said(norm=[1.0, 2.0]), "norm"),
    "norm a text": (with_said(norm="1" * 10**6), "norm"),
    "norm true": (with_said(norm=True), "norm"),
    "norm of 5000 digits": (with_said(norm=10**5000), "norm"),
    "another exchange's seed": (with_said(seed=12345), "seed"),
    "a seed that is none": (with_said(seed="seed"), "seed"),
    "weight 1e300": (with_metrics(num_examples=1e300), "weight"),
    "weight of 400 digits": (with_metrics(num_examples=10**400), "weight|metrics"),
    "loss infinite": (with_metrics(loss=float("inf")), "metrics"),
    "loss NaN in a list": (with_metrics(loss=[1.0, float("nan")]), "metrics"),
    "loss of 400 digits": (with_metrics(loss=10**400), "metrics"),
    "a million metrics": (with_metrics(loss=[1.0] * 10**6), "metrics"),
    "metrics twice": (with_record("other", MetricRecord({"num-examples": 9})), "metrics"),
    "symbols that are text": (with_record(SYMBOLS_KEY, ConfigRecord({SYMBOLS_KEY: "1 2 3"})), "missing"),
    "transmission that is metrics": (with_record(TRANSMISSION, MetricRecord({"norm": 1.0})), "missing|norm|metrics"),
    "metrics that are text": (with_record(METRICS, ConfigRecord({"num-examples": "many"})), "weight"),
    "nothing at all": (lambda reply: setattr(reply, "content", RecordDict()) or reply, "missing"),  # type: ignore[func-returns-value]
}
"""What a device does to its reply, and the kinds it may be counted as."""


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", HOSTILE)
def test_the_others_mean_is_what_it_is_without_the_device(name: str, link: str) -> None:
    tamper, kinds = HOSTILE[name]
    if link == "digital" and name == "symbols that are text":
        tamper = with_record(PACKET_KEY, ConfigRecord({PACKET_KEY: "1 2 3"}))
    exchange = OneExchange(LINKS[link](), tamper={1: tamper})
    (failure,) = exchange.record["failures"]
    assert failure["device"] == 1
    assert failure["kind"] in kinds.split("|"), failure
    assert len(failure["reason"]) <= LONGEST_REASON
    assert exchange.record["bad_replies"] == {"1": {failure["kind"]: 1}}
    assert models(exchange) == models(OneExchange(LINKS[link](), tamper={}, devices=[0, 2, 3]))


def models(exchange: OneExchange) -> dict[int, bytes]:
    """What the strategy gets, to the bit."""
    node_of = (lambda reply: reply.metadata.src_node_id) if len(exchange.replies) > 1 else lambda reply: 0
    return {node_of(reply): fleet.flat(reply.content.array_records["arrays"]).tobytes() for reply in exchange.replies}


@pytest.mark.parametrize("link", LINKS)
def test_two_hundred_megabytes_are_refused_without_being_copied(link: str) -> None:
    sent = with_bytes(npy("{'descr':'|u1','fortran_order':False,'shape':(200000000,)}", bytes(2 * 10**8)))
    tracemalloc.start()
    exchange = OneExchange(LINKS[link](), tamper={1: sent})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [failure["kind"] for failure in exchange.record["failures"]] == ["shape" if link == "digital" else "dtype"]
    assert peak < 10**8, "half of what was sent: training takes a few MB"


def test_what_a_device_says_of_its_time_is_believed_for_a_week_at_most() -> None:
    exchange = OneExchange(tamper={0: with_said(seconds=LONGEST_SECONDS * 1.01), 1: with_said(seconds=5.0)})
    assert exchange.record["failures"] == []
    assert exchange.record["train_s_max"] == 5.0


def test_a_reason_that_a_device_gives_is_cut_and_printable() -> None:
    exchange = OneExchange(tamper={1: lambda reply: fleet.error_reply(reply, "\x1b[2J" + "no" * 10**6)})
    (failure,) = exchange.record["failures"]
    assert (failure["kind"], len(failure["reason"])) == ("error", LONGEST_REASON)
    assert failure["reason"].isprintable()


def test_metrics_that_one_device_leaves_out_or_writes_otherwise_do_not_cost_the_others_theirs() -> None:
    for tamper in (without_loss, with_metrics(train_loss=[1.0, 2.0])):
        exchange = OneExchange(tamper={1: tamper})
        assert exchange.record["failures"] == []
        loss = {metrics: value for metrics, value in exchange.record["metrics"].items() if "loss" in metrics}
        assert list(loss) == ["train_loss"] or tamper is not without_loss
        assert all(np.isfinite(value) for value in loss.values())


def without_loss(reply: Message) -> Message:
    reply.content["metrics"] = MetricRecord({"num-examples": 30})
    return reply


def test_on_a_digital_link_a_device_that_reports_other_metrics_than_most_is_left_out() -> None:
    """Strategies raise where replies differ."""
    exchange = OneExchange(digital(), tamper={1: without_loss})
    (failure,) = exchange.record["failures"]
    assert (failure["device"], failure["kind"]) == (1, "metrics")
    assert len(exchange.replies) == 3


# Replies that belong to no message.


class Meddled(fleet.MessageGrid):
    """Which adds to the replies of a training exchange, given those of the one before."""

    def __init__(self, inner: Any, meddle: Callable[[list[Message], list[Message]], list[Message]]) -> None:
        super().__init__(inner)
        self.meddle = meddle
        self.before: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        ordered = ORDER_KEY in messages[0].content.config_records
        replies = sorted(super().send_and_receive(messages), key=lambda reply: reply.metadata.src_node_id)
        if not ordered:
            return replies
        now, self.before = self.meddle(list(replies), self.before), replies
        return now


def copy_of(reply: Message, **metadata: object) -> Message:
    made = Message(reply.content, reply_to=reply)
    wanted = {name: getattr(reply.metadata, name) for name in ("src_node_id", "reply_to_message_id")} | metadata
    made.metadata.__dict__.update({f"_{name}": value for name, value in wanted.items()})
    return made


def two_exchanges(
    link: str, meddle: Callable[[list[Message], list[Message]], list[Message]]
) -> tuple[list[dict[str, Any]], bytes]:
    """Records of two exchanges, and what the second came to."""
    work, records = fleet.workplace(), []  # type: ignore[var-annotated]
    air = AirGrid(Meddled(fleet.local_grid(work), meddle), LINKS[link](), on_exchange=records.append)
    start, nodes = fleet.initial(work), air.get_node_ids()
    for round in (1, 2):
        replies = list(air.send_and_receive(fleet.train_messages(start, nodes, round=round)))
    return records, b"".join(fleet.flat(reply.content.array_records["arrays"]).tobytes() for reply in replies)


def late(now: list[Message], before: list[Message]) -> list[Message]:
    return [*before, *now]


def replayed(now: list[Message], before: list[Message]) -> list[Message]:
    """Device 0 sends what it sent before in answer to the new message."""
    if not before:
        return now
    return [copy_of(before[0], reply_to_message_id=now[0].metadata.reply_to_message_id), *now[1:]]


def doubled(now: list[Message], before: list[Message]) -> list[Message]:
    return [*now, *(copy_of(reply) for reply in now)]


def in_anothers_name(now: list[Message], before: list[Message]) -> list[Message]:
    """Device 0 answers the message to device 1 before that does."""
    forged = copy_of(now[0], reply_to_message_id=now[1].metadata.reply_to_message_id)
    return [forged, *now]


def emptied(now: list[Message], before: list[Message]) -> list[Message]:
    """Neither content nor error, before the reply itself."""
    empty = [copy_of(reply) for reply in now]
    for reply in empty:
        reply.__dict__["_content"] = None
    return [*empty, *now]


def made_up(now: list[Message], before: list[Message]) -> list[Message]:
    return [copy_of(now[0], reply_to_message_id="nobody asked"), *now]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("meddle", "strays"),
    [
        (late, {"unasked": 4}),
        (doubled, {"duplicate": 8}),
        (in_anothers_name, {"of-another": 2}),
        (made_up, {"unasked": 2}),
        (emptied, {"empty": 8}),
    ],
)
def test_a_reply_that_answers_nothing_changes_nothing_but_the_count(
    link: str, meddle: Any, strays: dict[str, int]
) -> None:
    records, model = two_exchanges(link, meddle)
    assert records[1]["strays"] == strays
    assert all(record["failures"] == [] for record in records)
    assert model == two_exchanges(link, lambda now, before: now)[1]


@pytest.mark.parametrize("link", LINKS)
def test_an_old_reply_to_a_new_message_is_refused_by_its_seed(link: str) -> None:
    records, model = two_exchanges(link, replayed)
    assert [(failure["device"], failure["kind"]) for failure in records[1]["failures"]] == [(0, "seed")]
    assert model == two_exchanges(link, lambda now, before: now[1:] if before else now)[1]


# Who a node says it is.


class Claiming(fleet.MessageGrid):
    """Whose nodes say numbers of their own choice when they are asked which device they are."""

    says: tuple[Any, ...] = ()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(super().send_and_receive(messages))
        for reply in replies:
            if set(reply.content) == {TRANSMISSION_KEY}:
                own = reply.metadata.src_node_id - FIRST_NODE
                reply.content[TRANSMISSION_KEY] = ConfigRecord({"device": self.says[own]})
        return replies


@pytest.mark.parametrize("says", [10**12, -5, "two", 2.0, True, [2], 10**400, b"2", 4])
def test_a_node_that_says_an_impossible_number_gets_one_that_is_left(says: Any) -> None:
    grid = Claiming(fleet.local_grid(fleet.workplace()))
    grid.says = (3, says, 1, 0)
    air = AirGrid(grid, IdealUplink(), trust=Trust(devices=4))
    assert air.get_node_ids() == [FIRST_NODE + own for own in (3, 2, 1, 0)]


# Weights.


def test_a_device_has_no_larger_share_of_the_weights_than_is_believed() -> None:
    boasting = with_metrics(num_examples=int(LARGEST_WEIGHT))
    for uplink in (IdealUplink(), LINKS["uncoded"]()):
        records: list[dict[str, Any]] = []
        work = fleet.workplace()
        trust = Trust(largest_weight_share=0.4)
        air = AirGrid(fleet.message_grid(work, {1: boasting}), uplink, on_exchange=records.append, trust=trust)
        list(air.send_and_receive(fleet.train_messages(fleet.initial(work), air.get_node_ids())))
        weights = np.array(records[0]["weights"])
        others = np.array([len(work.data.parts[device]) for device in (0, 2, 3)])
        assert weights[1] == pytest.approx(0.4, rel=1e-12)
        np.testing.assert_allclose(weights[[0, 2, 3]], 0.6 * others / others.sum(), rtol=1e-12)


def test_strategies_that_weigh_replies_themselves_get_the_weights_that_are_believed() -> None:
    work = fleet.workplace()
    grid = fleet.message_grid(work, {1: with_metrics(num_examples=10**9)})
    air = AirGrid(grid, digital(), trust=Trust(largest_weight_share=0.4))
    replies = list(air.send_and_receive(fleet.train_messages(fleet.initial(work), air.get_node_ids())))
    weights = np.array([float(str(reply.content["metrics"]["num-examples"])) for reply in replies])
    assert (weights / weights.sum())[1] == pytest.approx(0.4, rel=1e-9)


# Messages on the control channel.


@pytest.mark.parametrize(
    "metrics",
    [{"num-examples": -1, "loss": 1.0}, {"num-examples": 3, "loss": float("nan")}, {"loss": 1.0}],
)
def test_an_evaluation_that_is_none_becomes_an_error_that_strategies_leave_out(metrics: dict[str, float]) -> None:
    class Lying(fleet.MessageGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            messages = list(messages)
            replies = list(super().send_and_receive(messages))
            for reply in replies:
                if messages[0].metadata.message_type == "evaluate" and reply.metadata.src_node_id == FIRST_NODE + 1:
                    reply.content["metrics"] = MetricRecord(metrics)
            return replies

    work = fleet.workplace()
    air = AirGrid(Lying(fleet.local_grid(work)), IdealUplink())
    messages = fleet.train_messages(fleet.initial(work), air.get_node_ids(), kind="evaluate")
    replies = list(air.send_and_receive(messages))
    assert [reply.metadata.src_node_id - FIRST_NODE for reply in replies if reply.has_content()] == [0, 2, 3]
    assert [reply.metadata.src_node_id - FIRST_NODE for reply in replies if reply.has_error()] == [1]
    assert sum(air.quarantine.bad[1].values()) == 1


def test_the_superlink_may_speak_for_a_node_that_is_gone() -> None:
    def unavailable(reply: Message) -> Message:
        error = Message(Error(ErrorCode.NODE_UNAVAILABLE, "Node Unavailable"), reply_to=reply)
        error.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        error.metadata.__dict__["_src_node_id"] = 1
        return error

    exchange = OneExchange(tamper={1: unavailable})
    assert exchange.record["failures"] == [{"device": 1, "reason": "Node Unavailable", "kind": "no-reply"}]
    assert "strays" not in exchange.record
    assert "bad_replies" not in exchange.record


@pytest.mark.parametrize("link", LINKS)
def test_a_norm_whose_square_is_nothing_counts_as_none(link: str) -> None:
    """Divided by it, the record would not be finite."""
    tiny, none = (OneExchange(LINKS[link](), tamper={1: with_said(norm=norm)}) for norm in (1e-320, 0.0))
    json.dumps(tiny.record, allow_nan=False)
    assert models(tiny) == models(none)
