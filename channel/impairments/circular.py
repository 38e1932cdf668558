"""Circularly symmetric complex Gaussian draws."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def complex_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    """CN(0, 1), independent, of any shape."""
    parts = generator.normal(0.0, math.sqrt(0.5), (2, *shape))
    return np.asarray(parts[0] + 1j * parts[1])
