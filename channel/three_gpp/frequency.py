"""Frequency response of a sum of paths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
NUMBERS_AT_ONCE = 2_000_000


def subband_centres(bandwidth_hz: float, subbands: int) -> Real:
    """Centres of S equal parts of a band, Hz from the carrier: (s - (S - 1)/2) B/S."""
    centres: Real = (np.arange(subbands, dtype=np.float64) - (subbands - 1) / 2.0) * (bandwidth_hz / subbands)
    return centres


def frequency_response(paths: Complex, delays: Real, frequencies: Real) -> Complex:
    r""":math:`H(f) = \sum_p a_p e^{-j 2\pi f\tau_p}` of each device, a few devices at a time.

    Parameters
    ----------
    paths : ndarray of complex128, shape (N, P, M)
        a_p at each antenna.
    delays : ndarray, shape (N, P)
        tau_p, s.
    frequencies : ndarray, shape (S,)
        Hz from the carrier.

    Returns
    -------
    ndarray of complex128, shape (S, N, M)
    """
    devices, count, antennas = paths.shape
    gains = np.empty((len(frequencies), devices, antennas), dtype=np.complex128)
    step = max(1, NUMBERS_AT_ONCE // (len(frequencies) * count))
    for start in range(0, devices, step):
        some = slice(start, start + step)
        turns = np.exp(-2j * np.pi * frequencies[:, None] * delays[some, None, :])
        gains[:, some] = np.swapaxes(turns @ paths[some], 0, 1)
    return gains
