"""Random linear coding of a model's blocks, each with channel uses of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from channel.codes.code import Code
from channel.codes.random_linear_code import RandomLinearCode
from channel.randomness import key


class BlockLinearCode(Code):
    r"""One :class:`RandomLinearCode` a block of the update, all on one power scale.

    Block b of :math:`d_b` entries, padded to :math:`n_b`, is sent as :math:`\sqrt{n_b m/(m_b n)}\,A_b x_b` over its
    :math:`m_b` uses, m and n the sums over blocks. So :math:`E\|Ax\|^2 = (m/n)\|x\|^2` however uses are shared out,
    :math:`(n/m)A^Ty` is unbiased, and its noise is :math:`(n/m)\,s_e^2` an entry in every block, all as of one code
    over everything. What sharing out changes is the coding error, about :math:`\sum_b (d_b/m_b - 1)\|\bar x_b\|^2`.
    Equation B3 of docs/equations.md.

    Parameters
    ----------
    sizes : sequence of int, length B
        Entries d_b of each block, in the order of the update.
    uses : sequence of int, length B
        Channel uses m_b, from 1 to d_b each.

    Raises
    ------
    ValueError
        Lists of different lengths or none, uses outside 1 to d_b; at :meth:`encode`, an update of another size.
    """

    name = "block-linear"
    decoders = ("unbiased",)

    def __init__(self, sizes: Sequence[int], uses: Sequence[int]) -> None:
        super().__init__("unbiased")
        if len(sizes) != len(uses) or not sizes:
            raise ValueError(f"uses is {list(uses)}; accepted: one number for each of {len(sizes)} blocks")
        for entries, count in zip(sizes, uses, strict=True):
            if not 1 <= count <= entries:
                raise ValueError(f"uses holds {count} for a block of {entries} entries; accepted: 1 to {entries}")
        self.sizes = [int(entries) for entries in sizes]
        self.block_uses = [int(count) for count in uses]
        self._codes = [RandomLinearCode(uses=count) for count in self.block_uses]
        padded = [code.padded_size(size) for code, size in zip(self._codes, self.sizes, strict=True)]
        m, n = sum(self.block_uses), sum(padded)
        self._uses, self._padded = m, n
        self._scales = [math.sqrt(n_b * m / (m_b * n)) for n_b, m_b in zip(padded, self.block_uses, strict=True)]

    def uses(self, size: int) -> int:
        """m, the sum of all blocks' uses."""
        if size != sum(self.sizes):
            raise ValueError(f"size is {size}; accepted: {sum(self.sizes)}, the sum of the blocks {self.sizes}")
        return self._uses

    def padded_size(self, size: int) -> int:
        """n, the sum of the blocks' padded lengths."""
        return self._padded

    def largest_energy_ratio(self, size: int) -> float:
        """The largest squared scale of a block: all energy may be there."""
        return max(scale**2 for scale in self._scales)

    def energies(self, received: Tensor, noise_variance: float) -> list[float]:
        """Estimates of ||s_b||^2 from received symbols (m,), noise taken off; unbiased, so that they may be negative.

        Parameters
        ----------
        received : Tensor, shape (m,)
            As :meth:`decode` takes it.
        noise_variance : float
            Of a use.
        """
        ratio = self._padded / self._uses
        blocks = torch.split(received.double(), self.block_uses)
        return [ratio * (float(y.square().sum()) - len(y) * noise_variance) for y in blocks]

    def coded_energy(self, signal: Tensor) -> float:
        """Energy of which one code over everything would lose as much as the blocks lose of a signal, shape (d,)."""
        return self._lost([float(block.double().square().sum()) for block in torch.split(signal, self.sizes)])

    def heard_energy(self, received: Tensor, size: int, noise_variance: float) -> float:
        """The same from received symbols."""
        return self._lost([max(0.0, energy) for energy in self.energies(received, noise_variance)])

    def mean_squared_error(
        self,
        size: int,
        signal_energy: float,
        misalignment_energy: float,
        noise_variance: float,
        varying_energy: float = 0.0,
    ) -> float:
        """As that of one code, `signal_energy` from :meth:`coded_energy`; NaN where gains vary from use to use."""
        if varying_energy > 0.0:
            return math.nan
        return super().mean_squared_error(size, signal_energy, misalignment_energy, noise_variance)

    def _lost(self, energies: Sequence[float]) -> float:
        blocks = zip(self._codes, self.sizes, energies, strict=True)
        lost = math.fsum(code.mean_squared_error(size, energy, 0.0, 0.0) for code, size, energy in blocks)
        whole = super().mean_squared_error(sum(self.sizes), 1.0, 0.0, 0.0)
        return lost / whole if whole > 0.0 else 0.0

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        blocks = zip(self._codes, self._scales, torch.split(update, self.sizes, dim=-1), strict=True)
        coded = [scale * code.encode(x, key(seed, "block", b)) for b, (code, scale, x) in enumerate(blocks)]
        return torch.cat(coded, dim=-1)

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        received = torch.split(symbols, self.block_uses, dim=-1)
        blocks = zip(self._codes, self._scales, self.sizes, received, strict=True)
        lifted = [
            scale * code._adjoint(y.contiguous(), entries, key(seed, "block", b))
            for b, (code, scale, entries, y) in enumerate(blocks)
        ]
        return torch.cat(lifted, dim=-1)

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code."""
        return {"sizes": self.sizes, "uses": self.block_uses}
