"""What a device makes of Flower's protocol costs the device its reply, and nobody else anything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from channel.order import TRANSMISSION_KEY
from fedmac.deployment import unbroken_grid
from fedmac.deployment.unbroken_grid import UnbrokenGrid
from strategies.air_messages import failure_of
from strategies.device_numbers import DeviceNumbers
from strategies.refusal import OVERLONG_REPLY, UNREADABLE_REPLY
from strategies.trust import Trust
from tests.fedmac.deployment.superlink_in_memory import (
    DeviceInMemory,
    Parcel,
    RuntimeClient,
    SuperLinkInMemory,
    part,
)

FORGER = 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbroken_grid, "_POLL_SECONDS", 0.01)


def content(value: float) -> RecordDict:
    arrays = ArrayRecord({"x": Array(np.full(5, value))})
    return RecordDict({"arrays": arrays, "said": ConfigRecord({"value": value})})


class Exchange:
    """A message to each of three devices, which they have."""

    def __init__(self) -> None:
        self.superlink = SuperLinkInMemory(devices=3)
        self.http = self.superlink.grid()
        self.grid = UnbrokenGrid(self.http)
        messages = [Message(content(0.0), node, MessageType.TRAIN) for node in self.superlink.nodes]
        self.ids = list(self.grid.push_messages(messages))
        self.outstanding = set(self.ids)
        self.devices = [DeviceInMemory(self.superlink, number) for number in range(3)]
        self.messages: list[Message] = []
        for device in self.devices:
            message = device.message()
            assert message is not None
            self.messages.append(message)

    def parcel(self, number: int, value: float | None = None) -> Parcel:
        """An honest reply."""
        value = float(number) if value is None else value
        return Parcel.of(self.devices[number].reply(self.messages[number], content(value)))

    def send_honest(self) -> None:
        """The others' replies."""
        for number in (0, 2):
            self.devices[number].send(self.parcel(number))

    def pull(self) -> dict[int, Message]:
        """What comes of what has not come yet, by device."""
        replies = self.grid.pull_messages(self.outstanding)
        self.outstanding -= {reply.metadata.reply_to_message_id for reply in replies}
        return {self.ids.index(reply.metadata.reply_to_message_id): reply for reply in replies}


def no_message(exchange: Exchange) -> Parcel:
    """A part of another kind in the message's place."""
    honest = exchange.parcel(FORGER)
    (record,) = honest.tree.children
    forged = honest.with_root(honest.contents[record.object_id], *record.children)
    forged.envelope.metadata.message_id = record.object_id
    return forged


def garbled_body(exchange: Exchange) -> Parcel:
    return exchange.parcel(FORGER).with_root(part("Message", [], b"\xff" * 9))


def empty_body(exchange: Exchange) -> Parcel:
    return exchange.parcel(FORGER).with_root(part("Message", [], b""))


def part_that_is_not_there(exchange: Exchange) -> Parcel:
    honest = exchange.parcel(FORGER)
    (record,) = honest.tree.children
    body = honest.contents[honest.tree.object_id].split(b"\x00", 1)[1]
    # The tree says nothing of the content that the message says it is made of.
    return honest.with_root(part("Message", [record.object_id], body))


def content_of_another_kind(exchange: Exchange) -> Parcel:
    honest = exchange.parcel(FORGER)
    (record,) = honest.tree.children
    inner = record.children[0]
    body = honest.contents[honest.tree.object_id].split(b"\x00", 1)[1]
    return honest.with_root(part("Message", [inner.object_id], body), inner)


def without_end(exchange: Exchange) -> Parcel:
    """Parts within parts within parts, more than Python can follow."""
    honest = exchange.parcel(FORGER)
    contents, inner = {}, []
    for _ in range(3000):
        each = part("RecordDict", inner, b"{}")
        inner = [get_object_id(each)]
        contents[inner[0]] = each
    root = part("Message", inner, honest.contents[honest.tree.object_id].split(b"\x00", 1)[1])
    forged = honest.with_root(root, *(ObjectTree(object_id=name) for name in contents))
    return Parcel(forged.envelope, forged.tree, forged.contents | contents)


def in_another_s_name(exchange: Exchange) -> Parcel:
    """The envelope is the forger's, as the SuperLink asks for; what is in it says it is of device 0, to its message."""
    theirs, mine = exchange.parcel(0, value=666.0), exchange.parcel(FORGER)
    theirs.envelope.metadata.src_node_id = mine.envelope.metadata.src_node_id
    theirs.envelope.metadata.reply_to_message_id = mine.envelope.metadata.reply_to_message_id
    return theirs


FORGERIES: list[Callable[[Exchange], Parcel]] = [
    no_message, garbled_body, empty_body, part_that_is_not_there, content_of_another_kind, without_end,
    in_another_s_name,
]  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_reply_is_an_error_that_counts_against_its_device_and_the_others_arrive(
    forgery: Callable[[Exchange], Parcel],
) -> None:
    exchange = Exchange()
    exchange.devices[FORGER].send(forgery(exchange))
    exchange.send_honest()
    came = exchange.pull()
    assert sorted(came) == [0, 1, 2]
    for number in (0, 2):
        np.testing.assert_array_equal(came[number].content.array_records["arrays"]["x"].numpy(), np.full(5, number))
        assert came[number].metadata.src_node_id == exchange.superlink.nodes[number]
    assert came[FORGER].error.code == UNREADABLE_REPLY
    failure = failure_of(FORGER, came[FORGER])
    assert (failure.kind, failure.bad) == ("unreadable", True)
    assert failure.reason.startswith("its reply is no message: ")


@pytest.mark.parametrize("forgery", [no_message, garbled_body, part_that_is_not_there])
def test_flower_s_own_grid_raises_at_what_is_forged(forgery: Callable[[Exchange], Parcel]) -> None:
    """Else this file tests nothing: the forged parcels get past the SuperLink."""
    exchange = Exchange()
    exchange.devices[FORGER].send(forgery(exchange))
    exchange.send_honest()
    with pytest.raises(Exception):  # noqa: B017, PT011 - KeyError, ValueError, DecodeError or AttributeError
        list(exchange.http.pull_messages(exchange.ids))


def test_of_a_reply_without_measure_a_bounded_part_is_fetched_and_its_device_alone_loses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unbroken_grid, "_LEAST_BYTES", 2**16)
    exchange = Exchange()
    chunks, most = 100, 2**16
    arrays = ArrayRecord({str(k): Array(np.full(most // 10, k, np.uint8)) for k in range(chunks)})  # ten times too long
    forged = exchange.devices[FORGER].reply(exchange.messages[FORGER], RecordDict({"arrays": arrays}))
    exchange.devices[FORGER].send(Parcel.of(forged))
    exchange.send_honest()
    came = exchange.pull()
    failure = failure_of(FORGER, came[FORGER])
    assert (failure.kind, failure.bad) == ("length", True)
    assert came[FORGER].error.code == OVERLONG_REPLY
    assert failure.reason == "its reply is longer than 65536 bytes"
    assert not came[0].has_error()
    assert not came[2].has_error()
    client = exchange.http._runtime_client
    assert isinstance(client, RuntimeClient)
    honest = 2 * len(exchange.parcel(0).contents)
    # Ten chunks fill the bound; on each of them come the heads, and one fetch of two parts may go beyond it.
    assert client.asked["PullObject"] - honest < chunks / 2
    assert client.asked["ConfirmMessageReceived"] == 3  # the SuperLink keeps nothing of it either


def test_a_reply_may_be_some_times_as_long_as_the_longest_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbroken_grid, "_LEAST_BYTES", 0)
    superlink = SuperLinkInMemory(devices=1)
    grid = UnbrokenGrid(superlink.grid())
    model = ArrayRecord({"x": Array(np.zeros(5000, np.float32))})
    ids = list(grid.push_messages([Message(RecordDict({"model": model}), superlink.nodes[0], MessageType.TRAIN)]))
    device = DeviceInMemory(superlink, 0)
    message = device.message()
    assert message is not None
    symbols = RecordDict({"symbols": ArrayRecord({"x": Array(np.ones(10_000, np.complex128))})})  # two an entry
    device.send(Parcel.of(device.reply(message, symbols)))
    (reply,) = grid.pull_messages(ids)
    assert reply.content.array_records["symbols"]["x"].numpy().size == 10_000


def test_a_reply_whose_parts_are_on_their_way_holds_nobody_up_and_comes_when_it_is_whole() -> None:
    exchange = Exchange()
    late = exchange.devices[FORGER].send(exchange.parcel(FORGER), held_back=2)
    exchange.send_honest()
    assert sorted(exchange.pull()) == [0, 2]
    assert exchange.pull() == {}
    for request in late:
        assert exchange.devices[FORGER].push(request)
    came = exchange.pull()
    np.testing.assert_array_equal(came[FORGER].content.array_records["arrays"]["x"].numpy(), np.full(5, 1.0))


def test_an_exchange_ends_at_its_time_with_a_reason_for_the_reply_that_is_not_whole() -> None:
    superlink = SuperLinkInMemory(devices=1)
    http = superlink.grid()
    grid = UnbrokenGrid(http)
    device = DeviceInMemory(superlink, 0)
    pull = grid.pull_messages

    def with_the_device_at_work(ids: set[str]) -> list[Message]:
        if (message := device.message()) is not None:
            device.send(Parcel.of(device.reply(message, content(1.0))), held_back=1)
        return pull(ids)

    grid.pull_messages = with_the_device_at_work  # type: ignore[method-assign, assignment]
    (reply,) = grid.send_and_receive([Message(content(0.0), superlink.nodes[0], MessageType.TRAIN)], timeout=0.05)
    assert reply.error.code != UNREADABLE_REPLY  # a slow device is no bad one
    assert reply.error.reason == "its reply was not whole within 0.05 s: 5 of 6 parts"


def test_a_message_that_nobody_asked_for_is_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower lets a device address the ServerApp in the SuperLink's name."""
    exchange = Exchange()
    forged = exchange.parcel(FORGER)
    forged.envelope.metadata.src_node_id = forged.envelope.metadata.dst_node_id = 1
    forged.envelope.metadata.reply_to_message_id = ""
    exchange.devices[FORGER].send(forged)
    exchange.send_honest()
    replies = exchange.grid.pull_messages(exchange.ids)
    answered = [reply.metadata.reply_to_message_id for reply in replies]
    assert sorted(answered) == sorted(["", exchange.ids[0], exchange.ids[2]])
    assert next(reply for reply in replies if not reply.metadata.reply_to_message_id).has_error()


def test_a_device_has_the_number_that_its_key_is_registered_under_whatever_it_says_and_is_not_asked() -> None:
    superlink = SuperLinkInMemory(devices=3, names=["device-2", "device-0", "device-1"])
    http = superlink.grid()
    numbers = DeviceNumbers(UnbrokenGrid(http), Trust(devices=3))
    numbers.meet(superlink.nodes)
    assert [numbers.of_node(node) for node in superlink.nodes] == [2, 0, 1]
    assert isinstance(http._runtime_client, RuntimeClient)
    assert "PushMessages" not in http._runtime_client.asked


def test_a_number_that_a_key_is_registered_under_is_nobody_else_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys without such a name (``fedmac deploy server --insecure``) leave a device's word; device 0 has its key."""
    superlink = SuperLinkInMemory(devices=2, names=["somebody", "device-0"])
    grid = UnbrokenGrid(superlink.grid())
    devices = [DeviceInMemory(superlink, number) for number in range(2)]
    pull = grid.pull_messages

    def with_the_device_at_work(ids: set[str]) -> list[Message]:
        for device in devices:  # both say that they are device 0; the first is believed, where its key says nothing
            if (message := device.message()) is not None:
                said = RecordDict({TRANSMISSION_KEY: ConfigRecord({"device": 0})})
                device.send(Parcel.of(device.reply(message, said)))
        return pull(ids)

    monkeypatch.setattr(grid, "pull_messages", with_the_device_at_work)
    numbers = DeviceNumbers(grid, Trust(devices=2))
    numbers.meet(superlink.nodes)
    assert [numbers.of_node(node) for node in superlink.nodes] == [1, 0]


def test_a_device_that_is_gone_is_told_as_flower_tells_it() -> None:
    exchange = Exchange()
    exchange.superlink.state.deactivate_node(exchange.superlink.nodes[FORGER])
    exchange.send_honest()
    came = exchange.pull()
    assert failure_of(FORGER, came[FORGER]).kind == "no-reply"
    assert not came[0].has_error()


def test_honest_replies_are_those_of_flower_s_own_grid() -> None:
    def replies(exchange: Exchange, grid: object) -> list[tuple[str, int, float]]:
        for number in range(3):
            exchange.devices[number].send(exchange.parcel(number))
        pulled = grid.pull_messages(exchange.ids)  # type: ignore[attr-defined]
        return sorted(
            (
                str(exchange.ids.index(reply.metadata.reply_to_message_id)),
                exchange.superlink.nodes.index(reply.metadata.src_node_id),
                float(str(reply.content.config_records["said"]["value"])),
            )
            for reply in pulled
        )

    mine, flower_s = Exchange(), Exchange()
    # One run after the other: Flower's Message asks a global which run it is of.
    assert replies(flower_s, flower_s.http) == [("0", 0, 0.0), ("1", 1, 1.0), ("2", 2, 2.0)]
    mine = Exchange()
    assert replies(mine, mine.grid) == [("0", 0, 0.0), ("1", 1, 1.0), ("2", 2, 2.0)]
    assert isinstance(mine.http._runtime_client, RuntimeClient)
    assert mine.http._runtime_client.asked["PullMessages"] == 1  # for all of them together


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_parts_hold_nothing_raises(data: st.DataObject) -> None:
    exchange = Exchange()
    honest = exchange.parcel(FORGER)
    names = list(honest.contents)
    kind = data.draw(st.sampled_from(["Message", "RecordDict", "ArrayRecord", "Array", "ArrayChunk", "ConfigRecord"]))
    children = data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    original = honest.contents[honest.tree.object_id].split(b"\x00", 1)[1]
    body = data.draw(st.sampled_from([original, b"{}", b"[]", b'{"a": 1}', b"null"]) | st.binary(max_size=40))
    trees = [ObjectTree(object_id=name) for name in names if name != honest.tree.object_id]
    flat = honest.with_root(part(kind, children, body), *trees)
    for tree in trees:  # registered as parts without parts, whatever they hold
        assert tree.object_id in flat.contents
    exchange.devices[FORGER].send(flat)
    exchange.send_honest()
    came = exchange.pull()
    assert {0, 2} <= set(came)
    assert not came[0].has_error()
    assert not came[2].has_error()
    if FORGER in came and came[FORGER].has_content():
        assert isinstance(came[FORGER].content, RecordDict)
