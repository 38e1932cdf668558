"""Channels known from pilots: an estimate, the error in it, and what the pilots cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.randomness import complex_normal

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Estimator = Literal["lmmse", "least-squares"]


@dataclass(frozen=True)
class PilotCost:
    """What the pilots of one coherence frame cost.

    Attributes
    ----------
    complex_uses : int
        Of the channel, all devices together.
    energy : float
        That each device radiates.
    """

    complex_uses: int
    energy: float


@dataclass(frozen=True)
class ChannelEstimation:
    r"""Estimates from :math:`\tau` orthogonal uplink pilots of power :math:`P_p` a device and subband.

    The matched filter gives :math:`r = h + n`, n of variance :math:`N_0/(\tau P_p)`. Least squares takes r for the
    channel. The linear estimate of least mean squared error knows each device's mean power :math:`\beta`,

    .. math:: \hat h = \frac{\beta\tau P_p}{\beta\tau P_p + N_0} r.

    For a Rayleigh channel :math:`h = \hat h + e` with independent
    :math:`\hat h \sim CN(0, \beta^2\tau P_p/(\beta\tau P_p + N_0))` and
    :math:`e \sim CN(0, \beta N_0/(\beta\tau P_p + N_0))`. (S. M. Kay, "Fundamentals of Statistical Signal
    Processing: Estimation Theory", 1993, ch. 10 to 12.)

    Parameters
    ----------
    pilots : int
        tau >= 1, complex uses a device spends on pilots in a coherence frame.
    pilot_power : float
        P_p > 0, the power of a complex use (W, or normalised).
    estimator : {"lmmse", "least-squares"}

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    pilots: int = 1
    pilot_power: float = 1.0
    estimator: Estimator = "lmmse"

    def __post_init__(self) -> None:
        if not (isinstance(self.pilots, int) and self.pilots >= 1):
            raise ValueError(f"pilots is {self.pilots!r}; accepted: a whole number of complex uses >= 1")
        if not 0.0 < self.pilot_power < math.inf:
            raise ValueError(f"pilot_power is {self.pilot_power!r}; accepted: a finite number > 0")
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator is {self.estimator!r}; accepted: {', '.join(map(repr, get_args(Estimator)))}")

    def estimate(
        self, gains: Complex, mean_power: ArrayLike, noise_power: float, generator: np.random.Generator
    ) -> Complex:
        """What the receiver takes the channel to be.

        A device whose gains are all 0 is out of reach: nobody waits for its pilots, and its estimate is 0.

        Parameters
        ----------
        gains : ndarray of complex128, shape (S, N, M)
            h as it is while the pilots are sent.
        mean_power : array, shape (N,)
            beta, mean of |h|^2 of each device.
        noise_power : float
            N0 >= 0 per complex use.
        generator : numpy.random.Generator
            For the noise on the pilots: S N M complex draws.

        Returns
        -------
        ndarray of complex128, shape (S, N, M)
        """
        beta = _mean_power(mean_power, gains.shape[1])
        noise = math.sqrt(self._pilot_noise(noise_power)) * complex_normal(generator, gains.shape)
        estimate = self._weight(beta, noise_power)[:, None] * (gains + noise)
        silent = ~np.any(gains != 0, axis=(0, 2))
        estimate[:, silent, :] = 0.0
        return np.asarray(estimate, dtype=np.complex128)

    def estimate_power(self, mean_power: ArrayLike, noise_power: float) -> Real:
        """E of the estimate's squared magnitude of each device, shape (N,)."""
        beta = _mean_power(mean_power)
        return self._weight(beta, noise_power) ** 2 * (beta + self._pilot_noise(noise_power))

    def error_power(self, mean_power: ArrayLike, noise_power: float) -> Real:
        r"""E of :math:`|h - \hat h|^2` of each device, shape (N,)."""
        beta = _mean_power(mean_power)
        weight = self._weight(beta, noise_power)
        return (1.0 - weight) ** 2 * beta + weight**2 * self._pilot_noise(noise_power)

    def cost(self, devices: int, subbands: int = 1, symbol_time: float = 1.0) -> PilotCost:
        """What the pilots of one coherence frame cost.

        Parameters
        ----------
        devices : int
            K; their pilots are orthogonal and take K tau uses of each subband.
        subbands : int
            S; each is sounded.
        symbol_time : float
            Of a complex use, s: 1 / bandwidth. In normalised units, where energy is counted by real uses, 2.

        Returns
        -------
        PilotCost
            K tau S complex uses; energy tau S P_p symbol_time a device (J in physical units).
        """
        self._check_counts(devices, subbands)
        return PilotCost(
            devices * self.pilots * subbands, self.pilots * subbands * self.pilot_power * float(symbol_time)
        )

    def frames(self, payload_uses: int, frame_uses: int, devices: int, subbands: int = 1) -> int:
        """Number of coherence frames an exchange takes when each holds the pilots of all devices too.

        Parameters
        ----------
        payload_uses : int
            Complex uses the devices' signals need.
        frame_uses : int
            Complex uses in a coherence frame, all subbands together.
        devices, subbands : int
            K and S.

        Raises
        ------
        ValueError
            More pilots than the frame holds, or so many that no use is left for the payload.
        """
        self._check_counts(devices, subbands)
        if payload_uses < 0:
            raise ValueError(f"payload_uses is {payload_uses!r}; accepted: a whole number >= 0")
        pilots = devices * self.pilots * subbands
        if pilots >= frame_uses:
            raise ValueError(
                f"more pilots than the frame holds: {devices} devices with pilots = {self.pilots} complex uses each in "
                f"{subbands} subband(s) make {pilots}, and a coherence frame has {frame_uses} complex uses; accepted: "
                "fewer pilots than that, with a longer frame (wider or slower channel), fewer devices or fewer pilots"
            )
        return math.ceil(payload_uses / (frame_uses - pilots))

    def _pilot_noise(self, noise_power: float) -> float:
        if not 0.0 <= noise_power < math.inf:
            raise ValueError(f"noise_power is {noise_power!r}; accepted: a finite number >= 0")
        return noise_power / (self.pilots * self.pilot_power)

    def _weight(self, beta: Real, noise_power: float) -> Real:
        if self.estimator == "least-squares":
            return np.ones_like(beta)
        received = beta + self._pilot_noise(noise_power)
        return np.divide(beta, received, out=np.zeros_like(beta), where=received > 0)

    @staticmethod
    def _check_counts(devices: int, subbands: int) -> None:
        for name, value in (("devices", devices), ("subbands", subbands)):
            if value < 1:
                raise ValueError(f"{name} is {value!r}; accepted: a whole number >= 1")


def _mean_power(mean_power: ArrayLike, devices: int | None = None) -> Real:
    beta = np.asarray(mean_power, dtype=np.float64)
    if beta.ndim != 1 or (devices is not None and len(beta) != devices):
        raise ValueError(f"mean_power has shape {beta.shape}; accepted: ({devices or 'N'},), one per device")
    if not (np.isfinite(beta).all() and (beta >= 0).all()):
        raise ValueError(f"mean_power is {mean_power!r}; accepted: finite numbers >= 0")
    return beta
