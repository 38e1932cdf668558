"""The air between server and devices, as a Flower Grid around any other Grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from channel.memory import restore_into, state_of
from channel.order import BLOCKS_KEY
from channel.records import records_in
from channel.uplinks import DigitalUplink, Experience, MeanUplink, Uplink
from strategies.air_messages import goes_over_the_air
from strategies.air_record import Record, round_of
from strategies.books import Books
from strategies.cohort import Gathered
from strategies.device_numbers import QUERY_TIMEOUT
from strategies.device_states import KeepsDeviceStates, plain_record, record_of
from strategies.devices import Devices
from strategies.exchange import Exchange
from strategies.exchange_of_means import ExchangeOfMeans
from strategies.exchange_of_packets import ExchangeOfPackets
from strategies.exchange_of_scalars import ExchangeOfScalars
from strategies.node_wait import NodeWait
from strategies.refusal import Failure
from strategies.trust import Trust
from strategies.wrapped_grid import WrappedGrid

UNREACHABLE = "unreachable"
"""Why a device is not asked that no order gets to."""


class AirGrid(WrappedGrid):
    """A Grid whose training replies pass through an uplink: N devices send, one reply with their mean arrives.

    Messages of type ``train`` and ``train.<action>`` go over the air; everything else (``evaluate``, ``query``) takes
    a reliable control channel, the wrapped grid, unchanged. The scalars that devices answer to a ``query.<action>``
    are charged: 32 bits each, and no energy.

    Parameters
    ----------
    grid : Grid
        The grid that reaches the devices. Their ClientApp uses the mod :func:`clients.transmit`.
    uplink : Uplink
        What happens between devices and server.
    seed : int, default 0
        Seed of everything the air draws: codes, fading, noise.
    weighted_by_key : str, default "num-examples"
        Metric that holds a device's aggregation weight.
    on_exchange : callable, optional
        Called with the record (a JSON-ready dict) of each exchange.
    trust : Trust, optional
        How far devices are believed. Whatever they send, :meth:`send_and_receive` raises nothing: what cannot be used
        is left out of the sum, told by device, and counted by :attr:`quarantine`.
    numbers_within : float, default 300
        Seconds to wait for new nodes to say which device they are; never more than the default.

    Attributes
    ----------
    ledger : Ledger
        What the exchanges have cost so far.
    exchanges : int
        How many have gone over the air so far.
    wire : Wire
        Bytes of arrays that messages to and from devices held, where they are messages.
    quarantine : Quarantine
        Who has sent what nobody can use, and who is not asked for it.
    wait : NodeWait
        How long whoever asks for nodes may wait for them.
    """

    def __init__(
        self,
        grid: Grid,
        uplink: Uplink,
        *,
        seed: int = 0,
        weighted_by_key: str = "num-examples",
        on_exchange: Callable[[Record], None] | None = None,
        trust: Trust | None = None,
        numbers_within: float = QUERY_TIMEOUT,
    ) -> None:
        self.grid = grid
        self.uplink = uplink
        self.seed = seed
        self.weighted_by_key = weighted_by_key
        self.trust = trust or Trust()
        self.wait = NodeWait()
        self.exchanges = 0
        self._devices = Devices(grid, self.trust, weighted_by_key, numbers_within)
        self._books = Books(self._devices, on_exchange)
        self._experience = Experience()
        self.ledger = self._books.ledger
        self.wire = self._devices.wire
        self.quarantine = self._devices.quarantine

    @property
    def wall_train(self) -> float:
        """Seconds that this process has waited for devices."""
        return self._books.wall_train

    @property
    def wall_uplink(self) -> float:
        """Seconds that this process has worked on the uplink."""
        return self._books.wall_uplink

    # What the wrapped grid does as well as we could.

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The wrapped grid's nodes."""
        return self.grid.get_nodes()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies from the wrapped grid."""
        return self.grid.pull_messages(message_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages that do not go over the air.

        Raises
        ------
        RuntimeError
            For training messages: what many devices send at once can only be heard by :meth:`send_and_receive`.
        """
        messages = list(messages)
        if any(goes_over_the_air(m) for m in messages):
            raise RuntimeError(
                "AirGrid.push_messages: training messages go over the air, where all devices of an exchange send at "
                "once; use send_and_receive"
            )
        return self.grid.push_messages(messages)

    # What the air adds.

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs between two rounds, with the states of devices that live in this process."""
        devices = self.grid.device_states() if isinstance(self.grid, KeepsDeviceStates) else None
        return {
            "exchanges": self.exchanges,
            "ledger": self.ledger.state(),
            "wall": [self.wall_train, self.wall_uplink],
            "wire": [self.wire.down, self.wire.up],
            "experience": self._experience.state(),
            "quarantine": self.quarantine.state(),
            "uplink": state_of(self.uplink),
            "ordered": sorted(self._devices.ordered),
            "devices": None if devices is None else [[n, plain_record(devices[n])] for n in sorted(devices)],
            "reminder": None if (reminder := self._devices.reminder) is None else reminder.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Go on from a :meth:`state`; says whether devices do so too.

        Else those that keep error feedback themselves are told where it goes on, and for all others the next order is
        the first.
        """
        self.exchanges = state["exchanges"]
        self.ledger.restore(state["ledger"])
        self._books.wall_train, self._books.wall_uplink = state["wall"]
        self.wire.down, self.wire.up = state["wire"]
        self._experience.restore(state["experience"])
        self.quarantine.restore(state["quarantine"])
        restore_into(self.uplink, state["uplink"])
        if (reminder := self._devices.reminder) is not None and (kept := state.get("reminder")) is not None:
            reminder.restore(kept)
            self._devices.ordered = set(state["ordered"])
        if state["devices"] is None or not isinstance(self.grid, KeepsDeviceStates):
            return False
        self.grid.restore_device_states({number: record_of(plain) for number, plain in state["devices"]})
        self._devices.ordered = set(state["ordered"])
        return True

    def get_node_ids(self) -> list[int]:
        """Connected nodes in the order of their device numbers.

        Node ids are random in each run of Flower; device numbers (data partitions) are not. Nodes seen for the first
        time are asked for theirs; those that give none are numbered in the order of their ids.
        """
        nodes, numbers = list(self.grid.get_node_ids()), self._devices.numbers
        numbers.meet(nodes)
        self.wait.look(len(nodes), {numbers.of_node(node) for node in nodes})
        return sorted(nodes, key=numbers.of_node)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return what arrives: over the air at most one merged reply; the record names who failed."""
        messages = list(messages)
        if not messages:
            return []
        self.get_node_ids()
        if not goes_over_the_air(messages[0]):
            return ExchangeOfScalars(self._exchange(messages, timeout), self._devices, self._books).replies()
        self.exchanges += 1
        exchange = self._reachable(self._exchange(messages, timeout))
        vectors = BLOCKS_KEY in records_in(messages[0].content, ConfigRecord)
        if not exchange.messages:
            self._books.tell_of_means(exchange, Gathered(None, []), [])
            nobody = [Failure(device, reason) for device, reason in exchange.not_asked.items()]
            return self._devices.errors(messages, nobody) if vectors else []
        if isinstance(self.uplink, DigitalUplink):
            packets = ExchangeOfPackets(self.uplink, exchange, self._devices, self._books, self._experience)
            return packets.replies()
        if not isinstance(self.uplink, MeanUplink):
            raise TypeError(f"AirGrid: uplink is a {type(self.uplink).__name__}; accepted: MeanUplink, DigitalUplink")
        means = ExchangeOfMeans(self.uplink, exchange, self._devices, self._books)
        return means.of_vectors() if vectors else means.of_updates()

    def _exchange(self, messages: list[Message], timeout: float | None) -> Exchange:
        return Exchange(self.exchanges, round_of(messages[0], self.exchanges), self.seed, messages, timeout)

    def _reachable(self, exchange: Exchange) -> Exchange:
        """The exchange without the devices that are in quarantine, or that no order gets to."""
        numbers = self._devices.numbers
        lost = self.uplink.channel.unreachable(exchange.number, numbers.total, exchange.seed)
        out = {d: self.quarantine.out(d, exchange.round) for d in sorted(map(numbers.of, exchange.messages))}
        reasons = {device: reason or (UNREACHABLE if lost[device] else None) for device, reason in out.items()}
        not_asked = {device: reason for device, reason in reasons.items() if reason is not None}
        kept = [message for message in exchange.messages if numbers.of(message) not in not_asked]
        return replace(exchange, messages=kept, not_asked=not_asked)
