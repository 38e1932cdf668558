"""Devices that are heard only if they have trained by the deadline of their exchange."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import ArrayRecord, Message, MessageType, RecordDict

from fedmac.clock.exchange_clock import ExchangeClock
from fedmac.engines.lanes import FIRST_NODE
from fedmac.engines.local import LocalGrid
from strategies.cohort import BELIEVING, CohortGrid, Gathered
from strategies.refusal import NO_REPLY, Failure
from strategies.trust import Trust
from strategies.wrapped_grid import WrappedGrid


class PunctualGrid(WrappedGrid, CohortGrid):
    """The local engine's devices on an :class:`~fedmac.clock.exchange_clock.ExchangeClock` with a deadline.

    Who would train for longer does not answer; what it has computed by then is charged by the clock. Its training is
    not simulated, so what it keeps from message to message stays as it was.

    Parameters
    ----------
    grid : LocalGrid
        The devices.
    clock : ExchangeClock
        Says who is late in the exchange to come.
    """

    grid: LocalGrid

    def __init__(self, grid: LocalGrid, clock: ExchangeClock) -> None:
        self.grid = grid
        self.clock = clock

    def get_node_ids(self) -> list[int]:
        """One node for each device."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let each addressed device that is not late handle its message."""
        return self.grid.push_messages([message for message in messages if not self._comes_too_late(message)])

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to messages pushed before."""
        return self.grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Handle messages and return the replies of devices that are not late."""
        return self.pull_messages(self.push_messages(messages))

    def train_cohort(
        self, messages: list[Message], weighted_by_key: str, keep_updates: bool, trust: Trust = BELIEVING
    ) -> Gathered:
        """Train the addressed devices that are not late; see :class:`strategies.cohort.CohortGrid`."""
        late = [message.metadata.dst_node_id - FIRST_NODE for message in messages if self._comes_too_late(message)]
        there = [message for message in messages if message.metadata.dst_node_id - FIRST_NODE not in late]
        gathered = Gathered(None, [])
        if there:
            gathered = self.grid.train_cohort(there, weighted_by_key, keep_updates, trust)
        reason = f"no reply by the deadline of {self.clock.deadline:g} s"
        gathered.failures += [Failure(device, reason, NO_REPLY) for device in sorted(late)]
        return gathered

    def device_states(self) -> dict[int, RecordDict]:
        """What each device keeps, by number."""
        return self.grid.device_states()

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let devices go on with these."""
        self.grid.restore_device_states(states)

    def _comes_too_late(self, message: Message) -> bool:
        """Whether it is a message to train (not one that asks the node who it is), and its device late."""
        if not message.metadata.message_type.startswith(MessageType.TRAIN):
            return False
        trains = any(isinstance(record, ArrayRecord) for record in message.content.values())
        return trains and self.clock.is_late(message.metadata.dst_node_id - FIRST_NODE)
