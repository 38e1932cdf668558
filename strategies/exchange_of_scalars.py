"""An exchange over the control channel: devices answer with a few numbers each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType

from channel.order import SCALARS_KEY
from channel.records import records_in
from strategies.air_messages import failure_of, kind_of, scalars_of
from strategies.believed_weights import cap_replies
from strategies.books import Books
from strategies.devices import Devices
from strategies.exchange import Exchange
from strategies.received import Metrics, read_metrics, read_weight
from strategies.refusal import NO_REPLY, BadPayload, Failure


@dataclass(frozen=True)
class ExchangeOfScalars:
    """Messages whose replies take the reliable control channel, each on its own; devices in quarantine are not asked.

    Attributes
    ----------
    exchange : Exchange
        What is asked, before anybody is left out.
    devices : Devices
        Who is asked.
    books : Books
        Where answers to queries are charged.
    """

    exchange: Exchange
    devices: Devices
    books: Books

    def replies(self) -> list[Message]:
        """The replies that are of use, and errors in place of the others."""
        messages, number = self.exchange.messages, self.devices.numbers.of
        out = {number(m): self.devices.quarantine.out(number(m), self.exchange.round) for m in messages}
        asked = [message for message in messages if out[number(message)] is None]
        answers = self.devices.answers(asked, self.exchange.timeout) if asked else {}
        good, failures = self._sift(out, answers)
        cap_replies(good.values(), self.devices.weighted_by_key, self.devices.trust)
        self.devices.judge(self.exchange.round, answers.items(), failures)
        if kind_of(messages[0]) == MessageType.QUERY:
            used = {device: reply for device, (reply, _) in good.items()}
            self.books.tell_of_scalars(self.exchange.round, used, failures)
        # Of who does not answer Flower's grids say nothing, and neither does this one.
        errors = self.devices.errors(messages, [failure for failure in failures if failure.kind != NO_REPLY])
        return [reply for reply, _ in good.values()] + errors

    def _sift(
        self, out: Mapping[int, str | None], answers: Mapping[int, Message]
    ) -> tuple[dict[int, tuple[Message, Metrics]], list[Failure]]:
        """Replies of use by device, with their metrics, and who else was to answer."""
        good: dict[int, tuple[Message, Metrics]] = {}
        failures: list[Failure] = []
        for message in self.exchange.messages:
            device = self.devices.numbers.of(message)
            reason, reply = out[device], answers.get(device)
            if reason is not None:
                failures.append(Failure(device, reason))
            elif reply is None or reply.has_error():
                failures.append(failure_of(device, reply))
            else:
                try:
                    good[device] = (reply, self._read(message, reply))
                except BadPayload as bad:
                    failures.append(Failure(device, str(bad), bad.kind))
        return good, failures

    def _read(self, message: Message, reply: Message) -> Metrics:
        """The metrics of a reply as far as it is known what they must be; else none."""
        if SCALARS_KEY not in records_in(message.content, ConfigRecord) and kind_of(message) != MessageType.EVALUATE:
            return {}
        metrics = read_metrics(reply, scalars_of(message))
        read_weight(metrics, self.devices.weighted_by_key)
        return metrics
