"""Orthogonal access in frequency."""

from __future__ import annotations

from typing import Literal

import numpy as np

from channel.links.access import ROUNDING, Access, Plan
from channel.links.budget import LinkBudget
from channel.links.finite_rates import finite_rate_shares
from channel.links.link import Link, Real
from channel.links.minimum_latency import MinimumLatency


class OFDMA(Access):
    r"""Devices send side by side, device i in a share :math:`\beta_i` of the band, :math:`\sum \beta_i \le 1`.

    Parameters
    ----------
    shares : {"minimum-latency", "equal"} or MinimumLatency
        ``minimum-latency``: all that can be heard are done at the same time, the earliest there is
        (:class:`~channel.links.minimum_latency.MinimumLatency`, which may carry constraints;
        :func:`~channel.links.finite_rates.finite_rate_shares` for links with only some rates). ``equal``: the same for
        all that can be heard.
    power : {"own-band", "equal-density"}
        ``own-band``: a device puts all its power into its share, and a smaller share has a higher SNR.
        ``equal-density``: a mask P_i / B holds, and a device in a share radiates :math:`\beta_i P_i`.

    Raises
    ------
    ValueError
        Another word, or constraints with ``equal-density``, where shares follow from the rates alone; at :meth:`send`,
        constraints with a link that has only some rates.
    """

    name = "ofdma"

    def __init__(
        self,
        shares: Literal["minimum-latency", "equal"] | MinimumLatency = "minimum-latency",
        power: Literal["own-band", "equal-density"] = "own-band",
    ) -> None:
        if shares not in ("minimum-latency", "equal") and not isinstance(shares, MinimumLatency):
            raise ValueError(f"shares is {shares!r}; accepted: 'minimum-latency', 'equal' or MinimumLatency(...)")
        if power not in ("own-band", "equal-density"):
            raise ValueError(f"power is {power!r}; accepted: 'own-band', 'equal-density'")
        if power == "equal-density" and isinstance(shares, MinimumLatency) and shares.constraints:
            raise ValueError("power='equal-density' takes no constraints on shares; use 'own-band' with them")
        self.shares = shares
        self.power = power
        self._allocator = shares if isinstance(shares, MinimumLatency) else MinimumLatency()

    def _plan(self, budget: LinkBudget, bits: Real, link: Link, deadline: float) -> Plan:
        heard = budget.reachable
        shares = self._shares(budget, bits, link) if heard.any() else np.zeros(budget.devices)
        return Plan(shares, np.where(heard, self._powers(budget, shares), 0.0))

    def _shares(self, budget: LinkBudget, bits: Real, link: Link) -> Real:
        heard = budget.reachable
        reach = budget.snr(budget.powers, np.ones(budget.devices))
        shares = np.where(heard, 1.0 / heard.sum(), 0.0)
        if self.shares == "equal" or budget.noise_power == 0:
            return shares
        if self.power == "equal-density":  # the rate does not depend on the share: as much as the packet needs
            format = link.format(reach, bits)
            able = heard & (format.bits_per_use > 0)
            need = np.where(able, format.blocks * np.where(able, format.block_uses, 0.0), 0.0)
            return np.asarray(need / need.sum())
        schemes = link.schemes(bits[heard])
        if schemes is None:
            return self._allocator.allocate(budget, bits, link.gap or 1.0)
        if self._allocator.constraints:
            raise ValueError(f"link is {link!r}; accepted with constraints on shares: ShannonLink(), GapLink(gap_db)")
        shares[heard] = finite_rate_shares(schemes, reach[heard])
        return shares

    def _powers(self, budget: LinkBudget, shares: Real) -> Real:
        return budget.powers * shares if self.power == "equal-density" else budget.powers

    def _schedule(self, least: Real, needed: Real, deadline: float) -> Real:
        limit = deadline * (1.0 + ROUNDING)
        return np.where(np.isfinite(least) & (least <= limit), np.minimum(needed, limit), np.inf)

    def _air_time(self, seconds: Real) -> float:
        return float(seconds.max())

    def _equal_part(self, part: float, seconds: float) -> tuple[float, float]:
        return part, seconds
