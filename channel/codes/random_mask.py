"""A random subset of the update's coordinates, the same for all devices (rand-m)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from channel.codes.code import Code, Decoder, SymbolCount
from channel.randomness import generator


class RandomMask(Code):
    r"""Send m of the d coordinates, drawn uniformly without replacement: :math:`A = R`, rows of I.

    The coordinates are sent in the order drawn, interleaved, so that channel uses which fail again and again do not
    silence the same coordinates. Same expected error as
    :class:`~channel.codes.random_linear_code.RandomLinearCode` (R5 of docs/equations.md): what a mask lacks is
    concentration. Its energy and peaks are those of the coordinates it happened to draw.

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
    """

    name = "random-mask"

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
        """No padding."""
        return size

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        size = update.shape[-1]
        return update.index_select(-1, _coordinates(seed, size, self.uses(size), str(update.device)))

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        coordinates = _coordinates(seed, size, self.uses(size), str(symbols.device))
        return symbols.new_zeros(*symbols.shape[:-1], size).index_copy_(-1, coordinates, symbols)

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code."""
        return self._count.parameters | super().parameters


@lru_cache(maxsize=8)
def _coordinates(seed: int, size: int, m: int, device: str) -> Tensor:
    drawn = generator(seed, "code/random-mask", size, m).choice(size, m, replace=False)
    return torch.from_numpy(drawn).to(device)
