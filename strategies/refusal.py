"""Why a device is not heard: what it sent cannot be used, or it sent nothing."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass

NO_REPLY, ERROR, LOST = "no-reply", "error", "lost"
"""Kinds of failures that say nothing bad of a device: it did not answer, its app raised, its packet did not arrive."""

BAD_KINDS = frozenset(
    {
        "missing",  # records, arrays or metrics that were asked for
        "unreadable",  # bytes that are no array
        "length",  # more bytes than what was asked for can take
        "dtype",
        "shape",
        "not-finite",
        "power",  # symbols of more power than a device may have
        "norm",
        "weight",
        "metrics",
        "seed",  # made for another exchange
        "packet",  # bytes that no codec made
    }
)  # fmt: skip
"""Kinds of failures that a device brings about by what it sends."""

UNREADABLE_REPLY = 1000
"""Code of the error in the place of a reply whose bytes make no message; none of Flower's own."""

OVERLONG_REPLY = 1001
"""Code of the error in the place of a reply that was too long to be fetched; none of Flower's own."""

LONGEST_REASON = 600
"""Characters of what is recorded of a failure, of which a device may choose any."""

_BEGINNING = 200


class BadPayload(ValueError):
    """A reply that cannot be added to the sum; the message says why.

    Parameters
    ----------
    reason : str
        For people.
    kind : str
        One of :data:`BAD_KINDS`, to be counted by.
    """

    def __init__(self, reason: str, kind: str = "missing") -> None:
        super().__init__(said(reason))
        self.kind = kind


@dataclass(frozen=True)
class Failure:
    """A device that was asked and did not send, and why.

    Attributes
    ----------
    device : int
        Its number.
    reason : str
        For people.
    kind : str
        One of :data:`BAD_KINDS`, ``no-reply``, ``error`` or ``lost``.
    """

    device: int
    reason: str
    kind: str = ERROR

    @property
    def bad(self) -> bool:
        """Whether the device sent what nobody can use."""
        return self.kind in BAD_KINDS


def said(text: str) -> str:
    """What a device says, as it may go into a record and onto a terminal: short, and only characters that print.

    Of a long text the beginning and the end, where a traceback says what was raised.
    """
    if len(text) > LONGEST_REASON:
        text = f"{text[:_BEGINNING]} … {text[_BEGINNING + 3 - LONGEST_REASON :]}"
    return "".join(c if c.isprintable() else " " for c in text)


def shown(value: object) -> str:
    """A value that a device made up, for a message: its beginning and end, whatever it is."""
    try:
        return reprlib.repr(value)
    except Exception as error:  # an integer of too many digits to be written
        return f"{type(value).__name__} ({type(error).__name__})"
