"""Which reply belongs to which message, whatever arrives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

UNASKED, DUPLICATE, OF_ANOTHER, EMPTY = "unasked", "duplicate", "of-another", "empty"
"""Strays: to no message of the exchange (late, or made up), a second one, from a node that was not asked, or neither
content nor error."""


@dataclass(frozen=True)
class Matched:
    """The replies of an exchange.

    Attributes
    ----------
    of : dict of str to Message
        By the id of the message that each answers.
    strays : list of str
        The kind of each reply that answers none.
    """

    of: dict[str, Message] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)


def matched(messages: Sequence[Message], replies: Iterable[Message]) -> Matched:
    """Match replies to the messages of an exchange: the first to each, from the node that it was sent to.

    An error may come from anyone: of a node that is gone the SuperLink speaks.
    """
    node_of = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    found = Matched()
    for reply in replies:
        asked = reply.metadata.reply_to_message_id
        if asked not in node_of:
            found.strays.append(UNASKED)
        elif reply.has_content() and reply.metadata.src_node_id != node_of[asked]:
            found.strays.append(OF_ANOTHER)
        elif not reply.has_content() and not reply.has_error():
            found.strays.append(EMPTY)
        elif asked in found.of:
            found.strays.append(DUPLICATE)
        else:
            found.of[asked] = reply
    return found
