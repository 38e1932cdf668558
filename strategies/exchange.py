"""One exchange, before anybody has answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message


@dataclass(frozen=True)
class Exchange:
    """What the server asks in one exchange.

    Attributes
    ----------
    number : int
        How many have gone over the air so far, this one included if it does.
    round : int
        The round it belongs to.
    seed : int
        Of the run.
    messages : list of Message
        To the devices that are asked.
    timeout : float or None
        Seconds to wait for their replies.
    not_asked : mapping of int to str
        The devices that are not, and why.
    """

    number: int
    round: int
    seed: int
    messages: list[Message]
    timeout: float | None = None
    not_asked: Mapping[int, str] = field(default_factory=dict)
