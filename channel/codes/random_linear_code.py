"""Random linear coding: random signs, a cosine transform, random rows."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import scipy  # its parts load when first used
import torch
from torch import Tensor

from channel.codes.code import Code, Decoder, SymbolCount
from channel.codes.cosine_transform import dct, idct
from channel.randomness import generator


class RandomLinearCode(Code):
    r"""Compress an update of d entries into m real channel uses by :math:`A = R\,C\,D`.

    D holds n random signs, C is the orthonormal DCT-II, R keeps m of its n rows, drawn uniformly without
    replacement, so :math:`A A^T = I_m` and no Gaussian code does better (R4 of docs/equations.md). The update
    is padded with zeros to n = ``scipy.fft.next_fast_len(d)``, as a transform of awkward length is ten times
    slower; the unbiased decoder multiplies by n/m, not d/m, and so is exactly unbiased. With n > d a code of
    m = d uses is not the identity; the error is that of :meth:`~channel.codes.code.Code.mean_squared_error`.

    Parameters
    ----------
    ratio : float, optional
        m / d in (0, 1]; exactly one of ``ratio`` and ``uses``.
    uses : int, optional
        m, at most the size of the update.
    decoder, error_feedback
        See :class:`~channel.codes.code.Code`.

    Raises
    ------
    ValueError
        A parameter outside the above; at :meth:`encode`, ``uses`` greater than the size.

    Examples
    --------
    >>> code = RandomLinearCode(ratio=0.1)
    >>> symbols = code.encode(torch.ones(1000), seed=3)
    >>> tuple(symbols.shape), tuple(code.decode(symbols, size=1000, seed=3).shape)
    ((100,), (1000,))
    """

    name = "random-linear"

    def __init__(
        self,
        ratio: float | None = None,
        uses: int | None = None,
        decoder: Decoder = "unbiased",
        error_feedback: bool = False,
    ) -> None:
        super().__init__(decoder, error_feedback)
        self._count = SymbolCount(ratio, uses)

    def uses(self, size: int) -> int:
        """m = round(ratio d), at least 1; or the number given."""
        return self._count.of(size)

    def padded_size(self, size: int) -> int:
        """The next length >= ``size`` whose transform is fast."""
        return scipy.fft.next_fast_len(size, real=True)

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        size = update.shape[-1]
        n = self.padded_size(size)
        signs, rows = _signs_and_rows(seed, size, n, self.uses(size), str(update.device))
        padded = update.new_zeros(*update.shape[:-1], n)
        torch.mul(update, signs[:size], out=padded[..., :size])
        return dct(padded).index_select(-1, rows)

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        n = self.padded_size(size)
        signs, rows = _signs_and_rows(seed, size, n, self.uses(size), str(symbols.device))
        spectrum = symbols.new_zeros(*symbols.shape[:-1], n).index_copy_(-1, rows, symbols)
        return idct(spectrum)[..., :size] * signs[:size]

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code."""
        return self._count.parameters | super().parameters


@lru_cache(maxsize=8)
def _signs_and_rows(seed: int, size: int, n: int, m: int, device: str) -> tuple[Tensor, Tensor]:
    """Drawn once a round: all K devices and the receiver share the code."""
    rng = generator(seed, "code/random-linear", size, m)
    signs = rng.integers(0, 2, n, dtype=np.int8).astype(np.float32) * 2.0 - 1.0
    rows = rng.choice(n, m, replace=False, shuffle=False)
    rows.sort()
    return torch.from_numpy(signs).to(device), torch.from_numpy(rows).to(device)
