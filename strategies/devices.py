"""The devices as the server reaches them: by message."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from channel.order import ANEW, ORDER_KEY, PacketOrder, TransmitOrder
from strategies.air_messages import is_for_bad_bytes
from strategies.cohort import CohortGrid, Gathered
from strategies.device_numbers import QUERY_TIMEOUT, DeviceNumbers
from strategies.device_states import KeepsDeviceStates
from strategies.quarantine import Quarantine
from strategies.refusal import Failure
from strategies.reminder import Reminder
from strategies.replies import matched
from strategies.trust import Trust
from strategies.wire import Wire

Answers = list[tuple[int, Message | None]]
"""The devices asked, in the order of their numbers, each with its reply."""


class Devices:
    """Sends messages to devices, and knows their replies by device number.

    Parameters
    ----------
    grid : Grid
        Reaches them.
    trust : Trust
        How far they are believed.
    weighted_by_key : str
        Metric that holds a device's aggregation weight.
    numbers_within : float, default 300
        Seconds to wait for nodes to say which device they are, as of :class:`~strategies.device_numbers.DeviceNumbers`.

    Attributes
    ----------
    numbers : DeviceNumbers
        Which device is at which node.
    quarantine : Quarantine
        Who has sent what nobody can use, and who is not asked for it.
    wire : Wire
        Bytes of arrays that messages held so far.
    ordered : set of int
        Devices that have answered an order.
    reminder : Reminder or None
        What devices are told of what they keep themselves; None where the grid keeps it.
    """

    def __init__(self, grid: Grid, trust: Trust, weighted_by_key: str, numbers_within: float = QUERY_TIMEOUT) -> None:
        self.grid = grid
        self.trust = trust
        self.weighted_by_key = weighted_by_key
        self.numbers = DeviceNumbers(grid, trust, numbers_within)
        self.quarantine = Quarantine(trust)
        self.wire = Wire()
        self.ordered: set[int] = set()
        self.reminder = None if isinstance(grid, KeepsDeviceStates) else Reminder()

    def ask(self, messages: list[Message], order: TransmitOrder | PacketOrder, timeout: float | None) -> Answers:
        """Send messages with an order; a device that has answered none before is told to begin anew."""
        common = order.to_config()
        if self.reminder is not None:
            self.reminder.next()
        for message in messages:
            device = self.numbers.of(message)
            kept = {} if self.reminder is None else self.reminder.words(device)
            own = ConfigRecord({**common, **order.own(device), **kept, ANEW: device not in self.ordered})
            message.content = RecordDict({**message.content, ORDER_KEY: own})  # models stay shared
        answered = self.answers(messages, timeout)
        heard = {device for device, reply in answered.items() if reply.has_content()}
        self.ordered |= heard
        if self.reminder is not None:
            self.reminder.answered(heard)
        asked = [self.numbers.of(message) for message in messages]
        return [(device, answered.get(device)) for device in sorted(asked)]

    def answers(self, messages: list[Message], timeout: float | None) -> dict[int, Message]:
        """The replies to messages by device; what belongs to none of them is counted."""
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        if not isinstance(self.grid, CohortGrid):
            self.wire.count(messages, replies)
        found = matched(messages, replies)
        self.quarantine.note_strays(found.strays)
        device_of = {message.metadata.message_id: self.numbers.of(message) for message in messages}
        return {device_of[asked]: reply for asked, reply in found.of.items()}

    def judge(self, round: int, answers: Iterable[tuple[int, Message | None]], failures: Sequence[Failure]) -> None:
        """Count what was bad of an exchange's answers."""
        answered = sum(reply is not None and (reply.has_content() or is_for_bad_bytes(reply)) for _, reply in answers)
        self.quarantine.note(round, answered, failures)

    def judge_cohort(self, round: int, gathered: Gathered) -> None:
        """Count what was bad of devices that trained in place."""
        good = 0 if gathered.cohort is None else len(gathered.cohort.devices)
        answered = good + sum(failure.bad for failure in gathered.failures)
        self.quarantine.note(round, answered, gathered.failures)

    def errors(self, messages: Sequence[Message], failures: Iterable[Failure]) -> list[Message]:
        """Why nothing is heard of the devices that failed: an error in place of each one's reply."""
        reasons = {failure.device: failure.reason for failure in failures}
        return [
            Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reasons[device]), reply_to=message)
            for message in messages
            if (device := self.numbers.of(message)) in reasons
        ]
