"""What can be compared over what: the axes, their names in the record and on paper."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

AXES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "round": ("round", "round"),
        "exchange": ("exchange", "uplink exchanges"),
        "samples": ("samples", "training examples"),
        "channel_uses": ("channel_uses", "channel uses"),
        "bits": ("bits_per_device_mean", "bits per device"),
        "energy": ("energy_j_per_device_mean", "energy per device"),
        "air_time": ("air_time_s", "air time (s)"),
        "clock": ("clock_s", "clock (s)"),
        "wall": ("wall_s", "wall time (s)"),
    }
)
"""What curves can be drawn over: an axis' key in the record, and its label."""

_ACRONYMS = {"mse": "MSE", "papr": "PAPR"}
_NAMES = {
    "train_loss": "training loss",
    "train_objective": "training objective",
    "train_gradient_norm": "gradient norm",
}
_HIGH_IS_GOOD = ("accuracy", "participants", "heard")
_FALL_TO_ZERO = ("loss", "objective", "gap", "gradient_norm", "mse", "consensus_distance")


def best_direction(key: str) -> str:
    """Whether "high" or "low" values of a figure are good: high for accuracies, low for losses, errors and costs."""
    return "high" if any(word in key for word in _HIGH_IS_GOOD) else "low"


def falls_to_zero(key: str) -> bool:
    """Whether training brings a figure towards zero, over decades if it goes well: losses, gaps, norms, errors."""
    return any(word in key for word in _FALL_TO_ZERO)


def label(key: str, energy_unit: str = "J") -> str:
    """An axis or a figure in words, with its unit: ``energy per device (J)``, ``test accuracy``, ``PAPR mean (dB)``."""
    if key in _NAMES:
        return _NAMES[key]
    if key in AXES:
        return AXES[key][1] + (f" ({energy_unit})" if key == "energy" else "")
    words = key.replace("energy_j_", "energy_").split("_")
    units = [unit for word, unit in (("db", "dB"), ("s", "s")) if word in words]
    units += [energy_unit] if key.startswith("energy_j_") else []
    text = " ".join(_ACRONYMS.get(word, word) for word in words if word not in ("db", "s"))
    return f"{text} ({units[0]})" if units else text
