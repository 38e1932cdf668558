"""How far the server believes what devices say, and how long it asks those again whose replies are of no use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DECODED = 100.0
"""Times the norm that a device says its update has, that of its packet may be: codecs of few bits lengthen updates, a
random hundredth of the entries tenfold."""

LARGEST_NUMBER = 2**20
"""Devices that there can be where nobody says how many: tables are made for all numbers."""


@dataclass(frozen=True)
class Trust:
    """What the server believes of devices that it does not know.

    Parameters
    ----------
    largest_weight_share : float
        Largest part of the sum of the weights that one device has, in (0, 1]; 1 takes its number of examples as it
        says. See :func:`capped_shares`.
    largest_norm_ratio : float
        A device's update may be so many times as long as the median of the exchange's, > 1; infinite for any length.
        See :func:`too_long`.
    bad_replies : int
        So many of them within `within_rounds` put a device in quarantine; 0 for none ever.
    within_rounds : int
        Over how many rounds bad replies are remembered, >= 1.
    quarantine_rounds : int
        Rounds that the first quarantine lasts, >= 1; each further one of a device lasts twice as long.
    devices : int, optional
        How many there are: a node that says another number than 0 to devices - 1 is not believed.

    Raises
    ------
    ValueError
        If a value is not as described.
    """

    largest_weight_share: float = 1.0
    largest_norm_ratio: float = 1e6
    bad_replies: int = 3
    within_rounds: int = 10
    quarantine_rounds: int = 5
    devices: int | None = None

    def __post_init__(self) -> None:
        share, ratio = self.largest_weight_share, self.largest_norm_ratio
        if not 0 < share <= 1:
            raise ValueError(f"largest_weight_share = {share!r}: accepted: a number > 0 and <= 1")
        if not ratio > 1:
            raise ValueError(f"largest_norm_ratio = {ratio!r}: accepted: a number > 1")
        least = {"bad_replies": 0, "within_rounds": 1, "quarantine_rounds": 1}
        for name, value in ((name, getattr(self, name)) for name in least):
            if isinstance(value, bool) or not isinstance(value, int) or value < least[name]:
                raise ValueError(f"{name} = {value!r}: accepted: an integer >= {least[name]}")

    def believes_number(self, device: object) -> bool:
        """Whether a node may have this device number."""
        if isinstance(device, bool) or not isinstance(device, int):
            return False
        return 0 <= device < (LARGEST_NUMBER if self.devices is None else self.devices)

    def capped(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shares of these weights that add up to 1, none above what is believed."""
        return capped_shares(weights, self.largest_weight_share)

    def too_long(self, norms: Mapping[int, float]) -> dict[int, str]:
        """Devices whose updates are so much longer than the others' that they are not believed, and why.

        The measure is the median of all norms above zero, at least three: who moves it is half of the devices.

        Parameters
        ----------
        norms : mapping of int to float
            By device.
        """
        longest = self.longest(norms)
        reason = f"more than {self.largest_norm_ratio:g} times the median of the exchange's"
        return {
            device: f"the update's norm is {norm:.4g}, {reason}" for device, norm in norms.items() if norm > longest
        }

    def longest(self, norms: Mapping[int, float]) -> float:
        """The largest norm that is believed beside these; infinite where fewer than three are above zero."""
        return self.longest_beside(sorted(norm for norm in norms.values() if norm > 0))

    def longest_beside(self, positive: Sequence[float]) -> float:
        """The same, of norms above zero in order of size."""
        if len(positive) < 3:
            return math.inf
        return self.largest_norm_ratio * positive[(len(positive) - 1) // 2]


def capped_shares(weights: NDArray[np.float64], largest: float) -> NDArray[np.float64]:
    r"""Shares of weights with none above `largest`: :math:`p_i = \min(c\, w_i, s)` with :math:`\sum p_i = 1`.

    What the largest lose the others get in proportion to their weights. If K shares of s do not make 1, all are 1/K.

    Parameters
    ----------
    weights : ndarray, shape (K,)
        w, finite and > 0.
    largest : float
        s, in (0, 1].

    Examples
    --------
    >>> capped_shares(np.array([8.0, 1.0, 1.0]), 0.5)
    array([0.5 , 0.25, 0.25])
    """
    shares: NDArray[np.float64] = weights / weights.sum()
    if len(shares) * largest <= 1:
        return np.full(len(shares), 1 / len(shares))
    capped = np.zeros(len(shares), dtype=np.bool_)
    while (over := (shares > largest) & ~capped).any():
        capped |= over
        free = ~capped
        shares[capped] = largest
        shares[free] = weights[free] / weights[free].sum() * (1 - largest * capped.sum())
    return shares
