"""Buffered asynchronous aggregation: the model moves after every B updates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from strategies.mean_exchange import Vector
from strategies.systems.server_run import ServerRun
from strategies.systems.server_system import (
    ACCEPTED,
    REJECTED,
    Figures,
    ServerSystem,
    check_number,
    check_whole,
    staleness_weight,
)
from strategies.systems.work import Work


class FedBuff(ServerSystem):
    r"""Buffered asynchronous aggregation [1]_.

    Updates are collected, and after every B of them

    .. math:: x \leftarrow x + \frac{\eta}{B} \sum_{i=1}^{B} c(s_i)\, \Delta_i, \qquad c(s) = (1 + s)^{-q},

    with staleness counted in moves of the model. B = 1 is the asynchronous server. A worker that has sent gets the
    present model at once, unless so many train already. A round is p arrivals, whatever B is.

    Parameters
    ----------
    server_learning_rate : float, default 1
        eta.
    buffer : int, default 10
        B >= 1.
    staleness_exponent : float, default 0.5
        q >= 0; 1/2 in [1]_.
    largest_staleness : int, default infinite
        Staler updates are rejected.
    concurrency : int, default infinite
        M of [1]_, how many workers train at a time, >= 1. There they are drawn at random; here whoever has waited
        longest gets the model when one has answered, so that all have equal turns.
    devices : int, optional
        p.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] J. Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022,
       arXiv:2106.06639.
    """

    def __init__(
        self,
        server_learning_rate: float = 1.0,
        buffer: int = 10,
        staleness_exponent: float = 0.5,
        largest_staleness: float = math.inf,
        concurrency: float = math.inf,
        devices: int | None = None,
    ) -> None:
        super().__init__(server_learning_rate, devices)
        check_whole("buffer", buffer, 1)
        check_number("staleness_exponent", staleness_exponent)
        check_whole("largest_staleness", largest_staleness, 0, infinite=True)
        check_whole("concurrency", concurrency, 1, infinite=True)
        self.buffer = int(buffer)
        self.staleness_exponent = staleness_exponent
        self.largest_staleness = largest_staleness
        self.concurrency = concurrency
        self._sum: Vector | None = None
        self._held = 0

    def begin(self, run: ServerRun) -> None:
        """An empty buffer."""
        self._sum, self._held = None, 0

    def receive(self, run: ServerRun, work: Work, update: Vector) -> str:
        """Into the buffer, unless it is too stale; a step if the buffer is full."""
        staleness = run.version - work.version
        if staleness > self.largest_staleness:
            return REJECTED
        weighted = staleness_weight(staleness, self.staleness_exponent) * update.astype(np.float64)
        self._sum = weighted if self._sum is None else self._sum + weighted
        self._held += 1
        if self._held == self.buffer:
            run.x = (run.x + self.server_learning_rate / self.buffer * self._sum).astype(run.x.dtype)
            run.version += 1
            self._sum, self._held = None, 0
        return ACCEPTED

    def figures(self, run: ServerRun) -> Figures:
        """How many updates wait in the buffer."""
        return {"buffered": self._held}

    def memory(self) -> dict[str, Any]:
        """The buffer."""
        return {"sum": self._sum, "held": self._held}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from a :meth:`memory`."""
        self._sum = None if memory["sum"] is None else memory["sum"].copy()
        self._held = memory["held"]

    def begin_anew(self, memory: Mapping[str, Any]) -> bool:
        """The buffer holds updates, whoever sent them."""
        self.remember(memory)
        return True
