"""What the exchanges cost: channel uses, bits, joules and seconds, per device and in all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """What one exchange cost.

    Attributes
    ----------
    uses : int
        Real channel uses; two ride on a complex use.
    energy : ndarray, shape (K,)
        Per device that took part, J (or units of noise energy in normalised units).
    air_time : float
        s.
    bits : int
        Bits on the control channel or a digital link, of all devices together.
    compute_time : float
        Seconds that the slowest device computed before it could send.
    """

    uses: int
    energy: Real
    air_time: float
    bits: int = 0
    compute_time: float = 0.0

    def __post_init__(self) -> None:
        energy = np.asarray(self.energy, dtype=np.float64)
        if energy.ndim != 1 or not (np.isfinite(energy).all() and (energy >= 0).all()):
            raise ValueError(f"energy is {self.energy!r}; accepted: finite numbers >= 0 of shape (K,)")
        for name in ("uses", "bits", "air_time", "compute_time"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: a finite number >= 0")
        object.__setattr__(self, "energy", energy)

    @property
    def complex_uses(self) -> int:
        """Complex uses on the grid, ceil(uses / 2)."""
        return (self.uses + 1) // 2


class Ledger:
    """Running totals of a run.

    Parameters
    ----------
    devices : int
        N, all devices of the scenario; :meth:`grow` where more join.

    Attributes
    ----------
    uses, complex_uses, bits : int
        Channel uses (real; complex) and bits so far.
    air_time, compute_time : float
        Seconds on air, and seconds in which the devices computed: each exchange waits for its slowest.
    energy : ndarray, shape (N,)
        Per device, in the unit of the costs charged.
    exchanges : list of (round, Cost)
        Every entry, in the order charged.
    """

    def __init__(self, devices: int) -> None:
        if devices < 0:
            raise ValueError(f"devices is {devices!r}; accepted: an integer >= 0")
        self.uses = 0
        self.complex_uses = 0
        self.bits = 0
        self.air_time = 0.0
        self.compute_time = 0.0
        self.energy: Real = np.zeros(devices)
        self.exchanges: list[tuple[int, Cost]] = []

    def grow(self, devices: int) -> None:
        """Make room for devices that joined the scenario; what the others have spent stays."""
        missing = devices - len(self.energy)
        if missing > 0:
            self.energy = np.concatenate([self.energy, np.zeros(missing)])

    def charge(self, round: int, devices: ArrayLike, cost: Cost) -> None:
        """Enter one exchange.

        Parameters
        ----------
        round : int
            The round it belongs to; a round may have several exchanges.
        devices : array of int, shape (K,)
            Ids of the devices the entries of ``cost.energy`` belong to, each at most once.
        cost : Cost
            What it cost.

        Raises
        ------
        ValueError
            Ids that repeat, are outside the scenario, or do not match the energies.
        """
        ids = np.asarray(devices, dtype=np.int64)
        known = ((ids >= 0) & (ids < len(self.energy))).all() and len(np.unique(ids)) == ids.size
        if ids.shape != cost.energy.shape or not known:
            raise ValueError(
                f"devices is {devices!r} for energies of shape {cost.energy.shape}; accepted: "
                f"as many different ids from 0 to {len(self.energy) - 1}"
            )
        self.uses += cost.uses
        self.complex_uses += cost.complex_uses
        self.bits += cost.bits
        self.air_time += cost.air_time
        self.compute_time += cost.compute_time
        self.energy[ids] += cost.energy
        self.exchanges.append((round, cost))

    @property
    def energy_mean(self) -> float:
        """Mean over the devices of the scenario."""
        return float(self.energy.mean()) if self.energy.size else 0.0

    @property
    def energy_max(self) -> float:
        """The device that spent most."""
        return float(self.energy.max(initial=0.0))

    @property
    def clock(self) -> float:
        """Seconds a run of synchronous exchanges has taken: computing, then sending."""
        return self.compute_time + self.air_time

    @property
    def bits_mean(self) -> float:
        """Mean over the devices of the scenario."""
        return self.bits / self.energy.size if self.energy.size else 0.0

    def totals(self) -> dict[str, float | int]:
        """The running totals by the names they have in a run's record."""
        return {
            "channel_uses": self.uses,
            "bits_per_device_mean": self.bits_mean,
            "energy_j_per_device_mean": self.energy_mean,
            "energy_j_per_device_max": self.energy_max,
            "air_time_s": self.air_time,
            "compute_s": self.compute_time,
            "clock_s": self.clock,
        }

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs; the costs of all exchanges side by side, as a run may have very many."""
        costs = [cost for _, cost in self.exchanges]
        return {
            "totals": [self.uses, self.complex_uses, self.bits, self.air_time, self.compute_time],
            "energy": self.energy.copy(),
            "rounds": np.array([round for round, _ in self.exchanges], dtype=np.int64),
            "counts": np.array([[c.uses, c.bits] for c in costs], dtype=np.int64).reshape(-1, 2),
            "seconds": np.array([[c.air_time, c.compute_time] for c in costs], dtype=np.float64).reshape(-1, 2),
            "energies": np.concatenate([np.zeros(0), *(c.energy for c in costs)]),
            "ends": np.cumsum([len(c.energy) for c in costs], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.uses, self.complex_uses, self.bits, self.air_time, self.compute_time = state["totals"]
        self.energy = state["energy"].copy()
        energies = np.split(state["energies"], state["ends"])
        entries = zip(state["rounds"].tolist(), state["counts"].tolist(), state["seconds"].tolist(), strict=True)
        self.exchanges = [
            (round, Cost(uses, energies[number], air_time, bits, compute_time))
            for number, (round, (uses, bits), (air_time, compute_time)) in enumerate(entries)
        ]
