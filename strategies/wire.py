"""What messages to and from devices weigh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from channel.records import records_in


@dataclass
class Wire:
    """Bytes of the arrays in messages so far: models on the way down, symbols, packets or vectors on the way up.

    They are those of the emulation on a real network, not of the radio: a device's symbols are numbers here. What
    Flower adds to a message (kilobytes), and TLS, is not in them.
    """

    down: int = 0
    up: int = 0

    def count(self, sent: Iterable[Message], received: Iterable[Message]) -> None:
        """Add the messages of an exchange, whatever is in them."""
        self.down += _payload(sent)
        self.up += _payload(received)

    def figures(self) -> dict[str, int]:
        """For the record; nothing where there were no messages."""
        return {"wire_down_bytes": self.down, "wire_up_bytes": self.up} if self.down or self.up else {}


def _payload(messages: Iterable[Message]) -> int:
    records = (record for m in messages if m.has_content() for record in records_in(m.content, ArrayRecord).values())
    return sum(len(array.data) for record in records for array in record.values())
