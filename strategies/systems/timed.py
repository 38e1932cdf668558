"""What a grid with a clock of its own offers beside Flower's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from flwr.app import Message


class Standstill(RuntimeError):
    """Nothing can happen any more: no reply is on its way, and no device will come or go."""


@runtime_checkable
class TimedGrid(Protocol):
    """A grid on which time passes only while somebody waits."""

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        ...

    @property
    def changes(self) -> int:
        """How many times a device has come or gone so far."""
        ...

    def next_reply(self, until: float) -> Message | None:
        """Let time pass to the next reply, and hand it over; None at `until`, or when a device has come or gone.

        Raises
        ------
        Standstill
            If nothing is to come, and `until` is infinite.
        """
        ...
