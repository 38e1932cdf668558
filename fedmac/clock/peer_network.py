"""When messages between devices arrive: by way of the access point, the switch or the base station, or directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedmac.clock.links import Link


class PeerNetwork:
    r"""Links of peers that send to each other.

    A message of b bits from i to j goes up i's link and down j's, each of which takes one message after the other:
    alone it takes :math:`\ell_{ij} + b / \min(r^\uparrow_i, r^\downarrow_j)`. On a shared medium it occupies the one
    medium for :math:`b / r^\uparrow_i + b / r^\downarrow_j`, up to the access point and down again. With direct links
    it occupies sender and receiver, or the medium, once, for :math:`b / r_{ij}`. A server, peer p of p + 1, has its own
    rate both ways; on a shared medium it is behind the access point, and a message to or from it goes through the air
    once.

    Parameters
    ----------
    links : sequence of Link
        Of the p devices.
    server_bps : float
        Of the server's link, bit/s, > 0.
    shared_medium : bool
        As above.
    latency_s : float
        From one device to another (s); to and from the server it is the link's.
    direct_bps : float or array of shape (p, p), optional
        r, of direct links between devices, from the row's to the column's, bit/s, > 0; the diagonal is of no account.
    direct_watts : float, optional
        What sending over a direct link draws, where receiving then draws nothing (W); without it both are the links'.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    def __init__(
        self,
        links: Sequence[Link],
        server_bps: float,
        *,
        shared_medium: bool,
        latency_s: float,
        direct_bps: ArrayLike | None = None,
        direct_watts: float | None = None,
    ) -> None:
        if not server_bps > 0:
            raise ValueError(f"server_bps = {server_bps!r}: accepted: a number > 0 (bit/s)")
        if not latency_s >= 0:
            raise ValueError(f"latency_s = {latency_s!r}: accepted: a number >= 0 (s)")
        self.links = list(links)
        self.server_bps, self.shared_medium = server_bps, shared_medium
        self.latency_s = latency_s
        self.direct_watts = direct_watts
        self._direct_bps = None if direct_bps is None else _between(direct_bps, len(self.links))
        self._medium_free = 0.0
        self._up_free = [0.0] * (len(links) + 1)
        self._down_free = [0.0] * (len(links) + 1)

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """Let a peer send; when the message stands before its receiver (s). Calls come in the order of `now`."""
        latency, up, down = self._latency(source, to), bits / self._up(source, to), bits / self._down(source, to)
        if self.shared_medium:
            self._medium_free = max(now, self._medium_free) + self._on_air(source, to, up, down)
            return self._medium_free + latency
        begin = max(now, self._up_free[source])
        self._up_free[source] = begin + up
        return begin + latency + max(0.0, up - down)

    def receive(self, to: int, source: int, bits: int, offered: float) -> float:
        """Let a peer take a message in; when it is there (s). Calls come in the order of `offered`."""
        if self.shared_medium:
            return offered
        self._down_free[to] = max(offered, self._down_free[to]) + bits / self._down(source, to)
        return self._down_free[to]

    def receive_seconds(self, to: int, source: int, bits: int) -> float:
        """How long a peer itself receives (s), until the message is there."""
        return bits / self._down(source, to)

    def joules_sent(self, source: int, to: int, bits: int) -> float:
        """What the sender's interface draws (J); 0 of a server."""
        if source == len(self.links):
            return 0.0
        watts = self.links[source].send_watts
        if self.direct_watts is not None and self._direct(source, to) is not None:
            watts = self.direct_watts
        return watts * bits / self._up(source, to)

    def joules_received(self, source: int, to: int, bits: int) -> float:
        """What the receiver's interface draws (J); 0 of a server."""
        if to == len(self.links) or (self.direct_watts is not None and self._direct(source, to) is not None):
            return 0.0
        return self.links[to].receive_watts * bits / self._down(source, to)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {"medium": self._medium_free, "up": list(self._up_free), "down": list(self._down_free)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._medium_free, self._up_free, self._down_free = state["medium"], list(state["up"]), list(state["down"])

    def _direct(self, source: int, to: int) -> float | None:
        """The rate of a direct link, where there is one."""
        if self._direct_bps is None or len(self.links) in (source, to):
            return None
        return self._direct_bps if isinstance(self._direct_bps, float) else self._direct_bps[source][to]

    def _up(self, source: int, to: int) -> float:
        """At what rate it leaves its sender."""
        if (direct := self._direct(source, to)) is not None:
            return direct
        return self.server_bps if source == len(self.links) else self.links[source].up_bps

    def _down(self, source: int, to: int) -> float:
        """At what rate it reaches its receiver."""
        if (direct := self._direct(source, to)) is not None:
            return direct
        return self.server_bps if to == len(self.links) else self.links[to].down_bps

    def _on_air(self, source: int, to: int, up: float, down: float) -> float:
        """How long it occupies a shared medium."""
        if self._direct(source, to) is not None or to == len(self.links):
            return up
        return down if source == len(self.links) else up + down

    def _latency(self, source: int, to: int) -> float:
        if to == len(self.links):
            return self.links[source].latency_s
        return self.links[to].latency_s if source == len(self.links) else self.latency_s


def _between(given: ArrayLike, devices: int) -> float | list[list[float]]:
    """One rate, or one for each pair, as plain numbers: they are asked for at every message."""
    rates = np.asarray(given, dtype=np.float64)
    if rates.shape not in ((), (devices, devices)):
        raise ValueError(f"direct_bps has shape {rates.shape}: accepted: a number, or ({devices}, {devices})")
    if not rates.ndim:
        if not rates > 0:
            raise ValueError(f"direct_bps = {float(rates)}: accepted: a number > 0 (bit/s)")
        return float(rates)
    slow = np.argwhere(~(rates > 0) & ~np.eye(devices, dtype=bool))
    if len(slow):
        i, j = slow[0]
        raise ValueError(f"direct_bps[{i}, {j}] = {rates[i, j]}: accepted: a number > 0 (bit/s)")
    return [[float(rate) for rate in row] for row in rates]
