r"""The multiple-access channel itself: signals sent at once add up, and noise comes on top.

Two descriptions of the same air. The complex one is what a radio does: two real entries ride on a complex
use, :math:`x = (s_1 + j s_2)/\sqrt 2`, the device turns its phase back by :math:`e^{-j\arg h_i}`, the
receiver gets :math:`y = \sum_i h_i b_i e^{-j\arg h_i} x_i + n`, n ~ CN(0, N0), and takes :math:`\sqrt 2`
times the real and the imaginary part. The real one is what comes out of that, entry by entry:

.. math:: y = \sum_i |h_i| b_i s_i + n, \qquad n \sim N(0, \sigma^2), \quad \sigma^2 = N_0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from channel.channel import ChannelState


def superpose(symbols: Tensor, state: ChannelState, amplitudes: ArrayLike, generator: np.random.Generator) -> Tensor:
    """What arrives at the receiver, in complex baseband.

    Parameters
    ----------
    symbols : Tensor, shape (K, m)
        Real symbols of the K devices, float32 or float64.
    state : ChannelState
        Gains (K,) and noise N0.
    amplitudes : array, shape (K,)
        b_i.
    generator : numpy.random.Generator
        For the noise.

    Returns
    -------
    Tensor, complex, shape (ceil(m / 2),)
        One entry per complex use; :func:`unpack` gives the real entries back.
    """
    sent = pack(symbols)
    phased = state.gains * np.exp(-1j * np.angle(state.gains)) * _amplitudes(symbols, state, amplitudes)
    arriving = torch.from_numpy(phased).to(sent) @ sent
    parts = _normal(arriving.shape[0] * 2, state.noise_power / 2.0, symbols, generator)
    return arriving + torch.view_as_complex(parts.reshape(-1, 2))


def effective_real(
    symbols: Tensor, state: ChannelState, amplitudes: ArrayLike, generator: np.random.Generator
) -> Tensor:
    """The real model of the same exchange; parameters as :func:`superpose`, result real of shape (m,)."""
    strength = np.abs(state.gains) * _amplitudes(symbols, state, amplitudes)
    return receive(torch.from_numpy(strength).to(symbols) @ symbols, state.noise_power, generator)


def receive(sum_signal: Tensor, noise_power: float | Tensor, generator: np.random.Generator) -> Tensor:
    """Add the receiver's noise to a sum formed before, ``sum_signal + N(0, noise_power)``, shape (m,).

    One power for all, or one a use. Drawn in the signal's dtype by a NumPy generator, so that the noise is the same
    on every device.

    Raises
    ------
    ValueError
        Noise power negative or not finite.
    """
    return sum_signal + _normal(sum_signal.numel(), noise_power, sum_signal, generator).reshape(sum_signal.shape)


def pack(symbols: Tensor) -> Tensor:
    """Two real entries a complex use, (..., m) -> complex (..., ceil(m/2)); an odd last one pairs with 0."""
    if symbols.shape[-1] % 2:
        symbols = torch.cat([symbols, torch.zeros_like(symbols[..., :1])], dim=-1)
    pairs = symbols.reshape(*symbols.shape[:-1], -1, 2).contiguous()
    return torch.view_as_complex(pairs) * math.sqrt(0.5)


def unpack(received: Tensor, uses: int) -> Tensor:
    """Undo :func:`pack`: complex (..., ceil(m/2)) -> the first ``uses`` = m real entries, (..., m)."""
    if received.shape[-1] != (uses + 1) // 2:
        raise ValueError(f"received has {received.shape[-1]} complex uses; {uses} real uses take {(uses + 1) // 2}")
    return torch.view_as_real(received * math.sqrt(2.0)).flatten(-2)[..., :uses]


def _amplitudes(
    symbols: Tensor, state: ChannelState, amplitudes: ArrayLike
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(amplitudes, dtype=np.float64)
    if symbols.ndim != 2 or not symbols.shape[:1] == state.gains.shape == values.shape:
        raise ValueError(
            f"symbols has shape {tuple(symbols.shape)}, gains {state.gains.shape}, amplitudes "
            f"{values.shape}; accepted: (K, m), (K,) and (K,) for K devices"
        )
    return values


def _normal(count: int, variance: float | Tensor, like: Tensor, generator: np.random.Generator) -> Tensor:
    powers = torch.as_tensor(variance, dtype=torch.float64)
    if not bool(((powers >= 0) & powers.isfinite()).all()):
        raise ValueError(f"noise_power is {variance!r}; accepted: a finite number >= 0")
    if like.dtype == torch.float32:
        drawn = torch.from_numpy(generator.standard_normal(count, dtype=np.float32))
    else:
        drawn = torch.from_numpy(generator.standard_normal(count))
    return drawn.to(like.device, like.dtype) * powers.sqrt().to(like.device, like.dtype)
