"""The channel of a scenario: what each exchange's gains and noise are, and what sending costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.fading import AWGN, Fading

Real = NDArray[np.float64]


@dataclass(frozen=True)
class ChannelState:
    """The channel of one exchange, for the devices that take part.

    Attributes
    ----------
    gains : ndarray of complex128, shape (K,)
        h_i, path loss included.
    noise_power : float
        sigma^2 per real use of the real model; N0 = sigma^2 per complex use.
    """

    gains: NDArray[np.complex128]
    noise_power: float


@dataclass(frozen=True)
class Channel:
    r"""Block fading over path loss, :math:`h_i = \sqrt{\beta_i}\,g_i`, in physical or normalised units.

    **Real and complex uses.** The mathematics counts real channel uses; on the air two real entries ride on
    one complex use, :math:`x = (s_1 + j s_2)/\sqrt 2`, sent with amplitude b. Then :math:`p = b^2` is the
    total power of the complex use, noise is CN(0, N0), and per real entry the real model holds with sigma^2
    = N0 (convention C2 of docs/equations.md; :mod:`channel.mac` has both models).

    **Units.** ``physical=True``: powers are W, ``noise_power`` the noise in the bandwidth (see
    :func:`~channel.propagation.thermal_noise_power`), energies J. ``physical=False``: ``noise_power`` is the
    variance per real use, usually 1, b^2 the energy of one real use and energies are in units of noise
    energy. Air time is real seconds either way.

    Parameters
    ----------
    fading : Fading
        Unit-power block fading.
    power_gain : float or array of shape (N,)
        beta, linear: one for all or one per device of the scenario; > 0, or 0 for a device out of reach.
    noise_power : float
        sigma^2 >= 0.
    bandwidth : float
        Complex uses per second, Hz.
    physical : bool
        Which units :meth:`energy` is in.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    fading: Fading = field(default_factory=AWGN)
    power_gain: float | Real = 1.0
    noise_power: float = 1.0
    bandwidth: float = 1e6
    physical: bool = False

    def __post_init__(self) -> None:
        gain = np.asarray(self.power_gain, dtype=np.float64)
        if gain.ndim > 1 or not (np.isfinite(gain).all() and (gain >= 0).all()):
            raise ValueError(f"power_gain is {self.power_gain!r}; accepted: finite numbers >= 0, scalar or (N,)")
        if not 0.0 <= self.noise_power < math.inf:
            raise ValueError(f"noise_power is {self.noise_power!r}; accepted: a finite number >= 0")
        if not 0.0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth is {self.bandwidth!r}; accepted: a finite number of Hz > 0")

    def state(self, round: int, devices: ArrayLike, total: int, seed: int) -> ChannelState:
        """Gains and noise of one exchange.

        Parameters
        ----------
        round : int
            Number of the exchange, >= 0.
        devices : array of int, shape (K,)
            Ids of the devices that take part, each in 0..total-1.
        total : int
            N, all devices of the scenario.
        seed : int
            The run's seed.

        Raises
        ------
        ValueError
            Ids outside the scenario, or a ``power_gain`` of another length than ``total``.
        """
        ids = np.asarray(devices, dtype=np.int64)
        if ids.ndim != 1 or (ids < 0).any() or (ids >= total).any():
            raise ValueError(f"devices is {devices!r}; accepted: ids from 0 to {total - 1} in an array of shape (K,)")
        gain = np.asarray(self.power_gain, dtype=np.float64)
        if gain.ndim == 1 and gain.shape != (total,):
            raise ValueError(f"power_gain has shape {gain.shape}; accepted: a scalar or ({total},), one per device")
        fading = self.fading.coefficients(round, total, seed)
        return ChannelState((np.sqrt(gain) * fading)[ids], self.noise_power)

    def seconds(self, uses: int) -> float:
        """Air time of real channel uses, s: two ride on one complex use, uses / (2 bandwidth)."""
        return uses / (2.0 * self.bandwidth)

    def energy(self, amplitudes: ArrayLike, uses: int) -> Real:
        """Energy each device radiates, for symbols of unit mean square.

        Parameters
        ----------
        amplitudes : array, shape (K,)
            b_i.
        uses : int
            Real channel uses m.

        Returns
        -------
        ndarray, shape (K,)
            Physical: b^2 seconds(uses), J. Normalised: b^2 uses, in units of noise energy.
        """
        power = np.square(np.asarray(amplitudes, dtype=np.float64))
        return power * (self.seconds(uses) if self.physical else float(uses))
