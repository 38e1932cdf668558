"""What energy detectors hear of many devices' chips, under two models of fading."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class ChipEnergies:
    """Energies of C chips, the mean over a chip's L uses and M antennas, in the unit of `powers`.

    Attributes
    ----------
    energies : Tensor, shape (C,)
        What is measured, noise included.
    expected, variance : Tensor, shape (C,)
        Mean and variance of `energies` as their model has them; errors of different chips are uncorrelated.
    """

    energies: Tensor
    expected: Tensor
    variance: Tensor


def fading_by_the_chip(powers: Tensor, noise_power: float, observations: int, rng: np.random.Generator) -> ChipEnergies:
    r"""Every use of a chip fades on its own at every antenna, Rayleigh.

    What arrives is then :math:`y \sim CN(0, \sum_i p_i + N_0)` exactly, and the mean of n observations of
    :math:`|y|^2` has a gamma distribution of this mean :math:`\mu` and the variance :math:`\mu^2/n`.

    Parameters
    ----------
    powers : Tensor, shape (K, C)
        p_i, the mean power that each device's chip arrives with.
    noise_power : float
        N0.
    observations : int
        n = L M.
    rng : numpy.random.Generator
        Draws the energies.
    """
    expected = powers.sum(dim=0) + noise_power
    drawn = torch.from_numpy(rng.standard_gamma(observations, len(expected))) / observations
    return ChipEnergies(expected * drawn, expected, expected.square() / observations)


def fading_by_the_exchange(
    powers: Tensor, gains: Complex, noise_power: float, chips: int, rng: np.random.Generator
) -> ChipEnergies:
    r"""The channel is constant over an exchange in each resource block; devices turn every use by a random phase.

    At antenna a of block s a use of a chip arrives as :math:`y_a = \sum_i g_{sia}\sqrt{p_i}\,e^{j\theta_i} + n_a`.
    Over phases and noise the mean over the antennas of :math:`|y_a|^2` has, :math:`g_i` the vector over antennas,

    .. math::
        \mu = \frac1M \sum_i \|g_i\|^2 p_i + N_0, \qquad M^2 v = \sum_{i \neq k} |g_i^H g_k|^2 p_i p_k
        + 2 N_0 \sum_i \|g_i\|^2 p_i + M N_0^2.

    Parameters
    ----------
    powers : Tensor, shape (K, 2 d)
        p_i of the chips of positive parts, then of the negative ones; a device has power on one chip of a pair.
    gains : ndarray of complex128, shape (S, K, M)
        g, relative to what `powers` is the mean of.
    noise_power : float
        N0.
    chips : int
        L. The uses of entry j are in blocks j + l max(1, S // L) modulo S, l = 0 .. L - 1.
    rng : numpy.random.Generator
        Draws phases and noise.
    """
    pairs = powers.reshape(len(powers), 2, -1)
    expected, variance = _moments(pairs, gains, noise_power, chips)
    energies = torch.zeros(pairs.shape[1:], dtype=torch.float64)
    amplitudes = pairs.sqrt()
    for use in range(chips):
        energies += _one_use(amplitudes, gains, noise_power, _block(np.arange(pairs.shape[2]), use, chips, gains), rng)
    return ChipEnergies(energies.flatten() / chips, expected.flatten(), variance.flatten())


def _block(entry: NDArray[np.int64], use: int, chips: int, gains: Complex) -> NDArray[np.int64]:
    return (entry + use * max(1, len(gains) // chips)) % len(gains)


def _one_use(
    amplitudes: Tensor, gains: Complex, noise_power: float, blocks: NDArray[np.int64], rng: np.random.Generator
) -> Tensor:
    """Energies of one use of every chip, (2, d), the mean over the antennas."""
    size, antennas = len(blocks), gains.shape[2]
    noise = torch.from_numpy(rng.standard_normal((2, size, antennas, 2))) * math.sqrt(noise_power / 2.0)
    arriving = torch.view_as_complex(noise)
    where, of_block = torch.from_numpy(blocks), torch.from_numpy(gains)
    for device, amplitude in enumerate(amplitudes):
        # One phase for both chips of a pair: a device sends on one of them.
        turn = torch.polar(torch.ones(size, dtype=torch.float64), torch.from_numpy(rng.random(size) * 2.0 * math.pi))
        seen = of_block[:, device] if len(gains) == 1 else of_block[where, device]
        arriving += (amplitude * turn)[:, :, None] * seen
    energies: Tensor = torch.view_as_real(arriving).square().sum(dim=(2, 3)) / antennas
    return energies


def _moments(pairs: Tensor, gains: Complex, noise_power: float, chips: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the mean over a chip's uses, (2, d) each."""
    expected = torch.zeros(pairs.shape[1:], dtype=torch.float64)
    variance, antennas = torch.zeros_like(expected), gains.shape[2]
    for first in range(min(len(gains), pairs.shape[2])):
        own = pairs[:, :, first :: len(gains)]
        visited = [int(_block(np.array([first]), use, chips, gains)[0]) for use in range(chips)]
        for block, times in zip(*np.unique(visited, return_counts=True), strict=True):
            products = np.abs(gains[block].conj() @ gains[block].T) ** 2
            strength = torch.from_numpy(np.sqrt(np.diag(products)))
            np.fill_diagonal(products, 0.0)
            signal = torch.einsum("k,kpc->pc", strength, own)
            crossed = (own * torch.einsum("ik,kpc->ipc", torch.from_numpy(products), own)).sum(dim=0)
            mean = signal / antennas + noise_power
            spread = (crossed + 2.0 * noise_power * signal) / antennas**2 + noise_power**2 / antennas
            expected[:, first :: len(gains)] += times / chips * mean
            variance[:, first :: len(gains)] += times / chips**2 * spread
    return expected, variance
