"""Both factors of a dense layer's gradient by a few levels each, fitted to the gradient by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from channel.codecs.codec import Restored, as_symbols
from channel.codecs.factor_codec import FactorCodec
from channel.codecs.lloyd_max import Density, lloyd_max
from channel.codecs.packet import Field, Values

Refit = Literal["none", "mv", "mvu"]

_SWEEPS = 4
"""Solutions for the levels of both factors; after two the error falls by less than 0.01 %."""

LARGEST_LEVELS = 64


class DeterministicFactorQuantizer(FactorCodec):
    r"""ISGQ without dither: each factor by L levels, which the packet says, and a symbol for exact zeros.

    The levels of a factor are those of Lloyd and Max for a model density, times the root mean square of its nonzeros;
    an entry takes the nearest. If no entry is negative the density is folded: that of its magnitude. Then, with
    :math:`Q_X, Q_D` the symbols and :math:`a, c` the levels,

    .. math:: \min_c \Bigl\| G - \sum_j c_j A_j \Bigr\|_F, \qquad A_j = \hat X^T\, 1[Q_D = j],

    is solved by its normal equations :math:`\sum_k \langle A_j, A_k \rangle c_k = \langle A_j, G \rangle`, the same for
    a with D fixed, and so on in turn. Products of B x B matrices give both sides: the gradient itself is not formed.
    ``"mv"`` (minimum variance) does this, ``"mvu"`` (minimum variance, unbiased) under the constraint that all entries
    of :math:`G - \hat G` add up to 0, ``"none"`` not at all.

    No refit makes the estimate unbiased: the error is a function of the gradient, and "mvu" does away with its sum
    only. Use error feedback, or :class:`~channel.codecs.factor.FactorQuantizer`.

    A packet takes :math:`B [n_{in} \log_2(L_X + 1) + n_{out} \log_2(L_D + 1)] + 32 (L_X + L_D)` bits, and 192 for the
    header and the sizes.

    Parameters
    ----------
    levels, errors_levels : int
        L_X and L_D, 1 to 64; better even for a factor of both signs.
    refit : {"mv", "mvu", "none"}
        How the levels are fitted.
    density, errors_density : {"normal", "uniform"}
        Model of each factor's nonzeros.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    References
    ----------
    A. Abdi, F. Fekri, "Indirect stochastic gradient quantization and its application in distributed deep learning",
    AAAI 2020.
    """

    name: ClassVar[str] = "deterministic-factor"
    unbiased: ClassVar[bool] = False

    def __init__(
        self,
        levels: int = 4,
        errors_levels: int = 4,
        refit: Refit = "mv",
        density: Density = "normal",
        errors_density: Density = "normal",
    ) -> None:
        for name, count in (("levels", levels), ("errors_levels", errors_levels)):
            if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= LARGEST_LEVELS:
                raise ValueError(f"{name} = {count!r}: accepted: an integer from 1 to {LARGEST_LEVELS}")
        if refit not in get_args(Refit):
            raise ValueError(f"refit = {refit!r}: accepted: {', '.join(get_args(Refit))}")
        for name, model in (("density", density), ("errors_density", errors_density)):
            if model not in get_args(Density):
                raise ValueError(f"{name} = {model!r}: accepted: {', '.join(get_args(Density))}")
        self.levels = levels
        self.errors_levels = errors_levels
        self.refit = refit
        self.density = density
        self.errors_density = errors_density

    def fields(self, batch: int, inputs: int, outputs: int) -> Sequence[Field]:
        """The levels of each factor, a symbol for each entry, 0 for an exact zero."""
        return (
            Field("inputs_levels", self.levels),
            Field("errors_levels", self.errors_levels),
            Field("inputs", batch * inputs, self.levels + 1),
            Field("errors", batch * outputs, self.errors_levels + 1),
        )

    def quantise(self, inputs: Tensor, errors: Tensor, seed: int) -> Values:
        """Levels and symbols; nothing is drawn."""
        x, d = inputs.double(), errors.double()
        a, of_x = _nearest_levels(x, self.levels, self.density)
        c, of_d = _nearest_levels(d, self.errors_levels, self.errors_density)
        if self.refit != "none":
            a, c = _refitted(x, d, of_x, of_d, a, c, constrained=self.refit == "mvu")
        return {
            "inputs_levels": a.float().numpy(),
            "errors_levels": c.float().numpy(),
            "inputs": as_symbols(of_x.flatten()),
            "errors": as_symbols(of_d.flatten()),
        }

    def restore(self, values: Restored, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        """The levels that the symbols name."""
        factors = [
            np.concatenate([np.zeros(1, dtype=np.float32), values[f"{name}_levels"]])[values[name]]
            for name in ("inputs", "errors")
        ]
        return torch.from_numpy(factors[0]).view(shape[0], -1), torch.from_numpy(factors[1]).view(shape[0], -1)

    def expected_nmse(self, inputs: Tensor, errors: Tensor) -> None:
        """None: nothing is drawn, and there is no closed form."""
        return


def _nearest_levels(factor: Tensor, count: int, density: Density) -> tuple[Tensor, Tensor]:
    """The factor's levels, rising, and which of them is nearest to each entry, from 1; 0 for exact zeros."""
    nonzeros = factor[factor != 0]
    scale = float(nonzeros.square().mean().sqrt()) if len(nonzeros) else 1.0
    levels = torch.tensor(lloyd_max(count, density, folded=not bool((factor < 0).any()))) * scale
    symbols = torch.bucketize(factor, (levels[1:] + levels[:-1]) / 2) + 1
    return levels, torch.where(factor == 0, 0, symbols)


def _refitted(
    x: Tensor, d: Tensor, of_x: Tensor, of_d: Tensor, a: Tensor, c: Tensor, *, constrained: bool
) -> tuple[Tensor, Tensor]:
    """Levels of both factors, each solved for in turn."""
    for _ in range(_SWEEPS):
        c = _solved(_entries(a, of_x), x, of_d, d, len(c), constrained)
        a = _solved(_entries(c, of_d), d, of_x, x, len(a), constrained)
    return a, c


def _entries(levels: Tensor, symbols: Tensor) -> Tensor:
    return torch.cat([levels.new_zeros(1), levels])[symbols]


def _solved(known: Tensor, exact: Tensor, symbols: Tensor, sought: Tensor, count: int, constrained: bool) -> Tensor:
    r"""The levels c of least :math:`\|exact^T sought - known^T \sum_j c_j 1[symbols = j]\|_F`.

    All of shape (B, n); `known` is what is decoded of `exact`. If constrained, both products have the same sum of
    entries, unless that of the second is zero for any c.
    """
    marks = torch.stack([symbols == j for j in range(1, count + 1)]).to(sought.dtype)
    flat = marks.flatten(1)
    inverse = torch.linalg.pinv(flat @ ((known @ known.T) @ marks).flatten(1).T, hermitian=True)
    levels: Tensor = inverse @ (flat @ ((known @ exact.T) @ sought).flatten())
    if constrained:
        sums = marks.sum(dim=2) @ known.sum(dim=1)
        missing = exact.sum(dim=1) @ sought.sum(dim=1) - sums @ levels
        curvature = sums @ inverse @ sums
        if curvature > 0:
            levels = levels + inverse @ sums * (missing / curvature)
    return levels
