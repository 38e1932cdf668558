"""Channels known from a while ago."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.fading import GaussMarkov
from channel.randomness import complex_normal

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class Ageing:
    r"""What was known is correlated by rho with what is, as in a Gauss-Markov process:

    .. math:: h_{old} = \rho h + \sqrt{1 - \rho^2}\,\sqrt\beta\,w, \qquad w \sim CN(0, 1).

    For a Rayleigh channel of mean power :math:`\beta` the old channel has that power too, and
    :math:`E|h - h_{old}|^2 = 2(1 - \rho)\beta`.

    Parameters
    ----------
    correlation : float
        rho in [0, 1]: 1 is fresh knowledge, 0 none.

    Raises
    ------
    ValueError
        rho outside [0, 1].
    """

    correlation: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.correlation <= 1.0:
            raise ValueError(f"correlation is {self.correlation!r}; accepted: 0 <= correlation <= 1")

    @classmethod
    def from_doppler(cls, speed_mps: float, carrier_hz: float, delay_s: float) -> Ageing:
        r"""Correlation after Jakes, :math:`\rho = J_0(2\pi v f_c T/c)`, of a channel seen a time T ago.

        Parameters
        ----------
        speed_mps, carrier_hz : float
            Speed of the devices, m/s, and carrier frequency, Hz.
        delay_s : float
            T from pilots to use, s.

        Raises
        ------
        ValueError
            A negative or not finite number, or a delay past the first zero of J0.
        """
        for name, value in (("speed_mps", speed_mps), ("carrier_hz", carrier_hz), ("delay_s", delay_s)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; accepted: a finite number >= 0")
        try:
            return cls(GaussMarkov.from_doppler(speed_mps, carrier_hz, delay_s).correlation)
        except ValueError as error:
            raise ValueError(
                f"delay_s is {delay_s!r}: at speed_mps={speed_mps!r} and carrier_hz={carrier_hz!r} the channel has "
                "changed beyond recognition; accepted: a delay before the first zero of J0, 2 pi v f_c T / c < 2.405, "
                "or correlation = 0"
            ) from error

    def old(self, gains: Complex, mean_power: ArrayLike, generator: np.random.Generator) -> Complex:
        """The channel as it was when it was looked at.

        Parameters
        ----------
        gains : ndarray of complex128, shape (S, N, M)
            h as it is. Devices with all gains 0 are out of reach, and stay so.
        mean_power : array, shape (N,)
            beta of each device.
        generator : numpy.random.Generator
            For w: S N M complex draws.

        Returns
        -------
        ndarray of complex128, shape (S, N, M)
        """
        beta = np.asarray(mean_power, dtype=np.float64)
        if beta.shape != gains.shape[1:2] or not (np.isfinite(beta).all() and (beta >= 0).all()):
            raise ValueError(f"mean_power is {mean_power!r}; accepted: {gains.shape[1]} finite numbers >= 0")
        beta = np.where(np.any(gains != 0, axis=(0, 2)), beta, 0.0)
        innovation = complex_normal(generator, gains.shape)
        fresh = math.sqrt(1.0 - self.correlation**2) * np.sqrt(beta)[:, None]
        return np.asarray(self.correlation * gains + fresh * innovation, dtype=np.complex128)

    def error_power(self, mean_power: ArrayLike) -> Real:
        r""":math:`E|h - h_{old}|^2 = 2(1 - \rho)\beta` of each device, shape (N,)."""
        return 2.0 * (1.0 - self.correlation) * np.asarray(mean_power, dtype=np.float64)
