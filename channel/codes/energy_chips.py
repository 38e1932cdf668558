"""Signed numbers as energies: the positive part on one chip, the negative part on another (REED)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from channel.codes.code import Code, SymbolCount


class EnergyChips(Code):
    r"""Send :math:`\sqrt{x^+}` on one chip and :math:`\sqrt{x^-}` on another; decode the difference of energies.

    An entry is the difference of the energies on its pair of chips, :math:`x = |c^+|^2 - |c^-|^2`, so that energies
    add up to the sum of the entries whatever the phases they arrive with, on average. Only
    :class:`~channel.uplinks.noncoherent.NonCoherentUplink` hears energies; what a coherent receiver makes of the
    chips means nothing.

    What is coded is :math:`\operatorname{sign}(x)\sqrt{|x|}`, of the energy :math:`\|x\|_1`: the norm that a device
    reports is :math:`\sqrt{\|x\|_1}`. The 2d symbols of an update are the amplitudes of the chips, d for the
    positive parts and then d for the negative ones; how many channel uses a chip takes is the uplink's to count.

    References
    ----------
    H. Chen, Z. Bozorgasl, "Resource-element energy difference for noncoherent over-the-air federated learning",
    arXiv:2605.07263, 2026.

    Examples
    --------
    >>> code = EnergyChips()
    >>> chips = code.encode(torch.tensor([4.0, -9.0]), seed=0)
    >>> chips, code.decode(chips.square(), size=2, seed=0)
    (tensor([2., 0., 0., 3.]), tensor([ 4., -9.]))
    """

    name = "energy-chips"
    linear = False
    closed_form = False  # the error depends on how the chips fade, see :mod:`channel.uplinks.noncoherent`
    coherent = False
    decoders = ("unbiased",)

    def __init__(self) -> None:
        super().__init__()
        self._count = SymbolCount(ratio=1.0, uses=None)

    def uses(self, size: int) -> int:
        """Two chips an entry."""
        return 2 * self._count.of(size)

    def padded_size(self, size: int) -> int:
        """As many as there are chips: they have all the energy of what is coded."""
        return self.uses(size)

    def sent(self, update: Tensor) -> Tensor:
        """``sign(x) * sqrt(|x|)``, shape (..., d)."""
        return update.sign() * update.abs().sqrt()

    def decode(self, received: Tensor, size: int, seed: int, noise_variance: float = 0.0) -> Tensor:
        """Differences of the energies on pairs of chips.

        Parameters
        ----------
        received : Tensor, shape (..., 2d)
            Energies, >= 0; noise adds the same to both of a pair on average, and need not be taken off.
        size, seed, noise_variance
            As :meth:`channel.codes.code.Code.decode`; only the size matters.

        Raises
        ------
        ValueError
            A number of energies other than 2 ``size``, or one below zero.
        """
        if bool((received < 0).any()):
            raise ValueError(f"received has an entry of {float(received.min())}; accepted: energies >= 0")
        return super().decode(received, size, seed, noise_variance)

    def residual(self, update: Tensor, seed: int) -> Tensor:
        """Zeros: everything is sent."""
        return torch.zeros_like(update)

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        return torch.cat([update.clamp(min=0.0), (-update).clamp(min=0.0)], dim=-1).sqrt()

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        return symbols[..., :size] - symbols[..., size:]

    @property
    def parameters(self) -> dict[str, Any]:
        """None: there is nothing to choose."""
        return {}
