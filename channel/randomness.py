"""Randomness by name: every draw comes from a generator keyed by seed, purpose and indices.

Nothing in this project touches a global random state, so a result does not depend on the engine, the number of
workers, the order of arrival or a resumed run.
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def _purpose_key(purpose: str) -> int:
    return zlib.crc32(purpose.encode())


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit integer fixed by (seed, purpose, index); distinct names give independent streams.

    Parameters
    ----------
    seed : int
        The run's seed, >= 0.
    purpose : str
        What the draw is for, for example ``"fading"`` or ``"batches"``.
    *index : int
        Counters that tell draws of one purpose apart (round, device), each >= 0.
    """
    sequence = np.random.SeedSequence([seed, _purpose_key(purpose), *index])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """NumPy generator of the stream named by (seed, purpose, index); see :func:`key`."""
    return np.random.default_rng([seed, _purpose_key(purpose), *index])


def complex_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """CN(0, 1), independent, of any shape."""
    parts = generator.normal(0.0, math.sqrt(0.5), (2, *shape))
    return np.asarray(parts[0] + 1j * parts[1])


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """PyTorch CPU generator of the stream named by (seed, purpose, index); see :func:`key`."""
    return torch.Generator().manual_seed(key(seed, purpose, *index))
