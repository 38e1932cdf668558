"""Owners of units: the number of a worker for each, or EVERYWHERE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Owners = NDArray[np.int64]
Real = NDArray[np.float64]

EVERYWHERE = -1
"""Owner of a unit that every worker holds, such as an input that all of them see."""


def at_home(owners: Owners, workers: int) -> NDArray[np.bool_]:
    """Which worker holds which unit as its own, shape (units, P)."""
    return np.asarray((owners[:, None] == np.arange(workers)) | (owners[:, None] == EVERYWHERE))
