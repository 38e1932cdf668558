"""Dithered quantisation of both factors of a dense layer's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codecs.buckets import rounded_up
from channel.codecs.codec import Restored, as_symbols
from channel.codecs.dithered import check_levels, dither, quantise_rows, restore_rows
from channel.codecs.factor_codec import FactorCodec
from channel.codecs.packet import Field, PacketError, Values


class FactorQuantizer(FactorCodec):
    r"""ISGQ with dither: both factors by subtractive dithered quantisation, exact zeros as zeros.

    A factor A has the step :math:`\Delta_A = \max|A| / M_A` and 2 M_A + 1 levels, see
    :class:`~channel.codecs.dithered.DitheredQuantizer`; its exact zeros (ReLU, dropout, blank pixels) have a symbol of
    their own. The dithers of both are independent, hence :math:`E \hat G = G`, and with
    :math:`v_A = \Delta_A^2/12` and :math:`c_A(b)` nonzeros in row b of A

    .. math:: E\|\hat G - G\|_F^2 = \sum_b \left( \|x_b\|^2 c_D(b) v_D + \|d_b\|^2 c_X(b) v_X
              + c_X(b)\, c_D(b)\, v_X v_D \right).

    A packet takes :math:`B [n_{in} \log_2(2 M_X + 2) + n_{out} \log_2(2 M_D + 2)] + 64` bits, and 192 for the header
    and the sizes. The last term, of the product of both noises, makes M = 1 several times worse than no gradient at
    all on real layers: use 2 to 7.

    Parameters
    ----------
    levels, errors_levels : int or 0.5
        M_X and M_D.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    References
    ----------
    A. Abdi, F. Fekri, "Indirect stochastic gradient quantization and its application in distributed deep learning",
    AAAI 2020.

    Examples
    --------
    >>> inputs, errors = torch.randn(8, 784), torch.randn(8, 256)
    >>> codec = FactorQuantizer(levels=7, errors_levels=7)
    >>> packet = codec.encode_factors(inputs, errors, seed=7)
    >>> packet.bits, 32 * 784 * 256, codec.decode_gradient(packet, seed=7).shape
    (33536, 6422528, torch.Size([784, 256]))
    """

    name: ClassVar[str] = "factor"
    unbiased: ClassVar[bool] = True

    def __init__(self, levels: float = 7, errors_levels: float = 7) -> None:
        check_levels(levels)
        try:
            check_levels(errors_levels)
        except ValueError as error:
            raise ValueError(f"errors_{error}") from None
        self.levels = levels
        self.errors_levels = errors_levels

    def fields(self, batch: int, inputs: int, outputs: int) -> Sequence[Field]:
        """A step for each factor, a symbol for each entry, 0 for an exact zero."""
        return (
            Field("steps", 2),
            Field("inputs", batch * inputs, round(2 * self.levels) + 2),
            Field("errors", batch * outputs, round(2 * self.errors_levels) + 2),
        )

    def quantise(self, inputs: Tensor, errors: Tensor, seed: int) -> Values:
        """Steps and symbols; the levels count from 1."""
        first, of_inputs = _quantise(inputs, self.levels, dither((1, inputs.numel()), seed, "inputs"))
        second, of_errors = _quantise(errors, self.errors_levels, dither((1, errors.numel()), seed, "errors"))
        steps = torch.cat([first, second]).numpy()
        return {"steps": steps, "inputs": as_symbols(of_inputs), "errors": as_symbols(of_errors)}

    def restore(self, values: Restored, shape: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        """The step times (q - u), and zeros."""
        if not ((values["steps"] >= 0) & (values["steps"] <= 2)).all():
            raise PacketError("a step is negative or too large: made by another codec")
        batch, n_in, n_out = shape
        steps = torch.from_numpy(values["steps"])
        inputs = _restore(values["inputs"], steps[:1], self.levels, dither((1, batch * n_in), seed, "inputs"))
        errors = _restore(values["errors"], steps[1:], self.errors_levels, dither((1, batch * n_out), seed, "errors"))
        return inputs.view(batch, n_in), errors.view(batch, n_out)

    def expected_nmse(self, inputs: Tensor, errors: Tensor) -> float:
        """The closed form above, over the gradient's squared norm; the gradient is not zero."""
        x, d = inputs.double(), errors.double()
        noise_x = (x != 0).sum(dim=1) * (x.abs().max() / self.levels) ** 2 / 12
        noise_d = (d != 0).sum(dim=1) * (d.abs().max() / self.errors_levels) ** 2 / 12
        rows = x.square().sum(dim=1) * noise_d + d.square().sum(dim=1) * noise_x + noise_x * noise_d
        return float(rows.sum() / (x.T @ d).square().sum())


def _quantise(factor: Tensor, levels: float, u: Tensor) -> tuple[Tensor, Tensor]:
    """A step, shape (1,), and symbols, shape (entries,)."""
    row = factor.reshape(1, -1)
    step = rounded_up(row.abs().amax(dim=1), levels)
    return step, torch.where(row == 0, 0.0, quantise_rows(row, step, u, levels) + 1)[0]


def _restore(symbols: NDArray[np.int64], step: Tensor, levels: float, u: Tensor) -> Tensor:
    row = torch.from_numpy(symbols.astype(np.float32))[None, :]
    return torch.where(row == 0, 0.0, restore_rows(row - 1, step, u, levels))
