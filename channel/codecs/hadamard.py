"""The randomised Hadamard transform: any update as if its entries were Gaussian, in n log n operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor
from torch.nn import functional

from channel.randomness import generator

LARGEST_FACTOR = 64
"""The largest Hadamard matrix that is multiplied with as it is; larger ones are Kronecker products: 4 times faster."""


def hadamard(rows: Tensor) -> Tensor:
    """Each row times the orthonormal (Sylvester) Hadamard matrix, which is its own inverse.

    Parameters
    ----------
    rows : Tensor of shape (rows, n)
        n a power of two.
    """
    count, n = rows.shape
    for factor in _factors(n):  # the last axis is transformed and becomes the first: after all, the order is as it was
        rows = (rows.reshape(count, -1, factor) @ _matrix(factor)).transpose(1, 2).reshape(count, n)
    return rows


class RandomizedHadamard:
    r"""T = H R / sqrt(k): random signs R, then k of the n rows of the +-1 Hadamard matrix H.

    Each bucket (row) has its own signs; the k rows of H, drawn without replacement, are the same for all buckets.
    Then :math:`T T^T = (n/k) I_k` and :math:`E\,T^T T = I_n`; with k = n, T is orthonormal. For i != j,
    :math:`E (T^T T)_{ij}^2 = (n/k - 1) / (n - 1)`, wherever the entries are.

    Parameters
    ----------
    buckets : int
        How many rows are transformed.
    n : int
        Entries of each, a power of two.
    k : int
        Coefficients that are kept of each, 1 to n.
    seed : int
        Names the draws, together with n, k and `turn`.
    turn : int
        Tells transforms apart that follow one another.

    References
    ----------
    N. Ailon, B. Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 39(1), 2009.
    """

    def __init__(self, buckets: int, n: int, k: int, seed: int, turn: int = 0) -> None:
        self.n = n
        self.k = k
        drawn = generator(seed, "hadamard/signs", n, turn).bytes(math.ceil(buckets * n / 8))
        bits = np.frombuffer(drawn, dtype=np.uint8)
        self._signs = torch.from_numpy(np.unpackbits(bits, count=buckets * n)).float().mul_(2).sub_(1).view(buckets, n)
        self._kept: Tensor | None = None
        if k < n:
            chosen = generator(seed, "hadamard/rows", n, k, turn).choice(n, k, replace=False, shuffle=False)
            self._kept = torch.from_numpy(np.sort(chosen))

    def forward(self, rows: Tensor) -> Tensor:
        """T x of each row: shape (buckets, n) to (buckets, k)."""
        transformed = hadamard(rows * self._signs)
        if self._kept is None:
            return transformed
        return transformed.index_select(1, self._kept).mul_(math.sqrt(self.n / self.k))

    def adjoint(self, coefficients: Tensor) -> Tensor:
        """T' v of each row: shape (buckets, k) to (buckets, n)."""
        if self._kept is not None:
            scaled = coefficients * math.sqrt(self.n / self.k)
            coefficients = scaled.new_zeros(len(scaled), self.n).index_copy_(1, self._kept, scaled)
        return hadamard(coefficients) * self._signs


@dataclass(frozen=True)
class Block:
    """Buckets of one width: `start` to `stop` of the update, filled up with zeros to rows times width.

    In a bucket that is filled up entries and zeros lie in a random order, always the same: the lower half of a bucket
    is closed under the exclusive or of places, and what a quantiser adds to its entries would stay there.
    """

    start: int
    stop: int
    width: int

    @property
    def rows(self) -> int:
        """Buckets."""
        return math.ceil((self.stop - self.start) / self.width)

    @property
    def filling(self) -> int:
        """Zeros in the last bucket."""
        return self.rows * self.width - (self.stop - self.start)

    @property
    def entries(self) -> Tensor:
        """How many entries of each bucket are the update's, float64 of shape (rows,)."""
        entries = torch.full((self.rows,), float(self.width), dtype=torch.float64)
        entries[-1] -= self.filling
        return entries

    def cut(self, update: Tensor) -> Tensor:
        """The block's entries, shape (rows, width)."""
        entries = update[self.start : self.stop]
        if not self.filling:
            return entries.reshape(self.rows, self.width)
        rows = functional.pad(entries, (0, self.filling)).view(self.rows, self.width)
        rows[-1] = rows[-1][_order(self.width)]
        return rows

    def joined(self, rows: Tensor) -> Tensor:
        """What :meth:`cut` cut, shape (stop - start,)."""
        if not self.filling:
            return rows.reshape(-1)
        last = torch.empty_like(rows[-1]).index_copy_(0, _order(self.width), rows[-1])
        return torch.cat([rows[:-1].reshape(-1), last[: self.width - self.filling]])


def blocks(size: int, bucket: int) -> Sequence[Block]:
    """An update cut into buckets of `bucket` entries; the last has the next power of two >= what is left.

    What is sent for a filling of zeros is not lost: the error spreads over the filling too, and is cut off with it.
    """
    whole = size - size % bucket
    last = size - whole
    width = 1 << max(last - 1, 0).bit_length()
    if last == 0 or width == bucket:
        return (Block(0, size, bucket),)
    short = Block(whole, size, width)
    return (Block(0, whole, bucket), short) if whole else (short,)


def joined(parts: Sequence[Tensor], places: Sequence[Block]) -> Tensor:
    """The update of blocks."""
    return torch.cat([place.joined(part) for part, place in zip(parts, places, strict=True)])


def check_power_of_two(bucket: int) -> None:
    """Refuse what is not a power of two."""
    if isinstance(bucket, bool) or not isinstance(bucket, int) or bucket < 1 or bucket & (bucket - 1):
        raise ValueError(f"bucket = {bucket!r}: accepted: a power of two, 1, 2, 4, ...")


def _factors(n: int) -> list[int]:
    """Powers of two whose product is n, at most 64 each and about equal."""
    exponent = n.bit_length() - 1
    if n != 1 << exponent:
        raise ValueError(f"n = {n}: accepted: a power of two")
    count = max(1, math.ceil(exponent / (LARGEST_FACTOR.bit_length() - 1)))
    return [1 << (exponent + i) // count for i in range(count)]


@lru_cache(maxsize=16)
def _order(width: int) -> Tensor:
    return torch.from_numpy(generator(0, "hadamard/filling", width).permutation(width))


@lru_cache(maxsize=16)
def _matrix(n: int) -> Tensor:
    return torch.from_numpy((scipy.linalg.hadamard(n) / math.sqrt(n)).astype(np.float32))
