"""Power control: who sends how loud, and what the receiver multiplies the sum by."""

from __future__ import annotations

from collections.abc import Callable

from channel.power.full_power import FullPower
from channel.power.inversion import ChannelInversion, TruncatedInversion
from channel.power.minimum_mse import MinimumMSE
from channel.power.power_control import Allocation, PowerControl, PowerControlError

POWER_CONTROLS: dict[str, Callable[..., PowerControl]] = {
    policy.name: policy for policy in (ChannelInversion, TruncatedInversion, MinimumMSE, FullPower)
}
"""Policies by the name they go by in a scenario."""

__all__ = [
    "POWER_CONTROLS",
    "Allocation",
    "ChannelInversion",
    "FullPower",
    "MinimumMSE",
    "PowerControl",
    "PowerControlError",
    "TruncatedInversion",
]
