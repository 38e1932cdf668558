"""Which device is at which node."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from channel.order import DEVICE_QUERY
from strategies.received import said_of_transmission
from strategies.replies import matched
from strategies.trust import Trust

QUERY_TIMEOUT = 300.0
"""Seconds to wait for nodes to say which device they are."""


class DeviceNumbers:
    """The numbers of the devices at the nodes of a grid.

    Node ids are random in each run of Flower; device numbers (data partitions) are not.

    Parameters
    ----------
    grid : Grid
        Reaches the nodes.
    trust : Trust
        Which numbers are believed.
    """

    def __init__(self, grid: Grid, trust: Trust) -> None:
        self.grid = grid
        self.trust = trust
        self._of: dict[int, int] = {}

    def of_node(self, node: int) -> int:
        """The number of the device at a node that was met."""
        return self._of[node]

    def of(self, message: Message) -> int:
        """The number of the device that a message goes to."""
        return self._of[message.metadata.dst_node_id]

    def nodes(self) -> dict[int, int]:
        """The node of each device, by number."""
        return {device: node for node, device in self._of.items()}

    @property
    def total(self) -> int:
        """Devices in the system, as far as is known: all numbers are below it."""
        return max(self._of.values(), default=-1) + 1

    def meet(self, nodes: Iterable[int]) -> None:
        """Ask the nodes that are new for their devices' numbers.

        Those that give none, or one that is taken or not believed, get the free numbers in the order of their ids; a
        warning says how many have not answered in time, because their data may then go under other numbers.
        """
        strangers = [node for node in nodes if node not in self._of]
        if not strangers:
            return
        for node, device in self._said_by(strangers):
            if self.trust.believes_number(device) and device not in self._of.values():
                self._of[node] = int(str(device))
        taken = set(self._of.values())
        free = (number for number in range(len(taken) + len(strangers)) if number not in taken)
        for node in sorted(set(strangers) - set(self._of)):
            self._of[node] = next(free)

    def _said_by(self, strangers: Sequence[int]) -> Iterator[tuple[int, object]]:
        """Nodes that answer, and the number that each says; None where it says none."""
        # A training message: Flower hands mods no message of a type that the app has no function for.
        question = RecordDict({DEVICE_QUERY: ConfigRecord()})
        queries = [Message(question, node, MessageType.TRAIN) for node in strangers]
        replies = self.grid.send_and_receive(queries, timeout=QUERY_TIMEOUT)
        node_of = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
        answers = matched(queries, replies).of
        if len(answers) < len(queries):
            warnings.warn(
                f"{len(queries) - len(answers)} of {len(queries)} nodes have not said within {QUERY_TIMEOUT:g} s which "
                f"device they are; they are numbered in the order of their ids",
                stacklevel=2,
            )
        for asked, reply in answers.items():
            yield node_of[asked], said_of_transmission(reply).get("device") if reply.has_content() else None
