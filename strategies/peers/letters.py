"""Messages on their way between simulated peers."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strategies.peers.peer import Vector


@dataclass(slots=True)
class Letter:
    """A message from one peer to another.

    Attributes
    ----------
    number : int
        In the order of sending.
    source, to : int
        Peers.
    step : int
        The sender's.
    bits : int
        Its length.
    begun : float
        When it was sent (s).
    vector : ndarray or None
        What it says; None if it is lost on its way.
    offered, there : bool
        Whether it has left its sender, and whether it has come.
    """

    number: int
    source: int
    to: int
    step: int
    bits: int
    begun: float
    vector: Vector | None
    offered: bool = False
    there: bool = False


class Letters:
    """All messages that have not been taken, by number, and by who waits for them."""

    def __init__(self) -> None:
        self.by_number: dict[int, Letter] = {}
        self._boxes: defaultdict[tuple[int, int], deque[int]] = defaultdict(deque)
        self._sent = 0

    def post(self, source: int, to: int, step: int, bits: int, begun: float, vector: Vector | None) -> Letter:
        """Put a message on its way."""
        self._sent += 1
        letter = Letter(self._sent, source, to, step, bits, begun, vector)
        self.by_number[letter.number] = letter
        self._boxes[source, to].append(letter.number)
        return letter

    def waiting(self, source: int, to: int) -> list[Letter]:
        """From one peer to another, in the order of sending."""
        return [self.by_number[number] for number in self._boxes.get((source, to), ())]

    def first(self, source: int, to: int) -> Letter | None:
        """The first of them."""
        box = self._boxes.get((source, to))
        return self.by_number[box[0]] if box else None

    def drop(self, letter: Letter) -> None:
        """Forget a message."""
        del self.by_number[letter.number]
        box = self._boxes[letter.source, letter.to]
        box.remove(letter.number)
        if not box:
            del self._boxes[letter.source, letter.to]

    def clear(self) -> None:
        """Forget all."""
        self.by_number.clear()
        self._boxes.clear()

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        letters = [
            [one.number, one.source, one.to, one.step, one.bits, one.begun, one.vector, one.offered, one.there]
            for one in self.by_number.values()
        ]
        return {"sent": self._sent, "letters": letters}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.clear()
        self._sent = state["sent"]
        for one in state["letters"]:
            letter = Letter(*one)
            self.by_number[letter.number] = letter
            self._boxes[letter.source, letter.to].append(letter.number)  # kept in the order of sending
