"""The modulation and coding schemes of PUSCH, and how a packet is cut into code blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]

MODULATION_BITS = np.array([2] * 10 + [4] * 7 + [6] * 12)
"""Bits of a QAM symbol by MCS index (4-, 16- and 64-QAM): 3GPP TS 38.214 table 5.1.3.1-1."""

# fmt: off
CODE_RATES = np.array([
    120, 157, 193, 251, 308, 379, 449, 526, 602, 679,
    340, 378, 434, 490, 553, 616, 658,
    438, 466, 517, 567, 616, 666, 719, 772, 822, 873, 910, 948,
]) / 1024
# fmt: on
"""Target code rate by MCS index, same table. PUSCH uses it where transform precoding is off, clause 6.1.4.1."""

BITS_PER_USE: Real = MODULATION_BITS * CODE_RATES
"""Spectral efficiency by MCS index, bits per complex use."""


def code_blocks(bits: Real) -> tuple[NDArray[np.int64], Real]:
    """Number and size of the code blocks of packets, at each MCS (3GPP TS 38.212, clauses 5.1, 6.2.1, 6.2.2, 5.2.2).

    A packet gets 24 check bits (16 up to 3824 bits). Above 8448 bits (3840 for base graph 2) it is cut into equal
    blocks of at most that size with 24 check bits each. Base graph 2 is that of packets up to 292 bits, up to 3824 bits
    at rates up to 0.67, and of any at rates up to 1/4. Filler bits and the limit of a slot are left out.

    Parameters
    ----------
    bits : ndarray, shape (K,)
        Packet sizes.

    Returns
    -------
    blocks : ndarray of int, shape (K, 29)
    sizes : ndarray, shape (K, 29)
        Bits of a block, check bits included.
    """
    size = bits[:, None]
    checked = size + np.where(size > 3824, 24, 16)
    second_graph = (size <= 292) | ((size <= 3824) & (CODE_RATES <= 0.67)) | (CODE_RATES <= 0.25)
    largest = np.where(second_graph, 3840, 8448)
    blocks = np.where(checked <= largest, 1, np.ceil(checked / (largest - 24)))
    sizes = np.ceil((checked + np.where(blocks > 1, 24 * blocks, 0)) / blocks)
    return blocks.astype(np.int64), sizes
