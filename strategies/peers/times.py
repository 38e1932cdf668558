"""How long peers compute and how long their messages take, in a simulation, and what goes wrong."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class PeerTimes(ABC):
    """Where a simulation's seconds come from; by default nothing goes wrong, and nothing is noted.

    Attributes
    ----------
    queues_at_receiver : bool
        Whether messages wait for each other before their receiver, so that :meth:`receive` is asked when one is there.
    """

    queues_at_receiver: bool = False

    @abstractmethod
    def begin_step(self, peer: int, step: int, now: float) -> float:
        """Let a peer begin to compute its `step`, counted from 1; when it is done (s), infinity for never."""

    @abstractmethod
    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """Let a peer send; when the message stands before its receiver (s). Calls come in the order of `now`."""

    def receive(self, to: int, source: int, bits: int, offered: float) -> float:
        """Let a peer take a message in; when it is there (s). Calls come in the order of `offered`."""
        return offered

    def end_step(self, peer: int, now: float) -> None:  # noqa: B027 nothing to do is a default
        """What a peer computes is done, or is cut short."""

    def carried(self, source: int, to: int | None, bits: int, begun: float, now: float) -> None:  # noqa: B027 nothing to do is a default
        """A message sent at `begun` has come to its end; `to` is None if its receiver is gone."""

    def is_lost(self, source: int, to: int) -> bool:
        """Whether the message that is being sent is lost on its way; called once for each."""
        return False

    def there(self, peer: int, now: float) -> bool:
        """Whether a peer is connected."""
        return True

    def next_change(self, peer: int, now: float) -> float:
        """When a peer may come or go next, after `now` (s); infinity for never."""
        return math.inf

    def left(self, peer: int, now: float) -> None:  # noqa: B027 nothing to do is a default
        """A peer has gone, or is not there yet."""

    def came(self, peer: int, now: float) -> None:  # noqa: B027 nothing to do is a default
        """A peer has come back, or joined."""

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 nothing to do is a default
        """Go on from a :meth:`state`."""


class NoTime(PeerTimes):
    """Everything happens at once."""

    def begin_step(self, peer: int, step: int, now: float) -> float:
        """At `now`."""
        return now

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """At `now`."""
        return now


class RateMatrix(PeerTimes):
    r"""Links from peer to peer: a message of b bits from i to j takes :math:`\ell + b / r_{ij}`.

    A peer sends one message after the other: each occupies it for :math:`b / r_{ij}`.

    Parameters
    ----------
    rates_bps : array_like of shape (p, p)
        r, bit/s, > 0; its diagonal is of no account.
    latency_s : float
        ell, one way, s, >= 0.
    step_seconds : callable
        How long a peer, by its number, computes in a step (s).

    Raises
    ------
    ValueError
        If the matrix is not square, or a value is out of range.
    """

    def __init__(self, rates_bps: ArrayLike, latency_s: float, step_seconds: Callable[[int, int], float]) -> None:
        rates = np.array(rates_bps, dtype=float)
        if rates.ndim != 2 or rates.shape[0] != rates.shape[1]:
            raise ValueError(f"rates_bps has shape {rates.shape}: accepted: (p, p), from each peer to each")
        np.fill_diagonal(rates, math.inf)
        slow = np.argwhere(~(rates > 0))
        if len(slow):
            i, j = slow[0]
            raise ValueError(f"rates_bps[{i}, {j}] = {rates[i, j]}: accepted: a number > 0 (bit/s)")
        if not 0 <= latency_s < math.inf:
            raise ValueError(f"latency_s = {latency_s!r}: accepted: a finite number >= 0 (s)")
        self.rates_bps = rates
        self.latency_s = latency_s
        self._step_seconds = step_seconds
        self._free = [0.0] * len(rates)

    def begin_step(self, peer: int, step: int, now: float) -> float:
        """After the peer's own seconds."""
        return now + self._step_seconds(peer, step)

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """After what the peer sends already."""
        self._free[source] = max(now, self._free[source]) + bits / float(self.rates_bps[source, to])
        return self._free[source] + self.latency_s

    def state(self) -> dict[str, Any]:
        """Until when each peer sends."""
        return {"free": list(self._free)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._free = list(state["free"])
