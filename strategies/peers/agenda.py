"""What is going to happen to simulated peers, in the order in which it does."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

WAKE, OFFERED, ARRIVED, LATE, CHANGED, TIMED_OUT = range(6)
"""Kinds of events: a peer goes on; a message stands before its receiver; it is there; a step takes too long; a peer may
have come or gone; a message has been waited for too long."""


class Agenda:
    """Events by time; equal times break by the peer's number, then in the order in which they were put in.

    Time-outs, of which there may be one for each message and few come true, lie in a row of their own: all are of one
    length, and so in order.

    Attributes
    ----------
    now : float
        When the last event happened (s).
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._count = 0
        self._heap: list[tuple[float, int, int, int, int]] = []
        self._limits: deque[tuple[float, int, int]] = deque()

    def put(self, time: float, peer: int, kind: int, subject: int) -> None:
        """Let something happen at `time`."""
        self._count += 1
        heapq.heappush(self._heap, (time, peer, self._count, kind, subject))

    def limit(self, time: float, peer: int, wait: int) -> None:
        """Let a peer's wait of this number end at `time`, not before those given earlier."""
        self._limits.append((time, peer, wait))

    def has(self, kind: int, peer: int) -> bool:
        """Whether something of a kind is to happen to a peer."""
        return any(event[1] == peer and event[3] == kind for event in self._heap)

    def next(self, is_on: Callable[[int, int], bool]) -> tuple[int, int, int] | None:
        """Go on to the next event: kind, peer and subject; `is_on` says whether a peer's wait of a number still is."""
        limits = self._limits
        while limits and not is_on(limits[0][1], limits[0][2]):
            limits.popleft()
        if limits and (not self._heap or limits[0][0] < self._heap[0][0]):
            self.now, peer, wait = limits.popleft()
            return TIMED_OUT, peer, wait
        if not self._heap:
            return None
        self.now, peer, _, kind, subject = heapq.heappop(self._heap)
        return kind, peer, subject

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "now": self.now,
            "count": self._count,
            "events": [list(event) for event in sorted(self._heap)],
            "limits": [list(limit) for limit in self._limits],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.now, self._count = state["now"], state["count"]
        self._heap = [(time, peer, number, kind, subject) for time, peer, number, kind, subject in state["events"]]
        self._limits = deque((time, peer, wait) for time, peer, wait in state["limits"])
