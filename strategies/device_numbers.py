"""Which device is at which node."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from channel.order import DEVICE_QUERY
from strategies.received import said_of_transmission
from strategies.replies import matched
from strategies.trust import Trust

QUERY_TIMEOUT = 300.0
"""Most seconds to wait for nodes to say which device they are."""


@runtime_checkable
class KnowsDevices(Protocol):
    """A grid that knows of itself which device is at a node."""

    def registered_devices(self) -> Mapping[int, int]:
        """The number of the device at each node that is registered under one."""
        ...


class DeviceNumbers:
    """The numbers of the devices at the nodes of a grid.

    Node ids are random in each run of Flower; device numbers (data partitions) are not.

    Parameters
    ----------
    grid : Grid
        Reaches the nodes.
    trust : Trust
        Which numbers are believed.
    within : float, default 300
        Seconds to wait for nodes to say theirs; never more than the default.
    """

    def __init__(self, grid: Grid, trust: Trust, within: float = QUERY_TIMEOUT) -> None:
        self.grid = grid
        self.trust = trust
        self.within = min(within, QUERY_TIMEOUT)
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
        """Number the devices at the nodes that are new: as they are registered; the others are asked.

        Those asked that give none, or one that is taken or not believed, get the free numbers in the order of their
        ids; a warning says how many have not answered in time, because their data may then go under other numbers.
        """
        strangers = [node for node in nodes if node not in self._of]
        if strangers and isinstance(self.grid, KnowsDevices):
            registered = self.grid.registered_devices()
            self._take((node, registered[node]) for node in strangers if node in registered)
            strangers = [node for node in strangers if node not in self._of]
        if not strangers:
            return
        self._take(self._said_by(strangers))
        taken = set(self._of.values())
        free = (number for number in range(len(taken) + len(strangers)) if number not in taken)
        for node in sorted(set(strangers) - set(self._of)):
            self._of[node] = next(free)

    def _take(self, numbers: Iterable[tuple[int, object]]) -> None:
        """Note the numbers of nodes that are believed and not taken."""
        for node, device in numbers:
            if self.trust.believes_number(device) and device not in self._of.values():
                self._of[node] = int(str(device))

    def _said_by(self, strangers: Sequence[int]) -> Iterator[tuple[int, object]]:
        """Nodes that answer, and the number that each says; None where it says none."""
        # A training message: Flower hands mods no message of a type that the app has no function for.
        question = RecordDict({DEVICE_QUERY: ConfigRecord()})
        queries = [Message(question, node, MessageType.TRAIN) for node in strangers]
        replies = self.grid.send_and_receive(queries, timeout=self.within)
        node_of = {query.metadata.message_id: query.metadata.dst_node_id for query in queries}
        answers = matched(queries, replies).of
        if len(answers) < len(queries):
            warnings.warn(
                f"{len(queries) - len(answers)} of {len(queries)} nodes have not said within {self.within:g} s which "
                f"device they are; they are numbered in the order of their ids",
                stacklevel=2,
            )
        for asked, reply in answers.items():
            yield node_of[asked], said_of_transmission(reply).get("device") if reply.has_content() else None
