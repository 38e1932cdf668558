"""Flower's own SuperLink without its sockets: its handlers over a state in memory, a ServerApp's side and devices'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import (
    FLWR_IN_MEMORY_DB_NAME,
    HEAD_BODY_DIVIDER,
    HEAD_VALUE_DIVIDER,
    NOOP_FEDERATION_ID,
    TaskType,
)
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.grid import HttpGrid
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

SUPERLINK = 1
"""Flower's number of the SuperLink's own node."""


class SuperLinkInMemory:
    """A SuperLink on which one run goes on.

    Parameters
    ----------
    devices : int
        Nodes that are registered and online.
    names : sequence of str, optional
        Under which each is registered, in their order.
    """

    def __init__(self, devices: int, names: Sequence[str] = ()) -> None:
        store = ObjectStoreFactory(FLWR_IN_MEMORY_DB_NAME)
        self.state = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), store).state()
        self.run_id = self.state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
        (run,) = self.state.get_run_info(run_ids=[self.run_id])
        assert run.primary_task_id is not None
        assert self.state.claim_task(run.primary_task_id)
        assert self.state.activate_task(run.primary_task_id)
        (self.task,) = self.state.get_tasks(task_ids=[run.primary_task_id])
        self.nodes = [
            self.state.create_node("", "", b"key %d" % number, 600.0, name=names[number] if names else None)
            for number in range(devices)
        ]
        for node in self.nodes:
            assert self.state.activate_node(node, 600.0)
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = self.run_id, self.task.task_id, SUPERLINK

    def grid(self) -> HttpGrid:
        """The grid that Flower gives the run's ServerApp; its requests come here."""
        grid = HttpGrid(token="token")
        grid._client = RuntimeClient(self)  # type: ignore[assignment]
        grid.set_run(Run.create_empty(self.run_id))
        return grid


class RuntimeClient:
    """What a ServerApp asks, handled at once; ``asked`` counts what."""

    def __init__(self, superlink: SuperLinkInMemory) -> None:
        self._superlink = superlink
        self.asked: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        handlers = {
            "PushMessages": runtime_handlers.push_messages,
            "PullMessages": runtime_handlers.pull_messages,
            "PushObject": runtime_handlers.push_object,
            "PullObject": runtime_handlers.pull_object,
            "ConfirmMessageReceived": runtime_handlers.confirm_message_received,
            "GetNodes": runtime_handlers.get_nodes,
        }
        handle = handlers[name]

        def ask(request: Any) -> Any:
            self.asked[name] = self.asked.get(name, 0) + 1
            return handle(request, self._superlink.state, self._superlink.task)

        return ask


@dataclass
class Parcel:
    """A reply as a device sends it: what it says of it, and its parts; a forger meddles with either.

    Attributes
    ----------
    envelope : MessageProto
        What the SuperLink is told.
    tree : ObjectTree
        Names of the parts, and which are made of which.
    contents : dict of str to bytes
        The parts.
    """

    envelope: MessageProto
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, reply: Message) -> Parcel:
        """As Flower packs a reply."""
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects: dict[str, InflatableObject] = get_all_nested_objects(reply)
        envelope = message_to_proto(remove_content_from_message(reply))
        return cls(envelope, get_object_tree(reply), {name: each.deflate() for name, each in objects.items()})

    def with_root(self, content: bytes, *children: ObjectTree) -> Parcel:
        """The same with other bytes in place of the message."""
        name = get_object_id(content)
        envelope = MessageProto()
        envelope.CopyFrom(self.envelope)
        envelope.metadata.message_id = name
        parts = {child.object_id for tree in children for child in iterate_object_tree(tree)}
        contents = {part: self.contents[part] for part in parts if part in self.contents} | {name: content}
        return Parcel(envelope, ObjectTree(object_id=name, children=children), contents)


def part(kind: str, children: list[str], body: bytes) -> bytes:
    """A part as the SuperLink takes it: its kind, what it is made of, and its body."""
    head = HEAD_VALUE_DIVIDER.join([kind, ",".join(children), str(len(body))])
    return head.encode() + HEAD_BODY_DIVIDER + body


class DeviceInMemory:
    """A node that gets messages and sends parcels.

    Parameters
    ----------
    superlink : SuperLinkInMemory
        Where.
    number : int
        Of the device.
    """

    def __init__(self, superlink: SuperLinkInMemory, number: int) -> None:
        self.superlink = superlink
        self.node = Node(node_id=superlink.nodes[number])

    def message(self) -> Message | None:
        """The message that waits for it."""
        state = self.superlink.state
        pulled = fleet_handlers.pull_messages(PullMessagesRequest(node=self.node), state, state.object_store)
        if not pulled.messages_list:
            return None
        names = [each.object_id for each in iterate_object_tree(pulled.message_object_trees[0])]
        contents = {}
        for name in names:
            request = PullObjectRequest(node=self.node, run_id=self.superlink.run_id, object_id=name)
            contents[name] = fleet_handlers.pull_object(request, state).object_content
        message = inflate_object_from_contents(names[-1], contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = names[-1]
        return message

    def reply(self, to: Message, content: RecordDict) -> Message:
        """A reply by this node."""
        server = TaskIdentity.node_id
        TaskIdentity.node_id = self.node.node_id
        try:
            return Message(content, reply_to=to)
        finally:
            TaskIdentity.node_id = server

    def send(self, parcel: Parcel, *, held_back: int = 0) -> list[PushObjectRequest]:
        """Hand a parcel to the SuperLink; the requests for the parts that are held back, for later."""
        message_from_proto(parcel.envelope)  # the SuperLink reads it likewise
        pushed = fleet_handlers.push_messages(
            PushMessagesRequest(node=self.node, messages_list=[parcel.envelope], message_object_trees=[parcel.tree]),
            self.superlink.state,
        )
        requests = [
            PushObjectRequest(
                node=self.node,
                run_id=self.superlink.run_id,
                object_id=name,
                object_content=parcel.contents[name],
                session_id=pushed.session_id,
            )
            for name in pushed.objects_to_push
            if name in parcel.contents
        ]
        kept = requests[len(requests) - held_back :]
        for request in requests[: len(requests) - held_back]:
            assert self.push(request)
        return kept

    def push(self, request: PushObjectRequest) -> bool:
        """Send one part; whether the SuperLink takes it."""
        return fleet_handlers.push_object(request, self.superlink.state).stored
