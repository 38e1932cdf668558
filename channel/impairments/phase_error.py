"""Phases that devices do not turn back quite as they should."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.impairments.resource_grid import ResourceGrid
from channel.randomness import generator

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class PhaseError:
    r"""A phase :math:`\phi \sim N(0, s_\phi^2)` of each device in each exchange, over all of its blocks.

    Devices that know nothing of it arrive with :math:`g = w\cos\phi` in the real part: short by the factor
    :meth:`bias` on average, with variance :meth:`variance`, so the error of the mean of K devices is
    :math:`(1 - e^{-s_\phi^2/2})^2\|\bar x\|^2 + v\sum_i w_i^2\|x_i\|^2` (R9 of docs/equations.md).

    Parameters
    ----------
    std : float
        s_phi >= 0, rad.

    Raises
    ------
    ValueError
        std negative or not finite.
    """

    std: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.std < math.inf:
            raise ValueError(f"std is {self.std!r}; accepted: a finite number of radians >= 0")

    def rotation(self, exchange: int, devices: int, grid: ResourceGrid, seed: int) -> Complex:
        r"""Factors that the channel takes on unknown to anybody, :math:`e^{j\phi}`.

        Parameters
        ----------
        exchange : int
            Number of the exchange, >= 0.
        devices : int
            N, all devices of the scenario.
        grid : ResourceGrid
            Its S blocks.
        seed : int
            The run's seed.

        Returns
        -------
        ndarray of complex128, shape (S, N)
        """
        phase = self.std * generator(seed, "impairments/phase", exchange).standard_normal(devices)
        return np.tile(np.exp(1j * phase), (grid.blocks, 1))

    def bias(self) -> float:
        r""":math:`E\cos\phi = e^{-s_\phi^2/2}`."""
        return math.exp(-(self.std**2) / 2.0)

    def variance(self) -> float:
        r""":math:`v = \mathrm{Var}\cos\phi = (1 + e^{-2s_\phi^2})/2 - e^{-s_\phi^2}`."""
        return (1.0 + math.exp(-2.0 * self.std**2)) / 2.0 - math.exp(-(self.std**2))
