"""No code: every entry of the update rides on a channel use of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from channel.codes.code import Code, SymbolCount


class Uncoded(Code):
    r"""The identity, m = n = d; the error is the misalignment plus d times the noise variance per use.

    Examples
    --------
    >>> import torch
    >>> Uncoded().encode(torch.tensor([1.0, 2.0]), seed=3)
    tensor([1., 2.])
    """

    name = "uncoded"

    def __init__(self) -> None:
        super().__init__()
        self._count = SymbolCount(ratio=1.0, uses=None)

    def uses(self, size: int) -> int:
        """One real use per entry."""
        return self._count.of(size)

    def padded_size(self, size: int) -> int:
        """No padding."""
        return self._count.of(size)

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        return update.clone()

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        return symbols.clone()

    @property
    def parameters(self) -> dict[str, Any]:
        """None: there is nothing to choose."""
        return {}
