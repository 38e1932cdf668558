r"""What stands between the air and the server: the one interface that a radio would implement.

Device i radiates :math:`b_i e^{-j\varphi_i} s_i`; antenna m hears :math:`y_m = \sum_i c_{im} s_i + z` with
:math:`c_{im} = h_{im} b_i e^{-j\varphi_i}` and noise z. Everything before it (codes, power control) and after it
(combining, scaling, decoding) is the same whether the sum is emulated, comes over a network or from the air. A radio
is given :math:`b_i` and :math:`\varphi_i` by way of c and does not need to be told h or the noise: it meets them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.mac import receive
from channel.uplinks.superposition import superpose_symbols

Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Heard:
    """What came in during one burst of all devices.

    Attributes
    ----------
    samples : Tensor, shape (M, m)
        What each of M antennas hears in each of m real channel uses, float64, in the unit of the amplitudes.
    lost : int
        Pieces of the signal that did not come in, so that their energy is missing in the samples.
    """

    samples: Tensor
    lost: int = 0


class Receiver(Protocol):
    """Hears all devices at once. A swap point: emulated, over a network, a software-defined radio."""

    def receive(self, symbols: Tensor, arriving: Complex, noise_power: float, draws: np.random.Generator) -> Heard:
        """Hear one burst.

        Parameters
        ----------
        symbols : Tensor, shape (K, m)
            Unit-power symbols of the K devices. A radio has them on the devices instead.
        arriving : ndarray of complex128, shape (S, K, M)
            c, what a device's symbols arrive with in each of S resource blocks at each antenna.
        noise_power : float
            sigma^2 per real use. A radio has its own.
        draws : numpy.random.Generator
            For the noise, antenna by antenna.

        Raises
        ------
        ReceiverError
            If nothing is heard for so long that there is no receiving to speak of.
        """


class ReceiverError(RuntimeError):
    """The receiver heard nothing; the message says what it waited for and how long."""


class EmulatedReceiver:
    """The channel's model in place of the air: nothing is lost, and the noise is drawn."""

    def receive(self, symbols: Tensor, arriving: Complex, noise_power: float, draws: np.random.Generator) -> Heard:
        """Sum the symbols and add the noise."""
        antennas = range(arriving.shape[2])
        return Heard(
            torch.stack([receive(superpose_symbols(symbols, arriving[:, :, m]), noise_power, draws) for m in antennas])
        )
