"""One reply after the other, in simulated time or in real time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection

from flwr.app import Message
from flwr.serverapp import Grid

from strategies.systems.timed import TimedGrid

POLL_SECONDS = 0.1
"""Between two looks for replies on a grid without a clock of its own."""

LOOK_SECONDS = 5.0
"""Between two looks at who is connected there."""


class Mailbox:
    """Where replies arrive, on any Grid.

    On a :class:`~strategies.systems.timed.TimedGrid` time is simulated and passes in :meth:`next`. On others it is
    the wall's, replies are asked for again and again, and who is connected is looked up now and then.

    Parameters
    ----------
    grid : Grid
        Reaches the workers.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.timed = grid if isinstance(grid, TimedGrid) else None
        self._came: deque[Message] = deque()
        self._start = time.monotonic()
        self._looked = -math.inf
        self._changes = -1

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.timed.now if self.timed is not None else time.monotonic() - self._start

    def go_on_at(self, seconds: float) -> None:
        """Let time go on from here where it is real; a simulated clock has its own state."""
        self._start, self._looked = time.monotonic() - seconds, -math.inf

    def next(self, waiting: Collection[str], until: float) -> Message | None:
        """The next reply to one of the messages `waiting`; None at `until`, or when it is time to look who is there.

        Raises
        ------
        Standstill
            If the grid knows that nothing will come any more.
        """
        if self.timed is not None:
            return self.timed.next_reply(until)
        if self._came:
            return self._came.popleft()
        while True:
            self._came.extend(self.grid.pull_messages(list(waiting)) if waiting else ())
            if self._came:
                return self._came.popleft()
            now = self.now
            if now >= until or now >= self._looked + LOOK_SECONDS:
                return None
            time.sleep(min(POLL_SECONDS, until - now))

    def look_again(self) -> None:
        """Let the next call of :meth:`nodes` look, however short ago the last one did."""
        self._looked = -math.inf

    def nodes(self) -> frozenset[int] | None:
        """Who is connected; None if nobody has come or gone since the last call, as far as is known."""
        if self.timed is not None:
            if self._changes == self.timed.changes:
                return None
            self._changes = self.timed.changes
        elif self.now < self._looked + LOOK_SECONDS:
            return None
        else:
            self._looked = self.now
        return frozenset(self.grid.get_node_ids())
