"""How long peers compute and how long their messages take, in a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike


class PeerTimes(Protocol):
    """Where a simulation's seconds come from."""

    def step_seconds(self, peer: int, step: int) -> float:
        """How long a peer computes in its `step`, counted from 1 (s)."""
        ...

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """Let a peer send; when the message is there (s), not before `now`. Calls come in the order of `now`."""
        ...


class NoTime:
    """Everything happens at once."""

    def step_seconds(self, peer: int, step: int) -> float:
        """0 s."""
        return 0.0

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """At `now`."""
        return now


class RateMatrix:
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

    def step_seconds(self, peer: int, step: int) -> float:
        """How long a peer computes in its `step` (s)."""
        return self._step_seconds(peer, step)

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """Let a peer send after what it sends already; when the message is there (s)."""
        self._free[source] = max(now, self._free[source]) + bits / float(self.rates_bps[source, to])
        return self._free[source] + self.latency_s
