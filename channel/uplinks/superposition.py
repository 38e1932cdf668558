"""The sum of many devices' symbols on the air, each resource block with gains of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.codes.symbol_scale import symbol_scale
from channel.uplinks.uplink import Cohort

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class Superposed:
    r"""What the air sums, and what it should.

    With complex gains :math:`c_{si}` in block s, :math:`u_s = \sum_i \mathrm{Re}(c_{si}) x_i` and :math:`v_s = \sum_i
    \mathrm{Im}(c_{si}) x_i`: of two entries on a complex use the one takes v of the other, see :func:`on_blocks`.

    Attributes
    ----------
    coded : Tensor, shape (m,)
        The symbols that arrive, without noise.
    wanted : Tensor, shape (m,)
        The symbols of the mean.
    plain, mean : Tensor, shape (S, d) and (d,), or None
        u and the mean, of updates; None where only symbols are at hand.
    scattered : Tensor, shape (S, d), or None
        v; None where all gains are real.
    """

    coded: Tensor
    wanted: Tensor
    plain: Tensor | None = None
    mean: Tensor | None = None
    scattered: Tensor | None = None

    def energies(self, code: Code) -> tuple[float, float, float]:
        r""":math:`\|s\|^2` and :math:`\|s - \bar x\|^2` of the mean s of u over the blocks, and what varies around it.

        The first as `code` counts it; the last is :math:`\frac1S\sum_s (\|u_s\|^2 + \|v_s\|^2) - \|s\|^2`. Of plain
        updates only.
        """
        assert self.plain is not None
        assert self.mean is not None
        if len(self.plain) == 1:
            signal, varying = self.plain[0], 0.0
        else:
            signal = self.plain.mean(dim=0)
            varying = float(self.plain.square().sum() / len(self.plain) - signal.square().sum())
        if self.scattered is not None:
            varying += float(self.scattered.square().sum() / len(self.scattered))
        return code.coded_energy(signal), float((signal - self.mean).square().sum()), max(0.0, varying)


def superpose_updates(cohort: Cohort, gains: Complex, code: Code, seed: int) -> Superposed:
    """Sum updates with gains (S, K); where they are plain and the code is linear, sum first and code once.

    Parameters
    ----------
    cohort : Cohort
        The senders.
    gains : ndarray of complex128, shape (S, K)
        What each device's update arrives with in each block.
    code : Code
        The code.
    seed : int
        The code's.
    """
    blocks = len(gains)
    rows = [gains.real, cohort.weights[None], *([gains.imag] if np.any(gains.imag) else [])]
    stacked = np.concatenate(rows)
    plain = cohort.updates(stacked)
    coded = cohort.signals(stacked) if plain is None or not code.linear else code.encode(plain, seed)
    one = Superposed(_mixed(coded, blocks), coded[blocks])
    if plain is None:
        return one
    scattered = plain[blocks + 1 :] if len(plain) > blocks + 1 else None
    return Superposed(one.coded, one.wanted, plain[:blocks], plain[blocks], scattered)


def superpose_symbols(symbols: Tensor, gains: Complex) -> Tensor:
    """The same sum of symbols (K, m) that devices have made themselves, with the gains (S, K) of symbols."""
    rows = np.concatenate([gains.real, np.zeros((1, gains.shape[1])), gains.imag])
    return _mixed(torch.from_numpy(rows) @ symbols.double(), len(gains))


def _mixed(coded: Tensor, blocks: int) -> Tensor:
    """Rows u (S), the mean and, if any, v (S), all (m,), as what arrives in each use."""
    signal = on_blocks(coded[:blocks])
    return signal if len(coded) == blocks + 1 else signal + rotated(on_blocks(coded[blocks + 1 :]))


def block_of_use(uses: int, blocks: int) -> NDArray[np.int64]:
    """Which block a real use is in, (m,): complex uses go round the blocks, so that each has its share of a model."""
    return np.arange(uses) // 2 % blocks


def on_blocks(rows: Tensor) -> Tensor:
    """Of rows (S, m) of symbols each use's own block's, (m,)."""
    if len(rows) == 1:
        return rows[0]
    uses = rows.shape[1]
    return rows[torch.from_numpy(block_of_use(uses, len(rows))), torch.arange(uses)]


def rotated(symbols: Tensor) -> Tensor:
    """j times the complex uses of symbols (m,): (v1, v2) -> (-v2, v1); an odd last one is alone on its use."""
    uses = len(symbols)
    pairs = torch.nn.functional.pad(symbols, (0, uses % 2)).reshape(-1, 2)
    return torch.stack([-pairs[:, 1], pairs[:, 0]], dim=1).reshape(-1)[:uses]


def per_use(values: Real, uses: int) -> Tensor:
    """Values (S,) of the blocks as those of the uses, (m,)."""
    return torch.from_numpy(values[block_of_use(uses, len(values))])


def spread_scale(code: Code, size: int, norms: Real) -> Real:
    """What an update is multiplied by to be symbols of unit power, n^(1/2) / ||x||, (K,); 0 for one of zeros."""
    with np.errstate(divide="ignore"):
        return np.where(norms > 0, symbol_scale(code, size) / norms, 0.0)
