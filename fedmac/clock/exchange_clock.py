"""The simulated clock of strategies whose devices send together: the model comes, all train, then the exchange."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedmac.clock.clocked_grid import Span
from fedmac.clock.fleet import Fleet
from fedmac.clock.network import Network
from fedmac.clock.usage import Usage, usage_now
from strategies.air_record import Record

MOST_EMPTY = 5
"""So many exchanges in a row that nobody makes by the deadline end the run; the `synchronous` system's default too."""


class ExchangeClock:
    r"""Simulated time around exchanges whose air time is known.

    Every device that is asked gets the model, trains once, and waits for the slowest; then the exchange follows:

    .. math:: t \leftarrow t + \max_i (D_i + T_i) + A ,

    with the download D_i, the computing T_i of the fleet, and the air time A of the uplink (real channel uses over
    twice the bandwidth; of packets what their access takes, pilots included). On a shared medium the model is
    broadcast once, at the rate of the slowest device that is asked, and :math:`D = \ell + b / \min_i r_i`; elsewhere
    each gets it over its own link and the server's, one after the other. Without a network the model is there at once.

    With a deadline nobody is waited for any longer: who trains for longer has computed in vain until then. Exchanges in
    which that is everybody are empty; so many of them in a row that :attr:`stopped` says why end the run.

    A device draws the power of its profile while it trains, idles for the rest of the time, and its interface draws
    what the exchange cost it, and what receiving the model does.

    Parameters
    ----------
    fleet : Fleet
        How fast devices compute; the n-th exchange draws the n-th jitter of each.
    flops : callable
        FLOPs of one training of a device, by its number.
    network : Network, optional
        How the model reaches the devices.
    model_bits : float, default 0
        b, the model's length on that way.
    deadline : float, default infinite
        Longest computing of an exchange (s).
    on_span : callable, optional
        Called with each span of a device's time.

    Attributes
    ----------
    exchange : int
        Number of the last one.
    stopped : str or None
        Why the run is to end: :data:`MOST_EMPTY` empty exchanges in a row.
    now : float
        Seconds since the run began.
    compute_s, download_s, air_s : float
        Its parts: of the slowest of each exchange, what waiting for the model adds to that, and on air.

    Raises
    ------
    ValueError
        If fleet and network are of different numbers of devices.
    """

    def __init__(
        self,
        fleet: Fleet,
        flops: Callable[[int], float],
        *,
        network: Network | None = None,
        model_bits: float = 0.0,
        deadline: float = math.inf,
        on_span: Callable[[Span], None] | None = None,
    ) -> None:
        if network is not None and len(network.links) != len(fleet):
            raise ValueError(f"network: of {len(network.links)} devices; accepted: {len(fleet)}, as the fleet has")
        self.fleet, self.flops, self.network = fleet, flops, network
        self.model_bits, self.deadline, self.on_span = model_bits, deadline, on_span
        self.exchange, self.empty, self.quickest = 0, 0, math.inf
        self.now, self.compute_s, self.download_s, self.air_s = 0.0, 0.0, 0.0, 0.0
        self.usage = Usage(len(fleet))

    def is_late(self, device: int) -> bool:
        """Whether `device` would train for longer than the deadline in the next exchange."""
        return self._training(device, self.exchange + 1) > self.deadline

    def pass_exchange(self, record: Mapping[str, Any]) -> Record:
        """Let the time of an exchange pass.

        Parameters
        ----------
        record : mapping
            What the air tells of it: number, senders and their energies (J), failures, the air time of the run so far.

        Returns
        -------
        dict
            Figures of the run so far that take the place of the record's own, and some beside; see docs/systems.md.
        """
        asked = sorted({*record["devices"], *(failure["device"] for failure in record["failures"])})
        receiving = self._receiving(asked)
        downloads = self._downloads(receiving)
        self.exchange = record["exchange"]
        training = {device: self._training(device, self.exchange) for device in asked}
        self._count_empty(training)
        seconds = {device: min(needed, self.deadline) for device, needed in training.items()}
        ready = max((downloads[i] + seconds[i] for i in asked), default=0.0)
        slowest = max(seconds.values(), default=0.0)
        air, self.air_s = record["air_time_s"] - self.air_s, record["air_time_s"]
        self._charge(seconds, training, receiving)
        for device, joules in zip(record["devices"], record.get("energies", ()), strict="energies" in record):
            self.usage.radio_j[device] += joules
        begun = {device: self.now + wait for device, wait in downloads.items()}
        self._tell((i, "receive", begun[i] - took, begun[i]) for i, took in receiving.items() if took)
        self._tell((device, "compute", begun[device], begun[device] + seconds[device]) for device in asked)
        self._tell((device, "send", self.now + ready, self.now + ready + air) for device in record["devices"])
        self.compute_s += slowest
        self.download_s += ready - slowest
        self.now += ready + air
        return self.figures() | ({} if self.stopped is None else {"stopped": self.stopped})

    @property
    def stopped(self) -> str | None:
        """Why the run is to end, if it is."""
        if self.empty < MOST_EMPTY:
            return None
        return (
            f"{self.empty} exchanges in a row were empty with devices.deadline_s = {self.deadline:g}: the quickest "
            f"device needed {self.quickest:g} s; accepted: a longer deadline_s, fewer local steps, or faster devices"
        )

    def _count_empty(self, training: Mapping[int, float]) -> None:
        """Count exchanges in a row in which all who were asked trained for too long, and keep how long the quickest."""
        quickest = min(training.values(), default=0.0)
        if quickest > self.deadline:
            self.empty, self.quickest = self.empty + 1, min(self.quickest, quickest)
        elif training:
            self.empty, self.quickest = 0, math.inf

    def figures(self) -> Record:
        """Time, energy and utilisation so far; bits up are the ledger's to tell."""
        watts = [self.fleet.idle_watts(device) for device in range(len(self.fleet))]
        told = usage_now(self.usage, self.now, {}, {}, watts).record()
        del told["bits_per_device_mean"]
        return told | {"compute_s": self.compute_s, "download_s": self.download_s}

    def _training(self, device: int, exchange: int) -> float:
        """How long a device trains in an exchange, if it is let (s)."""
        return self.fleet.seconds(device, exchange - 1, self.flops(device))

    def _tell(self, spans: Iterable[Span]) -> None:
        if self.on_span is not None:
            for span in spans:
                self.on_span(span)

    def _receiving(self, asked: Sequence[int]) -> dict[int, float]:
        """How long each device's interface receives the model (s): a broadcast for as long as it takes."""
        if self.network is None or not asked:
            return dict.fromkeys(asked, 0.0)
        if not self.network.shared_medium:
            return {device: self.network.receive_seconds(device, self.model_bits) for device in asked}
        slowest = max(self.network.receive_seconds(device, self.model_bits) for device in asked)
        return dict.fromkeys(asked, slowest)

    def _downloads(self, receiving: Mapping[int, float]) -> dict[int, float]:
        """How long after the exchange's beginning the model is at each device (s)."""
        if self.network is None or not receiving:
            return dict(receiving)
        if not self.network.shared_medium:
            return {device: self.network.send(device, self.model_bits, self.now) - self.now for device in receiving}
        latency = max(self.network.links[device].latency_s for device in receiving)
        return {device: seconds + latency for device, seconds in receiving.items()}

    def _charge(
        self, seconds: Mapping[int, float], training: Mapping[int, float], receiving: Mapping[int, float]
    ) -> None:
        """What receiving the model and training, as far as it comes, take from each device."""
        usage = self.usage
        for device, busy in seconds.items():
            usage.busy_s[device] += busy
            done = busy / training[device] if busy else 0.0
            usage.compute_j[device] += self.fleet.joules(device, done * self.flops(device), busy)
            if self.network is not None:
                usage.bits_down[device] += self.model_bits
                usage.radio_j[device] += self.network.links[device].receive_watts * receiving[device]

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs between two rounds."""
        return {
            "seconds": np.array([self.now, self.compute_s, self.download_s, self.air_s]),
            "exchange": self.exchange,
            "empty": [self.empty, self.quickest],
            "usage": self.usage.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.now, self.compute_s, self.download_s, self.air_s = state["seconds"].tolist()
        self.exchange = state["exchange"]
        self.empty, self.quickest = state.get("empty", (0, math.inf))  # not in checkpoints of before it was counted
        self.usage.restore(state["usage"])
