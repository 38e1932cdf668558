"""Draws by name, many at a time: the n-th draw of a device is the same whenever it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from channel.randomness import generator

BLOCK = 32
"""Draws that one generator makes: a generator for each draw would cost more than the rest of a simulation."""


class NamedDraws:
    """Independent draws named by (seed, purpose, device, step).

    Parameters
    ----------
    seed : int
        Of the run.
    purpose : str
        What they are for.
    draw : callable
        Makes so many draws from a generator, shape (n,).
    """

    def __init__(
        self, seed: int, purpose: str, draw: Callable[[np.random.Generator, int], NDArray[np.float64]]
    ) -> None:
        self.seed = seed
        self.purpose = purpose
        self.draw = draw
        self._blocks: dict[int, tuple[int, list[float]]] = {}

    def __call__(self, device: int, step: int) -> float:
        """The draw of `device` for its `step`, both >= 0."""
        number, place = divmod(step, BLOCK)
        held = self._blocks.get(device)
        if held is None or held[0] != number:
            values = self.draw(generator(self.seed, self.purpose, device, number), BLOCK)
            held = self._blocks[device] = (number, values.tolist())
        return held[1][place]


def uniform(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Uniform on [0, 1)."""
    return generator.random(count)


def normal(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """N(0, 1)."""
    return generator.standard_normal(count)
