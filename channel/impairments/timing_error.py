"""Devices whose signals come early or late."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.impairments.resource_grid import ResourceGrid
from channel.randomness import generator

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class TimingError:
    r"""An offset :math:`\tau \sim N(0, s_\tau^2)` of each device in each exchange.

    An offset inside the cyclic prefix turns the frequency f by :math:`e^{-j 2\pi f\tau}`. A block of width W around
    f arrives with what its frequencies have in common,

    .. math:: \frac{1}{W}\int_{f - W/2}^{f + W/2} e^{-j 2\pi\nu\tau}\,d\nu
        = \mathrm{sinc}(W\tau)\,e^{-j 2\pi f\tau}, \qquad \mathrm{sinc}(x) = \sin(\pi x)/(\pi x);

    the rest, :math:`1 - \mathrm{sinc}^2` of its power, averages to zero over the block, is noise to the sum and is left
    out: take subbands that are narrow against :math:`1/s_\tau`. The receiver opens its window half a prefix
    early. A device further off than that interferes with itself and is counted lost: its factors are 0.

    Parameters
    ----------
    std_s : float
        s_tau >= 0, s.
    cyclic_prefix_s : float
        Length of the cyclic prefix, s > 0; infinite by default: no device is ever lost.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    std_s: float
    cyclic_prefix_s: float = math.inf

    def __post_init__(self) -> None:
        if not 0.0 <= self.std_s < math.inf:
            raise ValueError(f"std_s is {self.std_s!r}; accepted: a finite number of seconds >= 0")
        if not self.cyclic_prefix_s > 0.0:
            raise ValueError(f"cyclic_prefix_s is {self.cyclic_prefix_s!r}; accepted: a number of seconds > 0")

    def rotation(self, exchange: int, devices: int, grid: ResourceGrid, seed: int) -> Complex:
        """Factors that the channel takes on unknown to anybody; parameters as :meth:`PhaseError.rotation`.

        Returns
        -------
        ndarray of complex128, shape (S, N)
        """
        offset = self.offsets(exchange, devices, seed)
        slope = np.exp(-2j * math.pi * grid.frequencies[:, None] * offset)
        arrived = np.abs(offset) <= self.cyclic_prefix_s / 2.0
        return np.asarray(slope * (np.sinc(grid.subband_width * offset) * arrived), dtype=np.complex128)

    def offsets(self, exchange: int, devices: int, seed: int) -> Real:
        """tau of each device, s, shape (N,)."""
        return self.std_s * generator(seed, "impairments/timing", exchange).standard_normal(devices)

    def lost_share(self) -> float:
        r"""Probability of an offset beyond half the prefix, :math:`\mathrm{erfc}(T_{CP}/(2\sqrt 2 s_\tau))`."""
        if self.std_s == 0.0:
            return 0.0
        return math.erfc(self.cyclic_prefix_s / (2.0 * math.sqrt(2.0) * self.std_s))
