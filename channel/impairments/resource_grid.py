"""Where the resource blocks of an exchange lie in frequency and time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]


@dataclass(frozen=True)
class ResourceGrid:
    """Subbands side by side times slots one after another: S = subbands x slots blocks.

    Block s is subband s mod `subbands` of slot s div `subbands`: a slot's subbands go together, then comes the next
    slot. Within a block the channel is taken for flat and constant.

    Parameters
    ----------
    bandwidth : float
        Of all subbands together, Hz > 0.
    subbands, slots : int
        >= 1.
    slot_seconds : float
        T_slot, duration of a slot, s > 0.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    bandwidth: float
    subbands: int = 1
    slots: int = 1
    slot_seconds: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("bandwidth", "slot_seconds"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: a finite number > 0")
        for name in ("subbands", "slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: a whole number >= 1")

    @property
    def blocks(self) -> int:
        """S."""
        return self.subbands * self.slots

    @property
    def subband_width(self) -> float:
        """Hz."""
        return self.bandwidth / self.subbands

    @property
    def frequencies(self) -> Real:
        """Centre of each block's subband from the middle of the band, Hz, shape (S,)."""
        centres = (np.arange(self.subbands) - (self.subbands - 1) / 2.0) * self.subband_width
        return np.tile(centres, self.slots)

    @property
    def slot_of_block(self) -> NDArray[np.int64]:
        """Number of each block's slot, shape (S,)."""
        return np.repeat(np.arange(self.slots, dtype=np.int64), self.subbands)
