"""Waiting for nodes to connect, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class NodesMissing(RuntimeError):
    """Fewer nodes are connected than a round needs, and the time to wait for them is over."""


class NodeWait:
    """How many nodes are needed now, and until when they are waited for.

    Strategies wait for nodes by asking the grid again and again, Flower's own without an end. The grid that they ask
    shows this object each answer, which ends the waiting when the time is over.
    """

    def __init__(self) -> None:
        self._needed = 0
        self._timeout = 0.0
        self._deadline = float("inf")

    @contextmanager
    def needs(self, nodes: int, timeout: float) -> Iterator[None]:
        """Within it so many nodes are needed, and waited for so many seconds."""
        self._needed, self._timeout, self._deadline = nodes, timeout, time.monotonic() + timeout
        try:
            yield
        finally:
            self._needed, self._deadline = 0, float("inf")

    def look(self, connected: int, devices: Collection[int]) -> None:
        """Take in how many nodes are connected, and the numbers of their devices.

        Raises
        ------
        NodesMissing
            If they are too few and the time is over; the message names the devices that are missing.
        """
        if connected >= self._needed or time.monotonic() < self._deadline:
            return
        missing = [str(device) for device in range(self._needed) if device not in devices]
        raise NodesMissing(
            f"{connected} of {self._needed} devices are connected after {self._timeout:g} s "
            f"(engine.nodes_timeout_s); missing: {', '.join(missing[:20])}{', ...' if len(missing) > 20 else ''}"
        )
