"""A reply as it comes from a SuperLink: part by part, under an envelope, and what it turns out to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.app import Error, Message, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from strategies.refusal import OVERLONG_REPLY, UNREADABLE_REPLY, said

_ADDRESS = ("run_id", "src_node_id", "dst_node_id", "reply_to_message_id")
"""What envelope and message must agree on."""


class ReplyParts:
    """The parts of a reply that have come so far.

    Parameters
    ----------
    envelope : Metadata
        Whose reply it is and to which message, as the SuperLink has it from the device that proved who it is.
    parts : iterable of str
        Names of all parts (hashes of their content), those first that others are made of.
    most_bytes : int
        So long may all parts be together; of a reply that is longer nothing is kept and nothing more is fetched.
    """

    def __init__(self, envelope: Metadata, parts: Iterable[str], most_bytes: int) -> None:
        self.envelope = envelope
        self.most_bytes = most_bytes
        self._bytes = 0
        self.missing = list(parts)[::-1]  # fetched from the end, which costs nothing however many there are
        self._contents: dict[str, bytes] = {}

    @property
    def progress(self) -> str:
        """How much has come, in words."""
        return f"{len(self._contents)} of {len(self._contents) + len(self.missing)} parts"

    def next(self, count: int) -> list[str]:
        """Names of the parts to fetch now, so many at most."""
        return self.missing[-count:]

    def take(self, contents: Mapping[str, bytes | None]) -> None:
        """Note what came of the parts that :meth:`next` has named; None of those that are not there yet."""
        came = {part: content for part, content in contents.items() if content is not None}
        self._bytes += sum(map(len, came.values()))
        if self._bytes > self.most_bytes:
            self._contents, self.missing = {}, []
            return
        self._contents |= came
        self.missing[len(self.missing) - len(contents) :] = [part for part in contents if part not in self._contents]

    def opened(self) -> Message:
        """The message that the parts make; an error in its place if they make none.

        A device may put together by hand whatever its SuperNode should: parts of the wrong kind or without end, a
        message in somebody else's name, a gigabyte. Nothing of it raises.
        """
        if self._bytes > self.most_bytes:
            return self.failed(OVERLONG_REPLY, f"its reply is longer than {self.most_bytes} bytes")
        try:
            message = inflate_object_from_contents(self.envelope.message_id, self._contents)
            if not isinstance(message, Message):
                raise TypeError(f"a {type(message).__name__}, expected a Message")
            if message.has_content() and not isinstance(message.content, RecordDict):
                raise TypeError(f"content of type {type(message.content).__name__}, expected a RecordDict")
            for name in _ADDRESS:
                if getattr(message.metadata, name) != getattr(self.envelope, name):
                    raise ValueError(f"its {name} is not that of its envelope")
        except Exception as error:  # bytes that a device made up: whatever Flower's decoders make of them
            return self.failed(UNREADABLE_REPLY, f"its reply is no message: {type(error).__name__}: {error}")
        message.metadata.__dict__["_message_id"] = self.envelope.message_id
        return message

    def failed(self, code: int, reason: str) -> Message:
        """An error in the place of this reply."""
        return error_in_place_of(self.envelope, code, reason)


def error_in_place_of(envelope: Metadata, code: int, reason: str) -> Message:
    """An error to the message that a reply was to."""
    metadata = Metadata(
        run_id=envelope.run_id,
        message_id="",
        src_node_id=envelope.src_node_id,
        dst_node_id=envelope.dst_node_id,
        reply_to_message_id=envelope.reply_to_message_id,
        group_id="",
        created_at=now().timestamp(),
        ttl=0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    return make_message(metadata=metadata, error=Error(code, said(reason)))
