"""Large-scale propagation in physical units: path loss, shadowing, where devices are, thermal noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.randomness import generator

Real = NDArray[np.float64]
SPEED_OF_LIGHT = 299_792_458.0
"""m/s."""
THERMAL_NOISE_DBM_PER_HZ = -174.0
"""k T at 290 K."""


class Propagation(ABC):
    """Mean power gain beta of a link as a function of its length."""

    @abstractmethod
    def power_gain(self, distances: ArrayLike, seed: int) -> Real:
        """Linear power gain of each device.

        Parameters
        ----------
        distances : array, shape (N,)
            m.
        seed : int
            The run's seed, for shadowing.

        Returns
        -------
        ndarray, shape (N,)
        """


@dataclass(frozen=True)
class LogDistance(Propagation):
    r"""Path loss :math:`PL_0 + 10\alpha\log_{10}(d/d_0) + X` dB with shadowing X ~ N(0, shadowing_db^2).

    Parameters
    ----------
    exponent : float
        alpha; 2 in free space, 3 to 4 in cities.
    reference_loss_db : float
        PL_0 at the reference distance; 40 dB is free space over 1 m at 2.4 GHz.
    reference_distance : float
        d_0, m.
    shadowing_db : float
        Standard deviation of X, dB; one draw per device for the whole run.
    """

    exponent: float = 3.0
    reference_loss_db: float = 40.0
    reference_distance: float = 1.0
    shadowing_db: float = 0.0

    def __post_init__(self) -> None:
        _finite("reference_loss_db", self.reference_loss_db)
        _positive("reference_distance", self.reference_distance)
        for name in ("exponent", "shadowing_db"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: a finite number >= 0")

    def power_gain(self, distances: ArrayLike, seed: int) -> Real:
        """Linear gains, shape (N,); below the reference distance the model does not hold: refused."""
        lengths = _distances(distances, self.reference_distance)
        loss_db = self.reference_loss_db + 10.0 * self.exponent * np.log10(lengths / self.reference_distance)
        loss_db += self.shadowing_db * generator(seed, "shadowing").standard_normal(lengths.shape)
        return linear_from_db(-loss_db)


@dataclass(frozen=True)
class FreeSpace(Propagation):
    r"""Friis: gain :math:`(c/(4\pi f_c d))^2` with isotropic antennas.

    Parameters
    ----------
    carrier_hz : float
        Carrier frequency, Hz.
    """

    carrier_hz: float

    def __post_init__(self) -> None:
        _positive("carrier_hz", self.carrier_hz)

    def power_gain(self, distances: ArrayLike, seed: int = 0) -> Real:
        """Linear gains, shape (N,); nothing is random."""
        wavelength = SPEED_OF_LIGHT / self.carrier_hz
        return np.square(wavelength / (4.0 * math.pi * _distances(distances, 0.0)))


def uniform_disc(devices: int, radius: float, minimum_distance: float, seed: int) -> Real:
    """Distances of devices spread evenly over a ring around the receiver.

    Parameters
    ----------
    devices : int
        N.
    radius, minimum_distance : float
        Outer and inner radius, m, radius > minimum_distance >= 0.
    seed : int
        The run's seed.

    Returns
    -------
    ndarray, shape (N,)
        m; the density of a distance r is proportional to r.
    """
    if not 0.0 <= minimum_distance < radius < math.inf:
        raise ValueError(
            f"radius={radius!r}, minimum_distance={minimum_distance!r}; accepted: 0 <= minimum_distance < radius"
        )
    share = generator(seed, "placement").random(devices)
    return np.sqrt(minimum_distance**2 + share * (radius**2 - minimum_distance**2))


def around_receiver(distances: ArrayLike, seed: int) -> Real:
    """Places at given distances from the receiver, each in a direction of its own.

    Directions have a random stream to themselves: they change nothing of what depends on distances alone.

    Parameters
    ----------
    distances : array, shape (N,)
        m, > 0.
    seed : int
        The run's seed.

    Returns
    -------
    ndarray, shape (N, 2)
        m, the receiver at 0; directions are uniform.
    """
    lengths = _distances(distances, 0.0)
    angle = generator(seed, "placement/direction").uniform(0.0, 2.0 * math.pi, lengths.shape)
    return np.asarray(lengths[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def thermal_noise_power(bandwidth_hz: float, noise_figure_db: float = 0.0) -> float:
    """Noise in a band, W: 10^((-174 + NF + 10 log10 B - 30)/10).

    Examples
    --------
    >>> round(dbm_from_watts(thermal_noise_power(1e6)), 6)
    -114.0
    """
    _positive("bandwidth_hz", bandwidth_hz)
    _finite("noise_figure_db", noise_figure_db)
    return float(watts_from_dbm(THERMAL_NOISE_DBM_PER_HZ + noise_figure_db + 10.0 * math.log10(bandwidth_hz)))


def watts_from_dbm(power_dbm: float) -> float:
    """W from dBm."""
    return float(10.0 ** ((power_dbm - 30.0) / 10.0))


def dbm_from_watts(power: float) -> float:
    """dBm from W > 0."""
    _positive("power", power)
    return 10.0 * math.log10(power) + 30.0


def linear_from_db(ratio_db: ArrayLike) -> Real:
    """Power ratio from dB, elementwise."""
    return np.asarray(10.0 ** (np.asarray(ratio_db, dtype=np.float64) / 10.0))


def db_from_linear(ratio: ArrayLike) -> Real:
    """dB from a power ratio > 0, elementwise."""
    ratios = np.asarray(ratio, dtype=np.float64)
    if not (ratios > 0).all():
        raise ValueError(f"ratio is {ratio!r}; accepted: numbers > 0")
    return np.asarray(10.0 * np.log10(ratios))


def _distances(distances: ArrayLike, shortest: float) -> Real:
    lengths = np.asarray(distances, dtype=np.float64)
    if not (np.isfinite(lengths).all() and (lengths > 0).all() and (lengths >= shortest).all()):
        raise ValueError(f"distances is {distances!r}; accepted: finite numbers > 0 and >= {shortest} m")
    return lengths


def _positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} is {value!r}; accepted: a finite number > 0")


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; accepted: a finite number")
