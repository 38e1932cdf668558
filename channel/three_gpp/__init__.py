"""Channels of 3GPP TR 38.901 from Sionna: cells with walking devices, and link-level delay lines."""

from __future__ import annotations

from channel.three_gpp.cell import ThreeGPPCell
from channel.three_gpp.delay_lines import DelayLine
from channel.three_gpp.environments import ENVIRONMENTS

__all__ = ["ENVIRONMENTS", "DelayLine", "ThreeGPPCell"]
