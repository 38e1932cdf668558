"""How devices find what they kept on their own disks again, when a run goes on from a checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Any

from channel.order import KEPT_AFTER, KEPT_NUMBER, KEPT_RUN, KEPT_SAFE


class Reminder:
    """Numbers a run's orders, and tells each device which of what it kept to go on with.

    What a device keeps (the residual of error feedback) never leaves it, and lives in Flower's run, which a crash of
    the server ends. So a device also writes it down, by the run's name and the order's number; after a crash it is
    told the number that the checkpoint stands for. What it kept before is never asked for again.

    Attributes
    ----------
    run : str
        Name of the run, 32 hexadecimal digits: nobody else's.
    number : int
        Of the last order.
    """

    def __init__(self) -> None:
        self.run = secrets.token_hex(16)
        self.number = 0
        self._safe = 0
        self._after: int | None = None
        self._told: set[int] = set()

    def next(self) -> None:
        """Another exchange begins."""
        self.number += 1

    def words(self, device: int) -> dict[str, str | int]:
        """What the order of a device says of it."""
        words: dict[str, str | int] = {KEPT_RUN: self.run, KEPT_NUMBER: self.number, KEPT_SAFE: self._safe}
        if self._after is not None and device not in self._told:
            words[KEPT_AFTER] = self._after
        return words

    def answered(self, devices: Collection[int]) -> None:
        """These devices have got their orders, and know where they are."""
        self._told.update(devices)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, which must be in place before the next order goes out."""
        self._safe = self.number
        return {"run": self.run, "number": self.number}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.run, self.number = state["run"], state["number"]
        self._safe = self._after = self.number
        self._told.clear()
