"""When messages arrive: each device's own link, and the server's, which all of them share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedmac.clock.links import Link


class Network:
    r"""A star: devices around a server whose link is a queue each way, first come, first served.

    A message of b bits alone on its way takes :math:`\ell + b / \min(r, C)`, with the device's rate r and latency
    :math:`\ell`, and C the server's rate; it occupies the server's link for b / C, so that p messages that come at once
    are all there only after p b / C. On a shared medium (a Wi-Fi cell, a cellular carrier in turns) a message occupies
    the one medium for b / r, whichever way it goes.

    Parameters
    ----------
    links : sequence of Link
        One for each device.
    server_bps : float, default infinite
        C, bit/s, > 0; without meaning on a shared medium.
    shared_medium : bool, default False
        As above.

    Raises
    ------
    ValueError
        If C is not positive.
    """

    def __init__(self, links: Sequence[Link], server_bps: float = math.inf, *, shared_medium: bool = False) -> None:
        if not server_bps > 0:
            raise ValueError(f"server_bps = {server_bps!r}: accepted: a number > 0 (bit/s)")
        self.links = list(links)
        self.server_bps = server_bps
        self.shared_medium = shared_medium
        self._egress_free = 0.0
        self._ingress_free = 0.0

    def send(self, device: int, bits: float, now: float) -> float:
        """Let the server send to `device`; when the message is there (s). Calls come in the order of `now`."""
        link = self.links[device]
        own = bits / link.down_bps
        occupied = own if self.shared_medium else bits / self.server_bps
        begin = max(now, self._egress_free)
        self._egress_free = begin + occupied
        if self.shared_medium:
            self._ingress_free = self._egress_free
        return begin + max(own, occupied) + link.latency_s

    def offered(self, device: int, bits: float, ready: float) -> float:
        """When a message that `device` begins to send at `ready` stands before the server's link (s).

        With a device slower than the server that is so much later that the message's last bit is the first to wait.
        """
        if self.shared_medium:
            return ready
        link = self.links[device]
        return ready + link.latency_s + max(0.0, bits / link.up_bps - bits / self.server_bps)

    def receive(self, device: int, bits: float, offered: float) -> float:
        """Let the server take in a message; when it is there (s). Calls come in the order of `offered`."""
        link = self.links[device]
        begin = max(offered, self._ingress_free)
        self._ingress_free = begin + bits / (link.up_bps if self.shared_medium else self.server_bps)
        if not self.shared_medium:
            return self._ingress_free
        self._egress_free = self._ingress_free
        return self._ingress_free + link.latency_s

    def send_seconds(self, device: int, bits: float) -> float:
        """How long the device itself sends (s)."""
        return bits / self.links[device].up_bps

    def receive_seconds(self, device: int, bits: float) -> float:
        """How long the device itself receives (s), until the message is there."""
        return bits / self.links[device].down_bps

    def joules(self, device: int, *, sent: float = 0.0, received: float = 0.0) -> float:
        """What the device's interface draws for so many bits each way (J)."""
        link = self.links[device]
        return link.send_watts * sent / link.up_bps + link.receive_watts * received / link.down_bps

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {"egress": self._egress_free, "ingress": self._ingress_free}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._egress_free, self._ingress_free = state["egress"], state["ingress"]
