"""What a device gets out of its channel: bits per use at an SNR, and how often a block is lost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import ArrayLike, NDArray

Real = NDArray[np.float64]


@dataclass(frozen=True)
class BlockFormat:
    """How a packet is sent: in blocks that are decoded, lost and sent again each on its own.

    Attributes
    ----------
    bits_per_use : ndarray, shape (K,)
        Bits per complex use (bit/s/Hz), half of it per real use; 0 where nothing can be sent.
    blocks : ndarray of int, shape (K,)
        Blocks a packet is cut into.
    block_bits : ndarray, shape (K,)
        Bits of one block, check bits included.
    block_error : ndarray, shape (K,)
        Probability that one attempt at a block is lost.
    """

    bits_per_use: Real
    blocks: NDArray[np.int64]
    block_bits: Real
    block_error: Real

    @property
    def block_uses(self) -> Real:
        """Complex uses of one attempt at a block, shape (K,); infinite where nothing can be sent."""
        with np.errstate(divide="ignore"):
            return np.where(self.bits_per_use > 0, self.block_bits / self.bits_per_use, np.inf)


@dataclass(frozen=True)
class Schemes:
    """The rates that a link has for a packet, M of them.

    Attributes
    ----------
    uses : ndarray, shape (K, M)
        Complex uses of a packet sent once.
    least_snr : ndarray, shape (K, M)
        From which a sender takes the scheme; 0 for the one that it falls back on.
    """

    uses: Real
    least_snr: Real


class Link(ABC):
    """The code and modulation that a device sends with, seen from outside.

    An SNR is that of a complex use, P |h|^2 / (N0 B) over the band B that the device occupies.

    Attributes
    ----------
    name : str
        By which scenarios know it.
    gap : float or None
        Gamma >= 1 where the rate is log2(1 + SNR / Gamma) bits per complex use; None where there are only some rates
        (:meth:`schemes`).
    """

    name: ClassVar[str]
    gap: float | None = None

    def format(self, snr: ArrayLike, bits: ArrayLike, assumed_snr: ArrayLike | None = None) -> BlockFormat:
        """How packets are sent over channels of these SNRs.

        Parameters
        ----------
        snr : array, shape (K,), or a scalar
            Linear, >= 0; infinite without noise.
        bits : array of int, shape (K,), or a scalar
            Size of each packet, >= 1.
        assumed_snr : array, shape (K,), or a scalar, optional
            What the sender takes its SNR for and chooses its rate by; `snr` if not given.

        Raises
        ------
        ValueError
            Values outside the above, or shapes that do not go together.
        """
        true = _checked("snr", snr)
        assumed = true if assumed_snr is None else _checked("assumed_snr", assumed_snr)
        size = _checked("bits", bits)
        if (size < 1).any() or not np.isfinite(size).all() or (size != np.floor(size)).any():
            raise ValueError(f"bits is {bits!r}; accepted: integers >= 1 (leave out a device that sends nothing)")
        try:
            true, size, assumed = np.broadcast_arrays(np.atleast_1d(true), size, assumed)
        except ValueError as error:
            raise ValueError(
                f"snr, bits, assumed_snr have shapes {true.shape}, {size.shape}, {assumed.shape}; accepted: (K,) each"
            ) from error
        return self._format(true, size, assumed)

    @abstractmethod
    def _format(self, snr: Real, bits: Real, assumed_snr: Real) -> BlockFormat:
        """Shape (K,) each, checked."""

    def schemes(self, bits: Real) -> Schemes | None:
        """The rates there are for packets of these sizes, shape (K,); None where the rate follows the SNR."""
        return None

    def spectral_efficiency(self, snr: ArrayLike) -> Real:
        """Bits per complex use (bit/s/Hz) of a long packet at these SNRs, shape (K,); twice those of a real use."""
        return self.format(snr, LONG_PACKET).bits_per_use

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


LONG_PACKET = 1_000_000
"""Bits of the packet that :meth:`Link.spectral_efficiency` stands for."""


class GapLink(Link):
    r"""Rate at a gap to capacity: :math:`\log_2(1 + SNR/\Gamma)` bits per complex use, without errors.

    The sender knows its SNR and adapts; one that takes it for higher than it is sends above what the channel carries
    and loses the packet, which is one block.

    Parameters
    ----------
    gap_db : float
        Gamma in dB, >= 0. See :meth:`from_bit_error_rate` for that of uncoded QAM.

    References
    ----------
    G. D. Forney, G. Ungerboeck, "Modulation and coding for linear Gaussian channels", IEEE Trans. Inf. Theory 44(6),
    1998; A. J. Goldsmith, S.-G. Chua, "Variable-rate variable-power MQAM for fading channels", IEEE Trans. Commun.
    45(10), 1997.
    """

    name = "snr-gap"
    gap: float

    def __init__(self, gap_db: float) -> None:
        if not 0.0 <= gap_db < math.inf:
            raise ValueError(f"gap_db is {gap_db!r}; accepted: a finite number of dB >= 0")
        self.gap_db = gap_db
        self.gap = 10.0 ** (gap_db / 10.0)

    @classmethod
    def from_bit_error_rate(cls, bit_error_rate: float) -> GapLink:
        r"""Gap of uncoded M-QAM, :math:`\Gamma = -\ln(5\,BER)/1.5`; 5.48 dB at a bit error rate of 1e-3.

        Parameters
        ----------
        bit_error_rate : float
            In (0, 0.04]: above it the bound would be a link beyond capacity.
        """
        if not 0.0 < bit_error_rate <= 0.04:
            raise ValueError(f"bit_error_rate is {bit_error_rate!r}; accepted: 0 < bit_error_rate <= 0.04")
        return cls(10.0 * math.log10(-math.log(5.0 * bit_error_rate) / 1.5))

    def _format(self, snr: Real, bits: Real, assumed_snr: Real) -> BlockFormat:
        return _at_gap(snr, bits, assumed_snr, self.gap)


class ShannonLink(Link):
    """Capacity, log2(1 + SNR) bits per complex use, without errors: what no code does better than."""

    name = "shannon"
    gap = 1.0

    def _format(self, snr: Real, bits: Real, assumed_snr: Real) -> BlockFormat:
        return _at_gap(snr, bits, assumed_snr, self.gap)

    def __repr__(self) -> str:
        return "ShannonLink()"


class FixedRateLink(Link):
    r"""One rate for all, whatever the channel; a packet is lost when its channel is too weak for it.

    For a sender that does not know its channel. With R bits per complex use the channel must have
    :math:`SNR \ge 2^R - 1`. Under Rayleigh fading of mean SNR :math:`\bar\gamma` an attempt is lost with probability

    .. math:: 1 - \exp(-(2^R - 1)/\bar\gamma),

    and with L branches combined, each of that mean, with probability :math:`P(L, (2^R - 1)/\bar\gamma)`, P being the
    regularised lower incomplete gamma function.

    Parameters
    ----------
    bits_per_use : float
        R > 0, per complex use.
    snr_is : {"mean", "instantaneous"}
        ``mean``: each attempt sees fading of its own around the SNR given (the channel of the scenario then has path
        loss and no fading of its own). ``instantaneous``: the SNR is that of the block, and an attempt arrives or not.
    branches : int
        L >= 1 independent branches (receive antennas) whose signals are combined; with "mean" only.

    References
    ----------
    D. Tse, P. Viswanath, "Fundamentals of Wireless Communication", Cambridge 2005, section 5.4.
    """

    name = "fixed-rate"

    def __init__(
        self, bits_per_use: float, snr_is: Literal["mean", "instantaneous"] = "mean", branches: int = 1
    ) -> None:
        if not 0.0 < bits_per_use < math.inf:
            raise ValueError(f"bits_per_use is {bits_per_use!r}; accepted: a finite number > 0")
        if snr_is not in ("mean", "instantaneous"):
            raise ValueError(f"snr_is is {snr_is!r}; accepted: 'mean', 'instantaneous'")
        if branches < 1 or (branches > 1 and snr_is == "instantaneous"):
            raise ValueError(f"branches is {branches!r}; accepted: an integer >= 1, and 1 with snr_is='instantaneous'")
        self.bits_per_use = float(bits_per_use)
        self.snr_is = snr_is
        self.branches = branches

    def schemes(self, bits: Real) -> Schemes:
        """The one rate."""
        return Schemes(bits[:, None] / self.bits_per_use, np.zeros((len(bits), 1)))

    def _format(self, snr: Real, bits: Real, assumed_snr: Real) -> BlockFormat:
        needed = 2.0**self.bits_per_use - 1.0
        if self.snr_is == "instantaneous":
            lost = np.where(snr < needed, 1.0, 0.0)
        else:
            with np.errstate(divide="ignore"):
                lost = scipy.special.gammainc(self.branches, np.where(snr > 0, needed / snr, np.inf))
        ones = np.ones(bits.shape)
        return BlockFormat(self.bits_per_use * ones, ones.astype(np.int64), bits.copy(), lost)


def _at_gap(snr: Real, bits: Real, assumed_snr: Real, gap: float) -> BlockFormat:
    # A phase that somebody has turned leaves the gain as it is but for rounding, which loses no block.
    lost = np.where((assumed_snr > snr * (1.0 + 1e-9)) | (snr == 0), 1.0, 0.0)
    return BlockFormat(np.log2(1.0 + assumed_snr / gap), np.ones(bits.shape, dtype=np.int64), bits.copy(), lost)


def _checked(name: str, values: ArrayLike) -> Real:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 1 or array.size == 0 or not (array >= 0).all():
        raise ValueError(f"{name} is {values!r}; accepted: numbers >= 0, a scalar or shape (K,)")
    return array
