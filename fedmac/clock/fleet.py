"""How long each device computes, and what it draws: its profile, jitter, and now and then a slow step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clients.device_profiles import ComputeProfile
from fedmac.clock.named_draws import NamedDraws, normal, uniform


class Fleet:
    r"""The devices' computing.

    Step n of device i, of F FLOPs, takes

    .. math:: T_{i,n} = \frac{F}{v_i}\; e^{\sigma z_{i,n} - \sigma^2/2}\; a^{[u_{i,n} < q]} ,

    z normal, u uniform, independent: jitter of mean 1 around the profile's speed v_i, and with probability q a
    straggler, a times as slow.

    Parameters
    ----------
    profiles : sequence of ComputeProfile
        Device i has the (i mod n)-th.
    devices : int
        How many there are.
    seed : int
        Names the draws.
    jitter : float, default 0
        sigma >= 0.
    straggler_probability : float, default 0
        q, from 0 to 1.
    straggler_slowdown : float, default 1
        a >= 1.

    Raises
    ------
    ValueError
        If there is no profile, or a value is out of range.
    """

    def __init__(
        self,
        profiles: Sequence[ComputeProfile],
        devices: int,
        seed: int,
        *,
        jitter: float = 0.0,
        straggler_probability: float = 0.0,
        straggler_slowdown: float = 1.0,
    ) -> None:
        if not profiles:
            raise ValueError("profiles = []: accepted: at least one device profile")
        if not 0 <= jitter < math.inf:
            raise ValueError(f"jitter = {jitter!r}: accepted: a finite number >= 0")
        if not 0 <= straggler_probability <= 1:
            raise ValueError(f"straggler_probability = {straggler_probability!r}: accepted: a number from 0 to 1")
        if not 1 <= straggler_slowdown < math.inf:
            raise ValueError(f"straggler_slowdown = {straggler_slowdown!r}: accepted: a finite number >= 1")
        self.profiles = [profiles[device % len(profiles)] for device in range(devices)]
        self.jitter = jitter
        self.probability = straggler_probability
        self.slowdown = straggler_slowdown
        self._normal = NamedDraws(seed, "compute jitter", normal)
        self._uniform = NamedDraws(seed, "stragglers", uniform)

    def __len__(self) -> int:
        return len(self.profiles)

    def seconds(self, device: int, step: int, flops: float) -> float:
        """How long `device` computes in its `step` (s)."""
        seconds = flops / self.profiles[device].flops_per_s
        if self.jitter:
            seconds *= math.exp(self.jitter * self._normal(device, step) - 0.5 * self.jitter**2)
        if self.probability and self._uniform(device, step) < self.probability:
            seconds *= self.slowdown
        return seconds

    def joules(self, device: int, flops: float, seconds: float) -> float:
        """What that takes (J)."""
        return self.profiles[device].joules(flops, seconds)

    def idle_watts(self, device: int) -> float:
        """What `device` draws while it waits (W)."""
        return self.profiles[device].idle_watts
