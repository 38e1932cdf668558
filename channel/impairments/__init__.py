"""What real radios do worse than the textbook's: each a small class with the formula that it is tested by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from channel.impairments.adc import ADC, best_loading
    from channel.impairments.ageing import Ageing
    from channel.impairments.amplifier import Amplifier, papr_exceeds
    from channel.impairments.channel_estimation import ChannelEstimation, PilotCost
    from channel.impairments.frequency_offset import FrequencyOffset, frequency_offset_loss
    from channel.impairments.impairments import Impairments, Rotation
    from channel.impairments.interference import Interference
    from channel.impairments.phase_error import PhaseError
    from channel.impairments.resource_grid import ResourceGrid
    from channel.impairments.timing_error import TimingError

__getattr__, __dir__, _ = lazy.attach(
    __name__,
    submod_attrs={
        "adc": ["ADC", "best_loading"],
        "ageing": ["Ageing"],
        "amplifier": ["Amplifier", "papr_exceeds"],
        "channel_estimation": ["ChannelEstimation", "PilotCost"],
        "frequency_offset": ["FrequencyOffset", "frequency_offset_loss"],
        "impairments": ["Impairments", "Rotation"],
        "interference": ["Interference"],
        "phase_error": ["PhaseError"],
        "resource_grid": ["ResourceGrid"],
        "timing_error": ["TimingError"],
    },
)

__all__ = [
    "ADC",
    "Ageing",
    "Amplifier",
    "ChannelEstimation",
    "FrequencyOffset",
    "Impairments",
    "Interference",
    "PhaseError",
    "PilotCost",
    "ResourceGrid",
    "Rotation",
    "TimingError",
    "best_loading",
    "frequency_offset_loss",
    "papr_exceeds",
]
