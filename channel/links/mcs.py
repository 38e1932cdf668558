"""A 5G uplink: the rate from a finite table, by link adaptation, with block errors."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from channel.links.block_errors import BLOCK_ERRORS
from channel.links.link import BlockFormat, Link, Real, Schemes
from channel.links.modulation_and_coding import BITS_PER_USE, code_blocks


class McsLink(Link):
    """Modulation and coding schemes of 3GPP TS 38.214 table 5.1.3.1-1, QPSK at rate 0.12 to 64-QAM at rate 0.93.

    Inner-loop link adaptation: of the schemes whose block error, at the SNR that the sender assumes, is within the
    target, the fastest; if there is none, the slowest there is. A packet is cut into code blocks (see
    :func:`~channel.links.modulation_and_coding.code_blocks`), each lost and sent again on its own. So a long packet
    needs retransmissions: at 10 % block errors 118 blocks of a million bits all arrive with probability 4e-6 at once,
    with 0.989 after three retransmissions.

    Parameters
    ----------
    block_error_target : float
        In (0, 1); 0.1 is what 5G aims at for a first attempt.
    block_errors : {"normal-approximation", "sionna"}
        Where block errors come from: :class:`~channel.links.block_errors.NormalApproximation`, a closed form fitted to
        Sionna's tables, or :class:`~channel.links.block_errors.SionnaTables`, the tables (needs ``fedmac[3gpp]``).
    mcs : int, optional
        Always this scheme, 0 to 28, instead of adaptation.

    Raises
    ------
    ValueError
        A parameter outside the above.
    ImportError
        ``block_errors="sionna"`` without Sionna.
    """

    name = "mcs"

    def __init__(
        self,
        block_error_target: float = 0.1,
        block_errors: Literal["normal-approximation", "sionna"] = "normal-approximation",
        mcs: int | None = None,
    ) -> None:
        if not 0.0 < block_error_target < 1.0:
            raise ValueError(f"block_error_target is {block_error_target!r}; accepted: 0 < block_error_target < 1")
        if block_errors not in BLOCK_ERRORS:
            raise ValueError(f"block_errors is {block_errors!r}; accepted: {', '.join(map(repr, BLOCK_ERRORS))}")
        if mcs is not None and mcs not in range(len(BITS_PER_USE)):
            raise ValueError(f"mcs is {mcs!r}; accepted: 0 to {len(BITS_PER_USE) - 1}, or None for link adaptation")
        self.block_error_target = block_error_target
        self.block_errors = block_errors
        self.mcs = mcs
        self._errors = BLOCK_ERRORS[block_errors]()

    def schemes(self, bits: Real) -> Schemes:
        """The schemes of the table, or the one that is set; the slowest is fallen back on."""
        size, device = np.unique(bits, return_inverse=True)
        blocks, sizes = code_blocks(size)
        uses = blocks * sizes / BITS_PER_USE
        if self.mcs is not None:
            return Schemes(uses[device][:, [self.mcs]], np.zeros((len(bits), 1)))
        least = self._least_snr(sizes)
        least[:, self._slowest] = 0.0
        return Schemes(uses[device], least[device])

    def _format(self, snr: Real, bits: Real, assumed_snr: Real) -> BlockFormat:
        blocks, sizes = code_blocks(bits)
        chosen = self._choose(assumed_snr, sizes)
        at = np.arange(len(bits)), chosen
        error = self._errors(snr[:, None], sizes)[at]
        return BlockFormat(BITS_PER_USE[chosen], blocks[at], sizes[at], error)

    def _choose(self, assumed_snr: Real, sizes: Real) -> NDArray[np.int64]:
        if self.mcs is not None:
            return np.full(len(sizes), self.mcs)
        error = self._errors(assumed_snr[:, None], sizes)
        good = np.where(error <= self.block_error_target, BITS_PER_USE, 0.0)
        return np.where(good.any(axis=1), good.argmax(axis=1), self._slowest)

    @cached_property
    def _slowest(self) -> int:
        """The first scheme of which anything is known."""
        known = self._errors(np.full((1, 1), np.inf), np.full((1, len(BITS_PER_USE)), 1000.0))[0] < 1.0
        return int(known.argmax())

    def _least_snr(self, sizes: Real) -> Real:
        """SNR at which each scheme meets the target, by bisection over 80 dB; infinite where it does not."""
        low, high = np.full(sizes.shape, -30.0), np.full(sizes.shape, 50.0)
        met = self._at_db(high, sizes)
        for _ in range(40):  # to 1e-10 dB
            middle = 0.5 * (low + high)
            enough = self._at_db(middle, sizes)
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(met, 10.0 ** (high / 10.0), np.inf)

    def _at_db(self, snr_db: Real, sizes: Real) -> NDArray[np.bool_]:
        return self._errors(10.0 ** (snr_db / 10.0), sizes) <= self.block_error_target
