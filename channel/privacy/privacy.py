"""Differential privacy of a run over the air: what each exchange tells, and how much it may."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.channel import ChannelState
from channel.privacy.accountant import PrivacyAccountant
from channel.privacy.noise import protect, sensitivities
from channel.uplinks.alignment import Alignment

Real = NDArray[np.float64]


@dataclass
class Privacy:
    r"""Accounts for what the received blocks tell of each device, and has devices add noise if asked to.

    The server's view of an exchange is :math:`y = \sum_i |h_i| b_i s_i + n`, a Gaussian mechanism: with a known norm
    bound (:class:`channel.uplinks.norm_bound.NormBound`) :math:`\|s_i\| \le \sqrt m` and amplitudes depend on no data,
    so that device i moves y by at most :math:`\Delta_i = \sqrt m |h_i| b_i`, and :math:`z_i = \sigma/\Delta_i`.
    Whatever is computed from y, the decoded mean and all later models, tells no more.

    Neighbours are two runs of which in one a device sends nothing (a block of zeros) in place of its symbols; for two
    data sets of a device sensitivities are twice as large. Devices are drawn in public, so that who was not asked is
    counted as such and nothing is gained by drawing.

    Parameters
    ----------
    delta : float
        In (0, 1).
    noise_multiplier : float, optional
        Least z of every exchange; devices add what the channel lacks. None: the channel's noise alone.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    delta: float
    noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        if self.noise_multiplier is not None and not 0 < self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier is {self.noise_multiplier!r}; accepted: a finite number > 0")
        self.accountant = PrivacyAccountant(self.delta)

    def state(self) -> dict[str, Any]:
        """What has been told so far: all that a resumed run must know."""
        return self.accountant.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.accountant.restore(state)

    def protect(
        self, alignment: Alignment, state: ChannelState, noise_power: float, uses: int, limit: float
    ) -> Alignment:
        """The exchange with the noise that devices add, see :func:`channel.privacy.noise.protect`."""
        if self.noise_multiplier is None:
            return alignment
        return protect(alignment, state, noise_power, uses, limit, self.noise_multiplier)

    def account(
        self, alignment: Alignment, state: ChannelState, noise_power: float, uses: int, devices: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Enter an exchange; its figures for the run's record.

        ``privacy_noise_multiplier`` is the least z of a sender, ``privacy_epsilon_round`` epsilon of the exchange
        alone, ``privacy_epsilon`` of all so far, ``added_noise`` the received power of what devices add.
        """
        moved = sensitivities(alignment, state, uses)
        noise = math.sqrt(noise_power + alignment.added_noise)
        with np.errstate(divide="ignore", invalid="ignore"):
            leaks = np.where(moved > 0, moved / noise, 0.0)
        alone = self.accountant.spend(devices, leaks)
        largest = float(leaks.max(initial=0.0))
        return {
            "privacy_noise_multiplier": 1.0 / largest if largest > 0 else math.inf,
            "privacy_epsilon_round": alone,
            "privacy_epsilon": self.accountant.epsilon(),
            "added_noise": alignment.added_noise,
        }
