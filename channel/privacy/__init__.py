"""Differential privacy that the channel's noise gives, and what devices add where it is not enough."""

from channel.privacy.accountant import PrivacyAccountant, epsilon_of, needed_noise_multiplier
from channel.privacy.noise import protect, sensitivities
from channel.privacy.privacy import Privacy

__all__ = [
    "Privacy", "PrivacyAccountant", "epsilon_of", "needed_noise_multiplier", "protect", "sensitivities",
]  # fmt: skip
