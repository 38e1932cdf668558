"""Outer-loop link adaptation: believe the SNR less after every loss, and a little more after every arrival."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Real = NDArray[np.float64]


class OuterLoop:
    r"""Keeps a link's block error at its target although the SNR that is reported is off.

    The sender takes for its SNR what is reported less an offset :math:`\Delta_i` of its own, in dB, that every block
    moves: by :math:`+\delta` if it was lost, by :math:`-\delta\,\epsilon/(1 - \epsilon)` if it arrived. In the long run
    the two balance where a fraction epsilon of the blocks is lost, whatever the bias of the reports.

    Parameters
    ----------
    devices : int
        N, of the scenario.
    block_error_target : float
        epsilon in (0, 1), that of the link.
    step_db : float
        delta > 0, dB.
    largest_db : float
        Offsets stay within plus and minus this, > 0.

    Attributes
    ----------
    offsets_db : ndarray, shape (N,)
        Delta_i.

    References
    ----------
    A. Sampath, P. S. Kumar, J. M. Holtzman, "On setting reverse link target SIR in a CDMA system", IEEE VTC 1997; as in
    Sionna's ``OuterLoopLinkAdaptation``.
    """

    def __init__(
        self, devices: int, block_error_target: float = 0.1, step_db: float = 1.0, largest_db: float = 20.0
    ) -> None:
        if devices < 1:
            raise ValueError(f"devices is {devices!r}; accepted: an integer >= 1")
        if not 0.0 < block_error_target < 1.0:
            raise ValueError(f"block_error_target is {block_error_target!r}; accepted: 0 < block_error_target < 1")
        for name, value in (("step_db", step_db), ("largest_db", largest_db)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; accepted: a finite number of dB > 0")
        self.block_error_target = block_error_target
        self.step_db = step_db
        self.largest_db = largest_db
        self.offsets_db: Real = np.zeros(devices)

    def grow(self, devices: int) -> None:
        """Know at least so many devices; new ones begin without an offset."""
        self.offsets_db = np.pad(self.offsets_db, (0, max(0, devices - len(self.offsets_db))))

    def assumed_snr(self, devices: ArrayLike, reported_snr: ArrayLike) -> Real:
        """What these devices are to take for their SNR, linear, shape (K,).

        The same factor turns reported gains into the ``assumed_gains`` of
        :meth:`~channel.links.access.Access.send`, as its square root.
        """
        ids = np.asarray(devices, dtype=np.int64)
        return np.asarray(np.asarray(reported_snr, dtype=np.float64) * 10.0 ** (-self.offsets_db[ids] / 10.0))

    def update(self, devices: ArrayLike, lost: ArrayLike, arrived: ArrayLike) -> None:
        """Take in how many blocks of these devices were lost and how many arrived, shape (K,) each."""
        ids = np.asarray(devices, dtype=np.int64)
        up = self.step_db * np.asarray(lost, dtype=np.float64)
        down = self.step_db * self.block_error_target / (1.0 - self.block_error_target)
        moved = self.offsets_db[ids] + up - down * np.asarray(arrived, dtype=np.float64)
        self.offsets_db[ids] = np.clip(moved, -self.largest_db, self.largest_db)

    def state(self) -> dict[str, Any]:
        """All that :meth:`of` needs."""
        return {
            "block_error_target": self.block_error_target,
            "step_db": self.step_db,
            "largest_db": self.largest_db,
            "offsets_db": self.offsets_db.copy(),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """The outer loop of a :meth:`state`."""
        offsets: Real = np.array(state["offsets_db"], dtype=np.float64)
        loop = cls(len(offsets), state["block_error_target"], state["step_db"], state["largest_db"])
        loop.offsets_db = offsets
        return loop
