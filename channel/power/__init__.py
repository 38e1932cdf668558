"""Power control: who sends how loud, and what the receiver multiplies the sum by."""

from __future__ import annotations

from collections.abc import Callable

from channel.power.alternating import Optimised
from channel.power.average_power import AveragePower
from channel.power.block_plan import BlockPlanner
from channel.power.combining import Combined, Combining, Matched
from channel.power.ergodic import ErgodicOptimum, ergodic_optimum
from channel.power.full_power import FullPower
from channel.power.inversion import ChannelInversion, TruncatedInversion
from channel.power.minimum_mse import MinimumMSE
from channel.power.minimum_power import MinimumPower
from channel.power.norm_forecast import Pilot, PowerLaw
from channel.power.planner import Planner
from channel.power.power_control import Allocation, PowerControl, PowerControlError
from channel.power.round_plan import RoundPlan, Schedule
from channel.power.selection import LargestSet
from channel.power.total_power import TotalPower
from channel.power.zero_forcing import ZeroForcing

POWER_CONTROLS: dict[str, Callable[..., PowerControl]] = {
    policy.name: policy
    for policy in (
        ChannelInversion,
        TruncatedInversion,
        MinimumMSE,
        FullPower,
        MinimumPower,
        AveragePower,
        TotalPower,
    )
}
"""Policies by the name they go by in a scenario."""

COMBININGS: dict[str, Callable[..., Combining]] = {
    rule.name: rule for rule in (Optimised, ZeroForcing, Matched, LargestSet)
}
"""Rules for several antennas by the name they go by in a scenario."""

__all__ = [
    "COMBININGS",
    "POWER_CONTROLS",
    "Allocation",
    "AveragePower",
    "BlockPlanner",
    "ChannelInversion",
    "Combined",
    "Combining",
    "ErgodicOptimum",
    "FullPower",
    "LargestSet",
    "Matched",
    "MinimumMSE",
    "MinimumPower",
    "Optimised",
    "Pilot",
    "Planner",
    "PowerControl",
    "PowerControlError",
    "PowerLaw",
    "RoundPlan",
    "Schedule",
    "TotalPower",
    "TruncatedInversion",
    "ZeroForcing",
    "ergodic_optimum",
]
