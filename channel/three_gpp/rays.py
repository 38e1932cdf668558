"""Rays of TR 38.901 summed to a frequency response at any time: steps 10 to 12 of clause 7.5."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.three_gpp.frequency import frequency_response

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
SECOND, THIRD = [8, 9, 10, 11, 16, 17], [12, 13, 14, 15]
"""Rays of the second and third sub-cluster of a strong cluster (table 7.5-5); the others are its first."""


@dataclass(frozen=True)
class RayBundle:
    r"""The rays of N devices, which stay while a device moves less than a correlation distance.

    All antennas are vertical dipoles without pattern: of the polarisation matrix only
    :math:`e^{j\Phi^{\theta\theta}}` is left, and the mean power over the phases is that of path loss and shadowing.
    Ray r of a device adds at antenna m and time t (equations 7.5-22, 7.5-29 and 7.5-30)

    .. math::
        \sqrt{p_r}\,\exp\bigl(j\Phi_r + j\kappa\,\hat r_r^{BS} d_m + j\kappa\,\hat r_r^{UT} v\,t\bigr),
        \qquad \kappa = 2\pi/\lambda.

    Attributes
    ----------
    power : ndarray, shape (N,)
        Path gain, with shadowing and penetration.
    amplitudes, delays : ndarray, shape (N, C)
        sqrt of a ray's power in each cluster, their powers add up to 1 with the line of sight; s.
    strongest : ndarray of int, shape (N, 2)
        Clusters that are split in three.
    cluster_spread : ndarray, shape (N,)
        c_DS, s.
    doppler, horizontal, vertical : ndarray, shape (N, C, 20)
        Rate of the phase, rad/s; phase from one column, and one row, of antennas to the next, rad.
    sight_amplitude, sight_phase, sight_doppler, sight_horizontal, sight_vertical : ndarray, shape (N,)
        The same of the line of sight; amplitude 0 where there is none.
    """

    power: Real
    amplitudes: Real
    delays: Real
    strongest: NDArray[np.int64]
    cluster_spread: Real
    doppler: Real
    horizontal: Real
    vertical: Real
    sight_amplitude: Real
    sight_phase: Real
    sight_doppler: Real
    sight_horizontal: Real
    sight_vertical: Real

    def response(self, phases: Real, seconds: float, frequencies: Real, antennas: int) -> Complex:
        """Gains, shape (S, N, M).

        Parameters
        ----------
        phases : ndarray, shape (N, C, 20)
            Phi, rad.
        seconds : float
            t since the rays were drawn.
        frequencies : ndarray, shape (S,)
            Hz from the carrier.
        antennas : int
            M, of a panel of :func:`panel`.
        """
        rays = self.amplitudes[:, :, None] * np.exp(1j * (phases + self.doppler * seconds))
        sight = self.sight_amplitude * np.exp(1j * (self.sight_phase + self.sight_doppler * seconds))
        rows, columns = panel(antennas)
        paths = np.empty((len(self.power), self.amplitudes.shape[1] + 5, antennas), dtype=np.complex128)
        for antenna in range(antennas):
            row, column = antenna // columns - (rows - 1) / 2.0, antenna % columns - (columns - 1) / 2.0
            across = np.exp(1j * (column * self.horizontal + row * self.vertical)) if antennas > 1 else 1.0
            paths[:, :-1, antenna] = self._clusters(rays * across)
            paths[:, -1, antenna] = sight * np.exp(1j * (column * self.sight_horizontal + row * self.sight_vertical))
        gains = frequency_response(paths, self._path_delays(), frequencies)
        return np.sqrt(self.power)[None, :, None] * gains

    def _clusters(self, rays: Complex) -> Complex:
        """Sums over rays, (N, C + 4): clusters, less what the two strongest give to their later sub-clusters."""
        whole = rays.sum(axis=2)
        second = np.take_along_axis(rays[:, :, SECOND].sum(axis=2), self.strongest, axis=1)
        third = np.take_along_axis(rays[:, :, THIRD].sum(axis=2), self.strongest, axis=1)
        first = np.take_along_axis(whole, self.strongest, axis=1) - second - third
        np.put_along_axis(whole, self.strongest, first, axis=1)
        return np.concatenate([whole, second, third], axis=1)

    def _path_delays(self) -> Real:
        """Of the clusters, of the later sub-clusters and of the line of sight, (N, C + 5), s."""
        strong = np.take_along_axis(self.delays, self.strongest, axis=1)
        spread = self.cluster_spread[:, None]
        sight = np.zeros((len(self.power), 1))
        return np.concatenate([self.delays, strong + 1.28 * spread, strong + 2.56 * spread, sight], axis=1)


def panel(antennas: int) -> tuple[int, int]:
    """Rows and columns of a panel of half a wavelength's spacing: as near to a square as the number allows."""
    rows = max(divisor for divisor in range(1, math.isqrt(antennas) + 1) if antennas % divisor == 0)
    return rows, antennas // rows
