"""What is going to happen, in the order in which it does."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

Event = tuple[float, int, int, int, int]
"""Time (s), device, sequence number, kind, subject."""


class EventQueue:
    """Events by time; equal times break by device, then in the order in which they were put in.

    A heap of tuples, and nothing that runs: the whole future of a simulation is plain values, so that a run that was
    killed goes on with the same events. (Processes as in simpy are Python generators, which no file can hold, and
    break equal times by the order in which they were started.)
    """

    def __init__(self) -> None:
        self._heap: list[Event] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_time(self) -> float:
        """When the next event happens (s); infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def put(self, time: float, device: int, kind: int, subject: int) -> None:
        """Let something happen to `subject` of `device` at `time`."""
        self._sequence += 1
        heapq.heappush(self._heap, (time, device, self._sequence, kind, subject))

    def pop(self) -> Event:
        """Take the next event out."""
        return heapq.heappop(self._heap)

    def state(self) -> dict[str, object]:
        """All that :meth:`restore` needs."""
        return {"sequence": self._sequence, "events": [list(event) for event in sorted(self._heap)]}

    def restore(self, sequence: int, events: Sequence[Sequence[float]]) -> None:
        """Go on from a :meth:`state`."""
        self._sequence = sequence
        self._heap = [
            (float(time), int(device), int(number), int(kind), int(subject))
            for time, device, number, kind, subject in events
        ]  # sorted, and so a heap
