"""Orthogonal access in time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from channel.links.access import ROUNDING, Access, Plan
from channel.links.budget import LinkBudget
from channel.links.link import Link, Real
from channel.links.minimum_energy import MinimumEnergy


class TDMA(Access):
    """Devices send one after the other, in their order, each in the whole band.

    A device whose packet does not fit into the time left is passed over.

    Parameters
    ----------
    power : {"full", "minimum-energy"} or MinimumEnergy
        ``full``: at the limit, done as soon as can be. ``minimum-energy``: slots stretch to the deadline and powers
        fall to what that needs (:class:`~channel.links.minimum_energy.MinimumEnergy`, which may carry constraints).
        Where the packets do not fit into the deadline even at full power, full power it is, for as many as do.

    Raises
    ------
    ValueError
        Another word; at :meth:`send`, ``minimum-energy`` with a link whose rate is not log2(1 + SNR / gap)
        (accepted: ``ShannonLink``, ``GapLink``) or without a deadline.
    """

    name = "tdma"

    def __init__(self, power: Literal["full", "minimum-energy"] | MinimumEnergy = "full") -> None:
        if power not in ("full", "minimum-energy") and not isinstance(power, MinimumEnergy):
            raise ValueError(f"power is {power!r}; accepted: 'full', 'minimum-energy' or MinimumEnergy(...)")
        self.power = power
        self._allocator = power if isinstance(power, MinimumEnergy) else MinimumEnergy()

    def _plan(self, budget: LinkBudget, bits: Real, link: Link, deadline: float) -> Plan:
        heard = budget.reachable
        powers = budget.powers
        if self.power != "full" and heard.any() and budget.noise_power > 0:
            powers = self._least_powers(budget, bits, link, deadline)
        return Plan(np.where(heard, 1.0, 0.0), np.where(heard, powers, 0.0))

    def _least_powers(self, budget: LinkBudget, bits: Real, link: Link, deadline: float) -> Real:
        if link.gap is None:
            raise ValueError(f"link is {link!r}; accepted with minimum energy: ShannonLink(), GapLink(gap_db)")
        full = link.format(budget.snr(budget.powers, np.ones(budget.devices)), bits)
        least = np.where(budget.reachable, full.block_uses, 0.0) / budget.bandwidth
        if least.sum() > deadline:
            return budget.powers
        return self._allocator.allocate(budget, bits, deadline, link.gap)[1]

    def _schedule(self, least: Real, needed: Real, deadline: float) -> Real:
        seconds = np.full(len(least), np.inf)
        left = deadline * (1.0 + ROUNDING)
        for device in np.flatnonzero(np.isfinite(least)):
            if least[device] <= left:
                seconds[device] = min(needed[device], left)
                left -= seconds[device]
        return seconds

    def _air_time(self, seconds: Real) -> float:
        return float(seconds.sum())

    def _equal_part(self, part: float, seconds: float) -> tuple[float, float]:
        return 1.0, part * seconds
