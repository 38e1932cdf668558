"""What devices have to send with: channels, powers and a band with noise in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.channel import Channel, ChannelState

Real = NDArray[np.float64]


@dataclass(frozen=True)
class LinkBudget:
    r"""Channels, powers and band of the devices of one exchange, in the units of :class:`~channel.channel.Channel`.

    Parameters
    ----------
    gains : array, shape (K,)
        h_i, complex, path loss included, or their magnitudes.
    power_limits : array, shape (K,), or a scalar for all
        P_i >= 0: W, or multiples of the unit of `noise_power` in normalised units.
    noise_power : float
        Noise N0 B in the whole band, >= 0.
    bandwidth : float
        B, complex uses per second, Hz, > 0.
    physical : bool
        Energies are J; if not, energy is power times real uses, as an analog uplink counts it.
    amplifier_efficiency : array, shape (K,), or a scalar for all
        eta in (0, 1]: the amplifier draws P / eta to radiate P.
    circuit_power : array, shape (K,), or a scalar for all
        What a device draws besides while it sends, >= 0, in the unit of `power_limits`.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    gains: ArrayLike
    power_limits: ArrayLike
    noise_power: float
    bandwidth: float
    physical: bool = True
    amplifier_efficiency: ArrayLike = 1.0
    circuit_power: ArrayLike = 0.0

    def __post_init__(self) -> None:
        magnitudes = np.abs(np.asarray(self.gains)).astype(np.float64)
        if magnitudes.ndim != 1 or magnitudes.size == 0 or not np.isfinite(magnitudes).all():
            raise ValueError(f"gains is {self.gains!r}; accepted: finite numbers of shape (K,), K >= 1 devices")
        object.__setattr__(self, "gains", magnitudes)
        for name in ("power_limits", "amplifier_efficiency", "circuit_power"):
            object.__setattr__(self, name, _per_device(name, getattr(self, name), len(magnitudes)))
        efficiency = np.asarray(self.amplifier_efficiency)
        if not ((efficiency > 0) & (efficiency <= 1)).all():
            raise ValueError(f"amplifier_efficiency is {efficiency}; accepted: 0 < amplifier_efficiency <= 1")
        if not 0.0 <= self.noise_power < math.inf:
            raise ValueError(f"noise_power is {self.noise_power!r}; accepted: a finite number >= 0")
        if not 0.0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth is {self.bandwidth!r}; accepted: a finite number of Hz > 0")

    @classmethod
    def of(
        cls,
        channel: Channel,
        state: ChannelState,
        power_limits: ArrayLike,
        amplifier_efficiency: ArrayLike = 1.0,
        circuit_power: ArrayLike = 0.0,
    ) -> LinkBudget:
        """Budget of the devices of a channel state, in the band and the units of its channel."""
        return cls(
            state.gains,
            power_limits,
            state.noise_power,
            channel.bandwidth,
            channel.physical,
            amplifier_efficiency,
            circuit_power,
        )

    @property
    def devices(self) -> int:
        """K."""
        return len(np.asarray(self.gains))

    @property
    def noise_density(self) -> float:
        """N0 = noise_power / bandwidth, W/Hz."""
        return self.noise_power / self.bandwidth

    @cached_property
    def powers(self) -> Real:
        """P_i, shape (K,)."""
        return np.asarray(self.power_limits, dtype=np.float64)

    @cached_property
    def reachable(self) -> NDArray[np.bool_]:
        """Devices with a gain and a power; the others are in outage whatever the link."""
        return np.asarray((np.asarray(self.gains) > 0) & (self.powers > 0))

    def snr(self, powers: Real, shares: Real) -> Real:
        """SNR of devices that send with these powers in these shares of the band; 0 where either is 0."""
        received = powers * np.asarray(self.gains, dtype=np.float64) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((received > 0) & (shares > 0), received / (self.noise_power * shares), 0.0)

    def energy(self, powers: Real, seconds: Real) -> Real:
        r"""What sending costs each device, :math:`(P/\eta + P_{circuit})\,t`, shape (K,).

        J, or in normalised units the same with the 2 B t real uses of the band in that time for t.
        """
        drawn = powers / np.asarray(self.amplifier_efficiency) + np.asarray(self.circuit_power)
        return np.asarray(drawn * seconds * (1.0 if self.physical else 2.0 * self.bandwidth), dtype=np.float64)


def _per_device(name: str, values: ArrayLike, devices: int) -> Real:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0:
        array = np.full(devices, array)
    if array.shape != (devices,) or not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{name} is {values!r}; accepted: finite numbers >= 0, a scalar or shape ({devices},)")
    return array
