"""Power control over the resource blocks and antennas of one exchange."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from channel.channel import ChannelState
from channel.power import Combined, Combining, PowerControl

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Alignment:
    r"""How loud devices send, and what the receiver makes of it, in each of S resource blocks.

    Attributes
    ----------
    amplitudes : ndarray, shape (S, K)
        b.
    receive_scales : ndarray, shape (S,)
        a.
    combiners : ndarray of complex128, shape (S, M)
        f, of unit norm.
    turned : ndarray of complex128, shape (S, K, M)
        The channel after devices have turned their symbols by :math:`e^{-j \arg(f^H \hat h)}`: of real gains where
        they know it.
    mse : float
        What power control expects: the mean over the blocks of its own figure.
    warnings : tuple of str
        What it had to do without.
    noise_powers : ndarray, shape (K,), optional
        Of noise that devices send beside their symbols (:mod:`channel.privacy`); none if not given.
    added_noise : float
        The power of it all where it arrives.
    """

    amplitudes: Real
    receive_scales: Real
    combiners: Complex
    turned: Complex
    mse: float
    warnings: tuple[str, ...] = ()
    noise_powers: Real | None = None
    added_noise: float = 0.0

    @property
    def links(self) -> Complex:
        r""":math:`f^H h e^{-j\arg(f^H\hat h)}`, shape (S, K)."""
        if self.turned.shape[2] == 1:
            return np.asarray(self.turned[:, :, 0])
        return np.asarray(np.einsum("sm,skm->sk", self.combiners.conj(), self.turned))

    @property
    def received(self) -> Complex:
        """What symbols arrive with after combining and scaling, a f^H h b, shape (S, K)."""
        return np.asarray(self.receive_scales[:, None] * self.links * self.amplitudes)

    @property
    def mean_amplitudes(self) -> Real:
        """Root mean square of the amplitudes over the blocks, shape (K,)."""
        several = len(self.amplitudes) > 1
        return np.asarray(np.sqrt(np.mean(self.amplitudes**2, axis=0)) if several else self.amplitudes[0])

    def without(self, devices: NDArray[np.bool_]) -> Alignment:
        """The same with these devices (K,) silent."""
        return replace(self, amplitudes=np.where(devices, 0.0, self.amplitudes))

    def at_least(self, amplitude: float, devices: NDArray[np.bool_]) -> Alignment:
        """The same with these devices (K,) as loud as this wherever they send at all, whatever is granted to them."""
        sending = devices & np.any(self.amplitudes > 0, axis=0)
        return replace(self, amplitudes=np.where(sending, np.maximum(self.amplitudes, amplitude), self.amplitudes))


def align(
    state: ChannelState,
    weights: Real,
    mean_weights: Real,
    limits: Real,
    power_control: PowerControl,
    combining: Combining,
    devices: NDArray[np.int64],
) -> Alignment:
    """Combine antennas and choose amplitudes in each resource block, from what is known of the channel.

    Parameters
    ----------
    state : ChannelState
        The exchange's channel.
    weights, mean_weights : ndarray, shape (K,)
        Of the symbols of unit power, and of the updates: where a rule leaves devices out, those that send are heard as
        the mean of theirs.
    limits : ndarray, shape (K,)
        Of the power of a use.
    power_control, combining
        The policies.
    devices : ndarray of int, shape (K,)
        Who they are, for policies that remember.
    """
    blocks = [
        _of_the_selected(
            combining.combine(block, weights, limits, state.believed_noise, power_control, devices), mean_weights
        )
        for block in state.believed
    ]
    combiners = np.stack([block.combiner for block in blocks])
    # The phase of f is of no consequence to power control, but to what converters round: searches leave it to chance.
    combiners = combiners * np.exp(-1j * np.angle(combiners[:, :1]))
    return Alignment(
        np.stack([block.allocation.amplitudes for block in blocks]),
        np.array([float(block.allocation.receive_scale) for block in blocks]),
        combiners,
        _turned(state, combiners),
        float(np.mean([block.allocation.mse for block in blocks])),
        tuple(dict.fromkeys(block.allocation.warning for block in blocks if block.allocation.warning)),
    )


def _of_the_selected(combined: Combined, mean_weights: Real) -> Combined:
    if combined.selected is None or not combined.selected.any():
        return combined
    return combined.rescaled(float(mean_weights.sum() / mean_weights[combined.selected].sum()))


def _turned(state: ChannelState, combiners: Complex) -> Complex:
    if state.estimates is None and state.response.shape[2] == 1:
        return np.abs(state.response).astype(np.complex128)  # to the last digit
    seen = np.einsum("sm,skm->sk", combiners.conj(), state.believed)
    turned: Complex = state.response * np.exp(-1j * np.angle(seen))[:, :, None]
    return turned
