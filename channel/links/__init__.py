"""Links and orthogonal access: what bits cost when every device sends on its own."""

from __future__ import annotations

from collections.abc import Callable

from channel.links.access import Access, Transmission
from channel.links.allocation import AllocationError
from channel.links.bit_allocation import BitAllocation
from channel.links.budget import LinkBudget
from channel.links.delivery import Retransmission, expected_attempts, packet_loss
from channel.links.device_selection import BenefitPerJoule
from channel.links.link import BlockFormat, FixedRateLink, GapLink, Link, ShannonLink
from channel.links.mcs import McsLink
from channel.links.minimum_energy import MinimumEnergy
from channel.links.minimum_latency import MinimumLatency
from channel.links.ofdma import OFDMA
from channel.links.outer_loop import OuterLoop
from channel.links.tdma import TDMA

LINKS: dict[str, Callable[..., Link]] = {link.name: link for link in (ShannonLink, GapLink, FixedRateLink, McsLink)}
"""Links by the name a scenario uses."""

ACCESSES: dict[str, type[Access]] = {access.name: access for access in (OFDMA, TDMA)}
"""Orthogonal access by the name a scenario uses."""

__all__ = [
    "ACCESSES",
    "LINKS",
    "OFDMA",
    "TDMA",
    "Access",
    "AllocationError",
    "BenefitPerJoule",
    "BitAllocation",
    "BlockFormat",
    "FixedRateLink",
    "GapLink",
    "Link",
    "LinkBudget",
    "McsLink",
    "MinimumEnergy",
    "MinimumLatency",
    "OuterLoop",
    "Retransmission",
    "ShannonLink",
    "Transmission",
    "expected_attempts",
    "packet_loss",
]
