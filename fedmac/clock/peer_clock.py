"""The simulated clock of peers: what computing and sending take on the devices and links of a scenario."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedmac.clock.clocked_grid import Span
from fedmac.clock.faults import Faults
from fedmac.clock.fleet import Fleet
from fedmac.clock.peer_network import PeerNetwork
from fedmac.clock.usage import Usage, UsageNow, usage_now
from strategies.peers.times import PeerTimes


class PeerClock(PeerTimes):
    """Time, energy and faults of devices that are peers; one more peer than devices is a server.

    Steps and messages have the draws of those of a server's workers: step n of a device takes as long as there. A
    server computes nothing, costs nothing and never goes.

    Parameters
    ----------
    fleet : Fleet
        How fast devices compute.
    network : PeerNetwork
        How they reach each other.
    flops : callable
        FLOPs of a step of a device, by its number.
    faults : Faults
        What goes wrong.
    on_span : callable, optional
        Called with each span of a device's time when it is over.
    """

    def __init__(
        self,
        fleet: Fleet,
        network: PeerNetwork,
        flops: Callable[[int], float],
        faults: Faults,
        on_span: Callable[[Span], None] | None = None,
    ) -> None:
        self.fleet, self.network, self.flops, self.faults, self.on_span = fleet, network, flops, faults, on_span
        self.queues_at_receiver = not network.shared_medium
        self.usage = Usage(len(fleet))
        self._steps = [0] * len(fleet)
        self._messages = [0] * (len(fleet) + 1)
        self._at_work: dict[int, tuple[float, float, float]] = {}
        self._gone_since: dict[int, float] = {}

    def begin_step(self, peer: int, step: int, now: float) -> float:
        """After what profile, jitter, stragglers and hangs make of it."""
        count = self._steps[peer]
        self._steps[peer] += 1
        flops = self.flops(peer)
        busy = self.fleet.seconds(peer, count, flops)
        watts = self.fleet.joules(peer, flops, busy) / busy if busy else 0.0
        self._at_work[peer] = (now, busy, watts)
        return now + busy + self.faults.hang_seconds(peer, count, now, now + busy)

    def end_step(self, peer: int, now: float) -> None:
        """Charge it, as far as it has come."""
        begun, busy, watts = self._at_work.pop(peer)
        busy = min(busy, now - begun)
        self.usage.busy_s[peer] += busy
        self.usage.compute_j[peer] += watts * busy
        if self.on_span is not None and busy:
            self.on_span((peer, "compute", begun, begun + busy))

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        """Over the network."""
        return self.network.send(source, to, bits, now)

    def receive(self, to: int, source: int, bits: int, offered: float) -> float:
        """From the network."""
        return self.network.receive(to, source, bits, offered)

    def carried(self, source: int, to: int | None, bits: int, begun: float, now: float) -> None:
        """Charge the sender, and the receiver if it is there."""
        other = source if to is None else to  # two devices, if the receiver is gone
        if source < len(self.fleet):
            self.usage.bits_up[source] += bits
            self.usage.radio_j[source] += self.network.joules_sent(source, other, bits)
            if self.on_span is not None:
                self.on_span((source, "send", begun, now))
        if to is not None and to < len(self.fleet):
            self.usage.bits_down[to] += bits
            self.usage.radio_j[to] += self.network.joules_received(source, to, bits)
            if self.on_span is not None and (seconds := self.network.receive_seconds(to, source, bits)):
                self.on_span((to, "receive", now - seconds, now))

    def is_lost(self, source: int, to: int) -> bool:
        """By the scenario's probability."""
        count = self._messages[source]
        self._messages[source] += 1
        return self.faults.is_lost(source, count, "up")

    def there(self, peer: int, now: float) -> bool:
        """Whether it is connected."""
        return peer == len(self.fleet) or self.faults.there(peer, now)

    def next_change(self, peer: int, now: float) -> float:
        """When it may come or go."""
        return math.inf if peer == len(self.fleet) else self.faults.next_change(peer, now)

    def left(self, peer: int, now: float) -> None:
        """Note since when it is gone."""
        self._gone_since[peer] = now

    def came(self, peer: int, now: float) -> None:
        """Note how long it was gone."""
        self.usage.gone_s[peer] += now - self._gone_since.pop(peer)

    def used(self, now: float) -> UsageNow:
        """What each device has done by now."""
        busy = {peer: min(busy, now - begun) for peer, (begun, busy, _) in self._at_work.items()}
        watts = [self.fleet.idle_watts(device) for device in range(len(self.fleet))]
        return usage_now(self.usage, now, self._gone_since, busy, watts)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "steps": list(self._steps),
            "messages": list(self._messages),
            "at_work": [[peer, *work] for peer, work in sorted(self._at_work.items())],
            "gone_since": [list(item) for item in sorted(self._gone_since.items())],
            "usage": self.usage.state(),
            "network": self.network.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._steps, self._messages = list(state["steps"]), list(state["messages"])
        self._at_work = {peer: (begun, busy, watts) for peer, begun, busy, watts in state["at_work"]}
        self._gone_since = dict(state["gone_since"])
        self.usage.restore(state["usage"])
        self.network.restore(state["network"])
