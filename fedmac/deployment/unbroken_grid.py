"""Flower's Grid of a SuperLink, which no device's reply can break or hold up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from flwr.app import ArrayRecord, Message
from flwr.common.constant import ErrorCode
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError, get_num_workers
from flwr.superlink.grid import HttpGrid

from channel.records import records_in
from fedmac.deployment.folders import device_number
from fedmac.deployment.patience import patient
from fedmac.deployment.reply_parts import ReplyParts, error_in_place_of
from strategies.wrapped_grid import WrappedGrid

_POLL_SECONDS = 3.0
_SLICE_SECONDS = 2.0  # of one device's reply in one pull; the rest waits for the next
_WORKERS = get_num_workers(FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS)
_LONGER = 16  # times the longest message to a device: two complex128 symbols an entry of a float32 model take 8 times
_LEAST_BYTES = 2**26  # that a reply may have always: its metrics and Flower's own heads come on top of its arrays


class UnbrokenGrid(WrappedGrid):
    """A SuperLink's Grid that takes each device's reply by itself.

    Flower's own takes all that have come at once: one that cannot be decoded raises, and the others are lost with it;
    one whose parts are not all there is waited for up to two hours, whatever time-out the caller gave; one of any
    length is taken whole into memory. Here the first is an error in that device's place (code
    :data:`strategies.refusal.UNREADABLE_REPLY`, which counts against it), the second comes when it is whole, or not at
    all, and the third is fetched to 16 times the arrays of the longest message to a device, at least 64 MiB, and then
    is an error as well (:data:`strategies.refusal.OVERLONG_REPLY`).

    Parameters
    ----------
    grid : HttpGrid
        The one that Flower gives a ServerApp.

    Notes
    -----
    Source: Flower 1.41 ``flwr.superlink.grid.http_grid``, whose requests these are. What the SuperLink says of a
    reply (who sent it, to which message) is what it checked against the device's key; a reply that says otherwise of
    itself is refused.
    """

    grid: HttpGrid

    def __init__(self, grid: HttpGrid) -> None:
        self.grid = grid
        patient(grid._retry_invoker)
        self._coming: dict[str, ReplyParts] = {}
        self._most_bytes = _LEAST_BYTES

    def get_node_ids(self) -> Iterable[int]:
        """The wrapped grid's nodes."""
        return self.grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The wrapped grid's nodes, and what is known of them."""
        return self.grid.get_nodes()

    def registered_devices(self) -> dict[int, int]:
        """Numbers of the devices at nodes whose keys are registered as ``device-K``, whatever they say."""
        numbers = ((node.node_id, device_number(node.name)) for node in self.get_nodes())
        return {node: device for node, device in numbers if device is not None}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; their numbers, empty for nodes that are gone."""
        messages = list(messages)
        self._most_bytes = max(self._most_bytes, _LONGER * _longest(messages))
        return self.grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that are whole, or of no use (then an error in their place)."""
        asked = [each for each in dict.fromkeys(message_ids) if each]
        came = self._fetch([each for each in asked if each not in self._coming])
        coming = [each for each in asked if each in self._coming]
        if not coming:
            return came
        with ThreadPoolExecutor(_WORKERS) as pool:
            for each in coming:
                if (message := self._advanced(self._coming[each], pool)) is not None:
                    del self._coming[each]
                    came.append(message)
        return came

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for the replies, `timeout` seconds at most; one that is not whole then is an error."""
        waiting = {each for each in self.push_messages(messages) if each}
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting:
            came = self.pull_messages(waiting)
            replies += came
            waiting -= {message.metadata.reply_to_message_id for message in came}
            left = deadline - time.monotonic()
            if not waiting or left <= 0:
                break
            time.sleep(min(_POLL_SECONDS, left))
        partial = [self._coming.pop(each) for each in sorted(waiting & self._coming.keys())]
        return replies + [
            reply.failed(
                ErrorCode.MESSAGE_UNAVAILABLE,
                f"its reply was not whole within {timeout:g} s: {reply.progress}",
            )
            for reply in partial
        ]

    def _fetch(self, message_ids: list[str]) -> list[Message]:
        """Note which replies there are; errors in place of those that were not asked for."""
        if not message_ids:
            return []
        response = self.grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        strays = []
        for envelope, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            metadata = metadata_from_proto(envelope.metadata)
            if metadata.reply_to_message_id not in message_ids:
                strays.append(error_in_place_of(metadata, ErrorCode.UNKNOWN, "nobody asked for it"))
            else:
                parts = dict.fromkeys(part.object_id for part in iterate_object_tree(tree))
                self._coming[metadata.reply_to_message_id] = ReplyParts(metadata, parts, self._most_bytes)
        return strays

    def _advanced(self, reply: ReplyParts, pool: Executor) -> Message | None:
        """The reply, once its parts have been fetched; None as long as some are not there."""
        client, node, run_id = self.grid._runtime_client, self.grid.node, self.grid.run.run_id
        pull = make_pull_object_fn_protobuf(client.PullObject, node, run_id)

        def fetch(part: str) -> bytes | None:
            try:
                return pull(part)
            except ObjectUnavailableError:
                return None

        until = time.monotonic() + _SLICE_SECONDS
        try:
            while reply.missing:
                if time.monotonic() > until:
                    return None
                some = reply.next(_WORKERS)
                came = list(pool.map(fetch, some))
                reply.take(dict(zip(some, came, strict=True)))
                if None in came:
                    return None
        except ObjectPullError as error:  # its sender has gone in the middle of it
            return reply.failed(ErrorCode.MESSAGE_UNAVAILABLE, f"its reply never became whole: {error}")
        received = ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=reply.envelope.message_id)
        client.ConfirmMessageReceived(received)
        return reply.opened()


def _longest(messages: Sequence[Message]) -> int:
    """Bytes of the arrays in that message which has most of them."""
    arrays = (records_in(message.content, ArrayRecord).values() for message in messages if message.has_content())
    return max((sum(len(array.data) for record in each for array in record.values()) for each in arrays), default=0)


def unbroken(grid: Grid) -> Grid:
    """The grid by which a ServerApp reaches its devices: real ones need not keep to Flower's protocol."""
    return UnbrokenGrid(grid) if isinstance(grid, HttpGrid) else grid
