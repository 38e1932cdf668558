"""What keeps a radio from being the model of it, all in one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from channel.impairments.ageing import Ageing
from channel.impairments.channel_estimation import ChannelEstimation
from channel.impairments.interference import Interference
from channel.impairments.resource_grid import ResourceGrid
from channel.randomness import generator

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


class Rotation(Protocol):
    """A factor that the channel takes on after it was looked at: of phase, timing or frequency."""

    def rotation(self, exchange: int, devices: int, grid: ResourceGrid, seed: int) -> Complex:
        """Factors of shape (S, N)."""
        ...


@dataclass(frozen=True)
class Impairments:
    """Of the channel and of what is known of it; none by default.

    Parameters
    ----------
    estimation : ChannelEstimation, optional
        Pilots that the channel is known from; without it is simply known.
    frame_seconds : float
        How long the channel holds before pilots are sent again, s; infinite: once an exchange.
    ageing : Ageing, optional
        How old that knowledge is.
    rotations : tuple
        Phase, timing and frequency errors.
    interference : Interference, optional
        What other cells add to the noise. Server and devices know its mean.

    Raises
    ------
    ValueError
        A frame that is no time at all.
    """

    estimation: ChannelEstimation | None = None
    frame_seconds: float = math.inf
    ageing: Ageing | None = None
    rotations: tuple[Rotation, ...] = ()
    interference: Interference | None = None

    def __post_init__(self) -> None:
        if not self.frame_seconds > 0.0:
            raise ValueError(f"frame_seconds is {self.frame_seconds!r}; accepted: a number of seconds > 0")

    @property
    def knowledge_is_perfect(self) -> bool:
        """Whether what is known of the channel is the channel."""
        return self.estimation is None and self.ageing is None and not self.rotations

    def known(self, response: Complex, mean_power: Real, noise_power: float, exchange: int, seed: int) -> Complex:
        """What is known of a channel (S, N, M) that was looked at before it took on its rotations."""
        seen = response
        if self.ageing is not None:
            seen = self.ageing.old(seen, mean_power, generator(seed, "impairments/ageing", exchange))
        if self.estimation is not None:
            draws = generator(seed, "impairments/pilots", exchange)
            seen = self.estimation.estimate(seen, mean_power, noise_power, draws)
        return seen

    def rotated(self, response: Complex, exchange: int, grid: ResourceGrid, seed: int) -> Complex:
        """The channel (S, N, M) with its rotations."""
        for rotation in self.rotations:
            response = response * rotation.rotation(exchange, response.shape[1], grid, seed)[:, :, None]
        return response
