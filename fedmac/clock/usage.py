"""What each device has done so far: seconds at work, joules, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


@dataclass
class Usage:
    """Running totals of every device.

    Energy is charged when the work, or the message, that took it is over: also that of work which a crash cut short
    (as far as it had come), and of updates that the server rejects.

    Parameters
    ----------
    devices : int
        How many there are.

    Attributes
    ----------
    busy_s : list of float
        Seconds of computing.
    gone_s : list of float
        Seconds of being away, up to the last return.
    compute_j, radio_j : list of float
        Joules of computing and of the interface.
    bits_up, bits_down : list of float
        Bits sent and received.
    """

    devices: int
    busy_s: list[float] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)
    compute_j: list[float] = field(default_factory=list)
    radio_j: list[float] = field(default_factory=list)
    bits_up: list[float] = field(default_factory=list)
    bits_down: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in self._columns():
            if not getattr(self, name):
                setattr(self, name, [0.0] * self.devices)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {name: np.array(getattr(self, name)) for name in self._columns()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        for name in self._columns():
            setattr(self, name, state[name].tolist())

    @staticmethod
    def _columns() -> tuple[str, ...]:
        return ("busy_s", "gone_s", "compute_j", "radio_j", "bits_up", "bits_down")


@dataclass(frozen=True)
class UsageNow:
    """What the devices have done by a moment.

    Attributes
    ----------
    now : float
        The moment (s).
    busy_s, present_s : ndarray of shape (N,)
        Seconds of computing, work in progress included, and of being connected.
    compute_j, idle_j, radio_j : ndarray of shape (N,)
        Joules of computing, of waiting, and of the interface.
    bits_up, bits_down : ndarray of shape (N,)
        Bits sent and received.
    """

    now: float
    busy_s: Real
    present_s: Real
    compute_j: Real
    idle_j: Real
    radio_j: Real
    bits_up: Real
    bits_down: Real

    @property
    def utilisation(self) -> Real:
        """Share of the time connected that each device has computed; 0 where it was never connected."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.present_s > 0, self.busy_s / self.present_s, 0.0)

    @property
    def joules(self) -> Real:
        """Of computing, waiting and the interface together, of each device."""
        return self.compute_j + self.idle_j + self.radio_j

    def record(self) -> dict[str, Any]:
        """As a line of the record has it; see docs/systems.md."""
        return {
            "clock_s": self.now,
            "compute_s": float(self.busy_s.max(initial=0.0)),
            "energy_j_per_device_mean": float(self.joules.mean()),
            "energy_j_per_device_max": float(self.joules.max(initial=0.0)),
            "compute_j_per_device_mean": float(self.compute_j.mean()),
            "idle_j_per_device_mean": float(self.idle_j.mean()),
            "radio_j_per_device_mean": float(self.radio_j.mean()),
            "bits_per_device_mean": float(self.bits_up.mean()),
            "bits_down_per_device_mean": float(self.bits_down.mean()),
            "utilisation": np.round(self.utilisation, 6).tolist(),
            "utilisation_mean": float(self.utilisation.mean()),
        }


def usage_now(
    usage: Usage,
    now: float,
    gone_since: Mapping[int, float],
    busy_now: Mapping[int, float],
    idle_watts: Sequence[float],
) -> UsageNow:
    """The totals by `now`, with what is going on.

    Parameters
    ----------
    usage : Usage
        What is over.
    now : float
        The moment (s).
    gone_since : mapping of int to float
        When each device that is not there has gone (s).
    busy_now : mapping of int to float
        Seconds that devices have been at the work that they are at.
    idle_watts : sequence of float
        What each device draws while it waits (W).
    """
    busy, gone = np.array(usage.busy_s), np.array(usage.gone_s)
    for device, seconds in busy_now.items():
        busy[device] += seconds
    for device, since in gone_since.items():
        gone[device] += now - since
    present = np.maximum(now - gone, 0.0)
    return UsageNow(
        now,
        busy,
        present,
        np.array(usage.compute_j),
        np.maximum(present - busy, 0.0) * np.asarray(idle_watts),
        np.array(usage.radio_j),
        np.array(usage.bits_up),
        np.array(usage.bits_down),
    )
