"""The last allocation that a solver found, for when it fails."""

from __future__ import annotations

import numpy as np

from channel.power.power_control import AllocationProblem, Ids, PowerControlError, Real


class LastGood:
    """Keeps the last allocation found; it stands in for one that was not, for the same devices and limits."""

    def __init__(self) -> None:
        self._kept: tuple[Ids, Real, Real, float] | None = None

    def keep(self, problem: AllocationProblem, amplitudes: Real, receive_scale: float) -> None:
        """Remember what was found for a problem."""
        self._kept = (problem.devices.copy(), problem.power_limits.copy(), amplitudes.copy(), receive_scale)

    def instead(self, problem: AllocationProblem, failure: PowerControlError) -> tuple[Real, float, str]:
        """Amplitudes and receive scale to use after `failure`, and the warning to record.

        Raises
        ------
        PowerControlError
            `failure`, where nothing was found yet for these devices and limits.
        """
        if self._kept is not None:
            devices, limits, amplitudes, scale = self._kept
            if np.array_equal(devices, problem.devices) and np.array_equal(limits, problem.power_limits):
                return amplitudes.copy(), scale, f"{failure}; the last allocation that was solved was used"
        raise failure
