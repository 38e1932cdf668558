"""Power amplifiers that saturate, and the peaks that drive them there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from channel.mac import pack, unpack

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Amplifier:
    r"""A soft limiter: complex samples above a level A are clipped to it, phases are kept.

    :math:`x \to x\min(1, A/|x|)` with :math:`A = \gamma\sqrt P`, P the mean power of the device's samples. For
    Gaussian samples, and those of OFDM with many subcarriers nearly are, what comes out is
    :math:`\alpha x + d` with d uncorrelated with x (Bussgang),

    .. math:: \alpha = 1 - e^{-\gamma^2} + \tfrac{\sqrt\pi}{2}\gamma\,\mathrm{erfc}\,\gamma, \qquad
        E|d|^2 = P(1 - e^{-\gamma^2} - \alpha^2).

    Ochiai, Imai, "Performance analysis of deliberately clipped OFDM signals", IEEE Trans. Commun. 50(1), 2002.

    Parameters
    ----------
    clip_db : float
        :math:`20\log_{10}\gamma`, dB over the mean power.
    subcarriers : int, optional
        N: symbols ride on the subcarriers of an OFDM signal, N complex uses an OFDM symbol (the last one filled up
        with silent subcarriers), and its time samples are clipped, at the rate of the symbols: peaks between samples
        and power outside the band are not modelled. None: the symbols themselves are the samples.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    clip_db: float
    subcarriers: int | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.clip_db):
            raise ValueError(f"clip_db is {self.clip_db!r}; accepted: a finite number of dB")
        if self.subcarriers is not None and self.subcarriers < 1:
            raise ValueError(f"subcarriers is {self.subcarriers!r}; accepted: a whole number >= 1, or None")

    def transmit(self, symbols: Tensor) -> Tensor:
        """What leaves the antennas.

        Parameters
        ----------
        symbols : Tensor, shape (K, m)
            Real symbols of the K devices, float32 or float64, two a complex use.

        Returns
        -------
        Tensor, shape (K, m)
            As the receiver would take them from a clean channel. A silent device stays silent.
        """
        if symbols.ndim != 2:
            raise ValueError(f"symbols has shape {tuple(symbols.shape)}; accepted: (K, m) for K devices")
        packed = pack(symbols)
        return unpack(self._symbols(self.radiated(packed), packed.shape[1]), symbols.shape[1])

    def radiated(self, packed: Tensor) -> Tensor:
        """Time samples of complex uses (K, n) as they leave the amplifier."""
        samples = self.samples(packed)
        level = self._clip_ratio * samples.abs().square().mean(dim=1, keepdim=True).sqrt()
        magnitude = samples.abs()
        return torch.where(magnitude > level, samples * (level / magnitude), samples)

    def samples(self, packed: Tensor) -> Tensor:
        """Time samples of complex uses (K, n): themselves, or of OFDM, filled up to whole OFDM symbols."""
        if self.subcarriers is None:
            return packed
        filled = torch.nn.functional.pad(packed, (0, -packed.shape[1] % self.subcarriers))
        blocks: Tensor = torch.fft.ifft(filled.reshape(len(packed), -1, self.subcarriers), norm="ortho")
        return blocks.flatten(1)

    def _symbols(self, samples: Tensor, uses: int) -> Tensor:
        """Undo :meth:`samples`."""
        if self.subcarriers is None:
            return samples
        blocks: Tensor = torch.fft.fft(samples.reshape(len(samples), -1, self.subcarriers), norm="ortho")
        return blocks.flatten(1)[:, :uses]

    def gain(self) -> float:
        """alpha, what is left of a Gaussian signal's amplitude."""
        ratio = self._clip_ratio
        return 1.0 - math.exp(-(ratio**2)) + math.sqrt(math.pi) / 2.0 * ratio * math.erfc(ratio)

    def distortion_power(self, power: float = 1.0) -> float:
        r""":math:`E|d|^2` of a Gaussian signal of this mean power."""
        return power * max(0.0, -math.expm1(-(self._clip_ratio**2)) - self.gain() ** 2)

    @property
    def _clip_ratio(self) -> float:
        return math.pow(10.0, self.clip_db / 20.0)


def papr_exceeds(ratio: ArrayLike, subcarriers: int) -> Real:
    r"""Probability that the peak-to-average power of an OFDM symbol exceeds `ratio`, :math:`1 - (1 - e^{-g})^N`.

    For N independent complex Gaussian samples (the sampling theorem's: no oversampling), elementwise in the linear
    ratio g >= 0. van Nee, Prasad, "OFDM for Wireless Multimedia Communications", 2000, ch. 6.
    """
    g = np.asarray(ratio, dtype=np.float64)
    if not (g >= 0).all():
        raise ValueError(f"ratio is {ratio!r}; accepted: linear power ratios >= 0")
    if subcarriers < 1:
        raise ValueError(f"subcarriers is {subcarriers!r}; accepted: a whole number >= 1")
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(subcarriers * np.log1p(-np.exp(-g))))
