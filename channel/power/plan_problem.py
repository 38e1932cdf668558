"""What is left to plan of a run's budget, and the plan in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from channel.power.water_filling import Real, Whole, water_fill, whole_water_fill

EXHAUSTED = 1 - 1e-15
"""Of an energy budget this much is planned, so that a sum of rounded energies does not exceed it."""


@dataclass(frozen=True)
class PlanProblem:
    r"""Minimise :math:`\sum_t q_t/m_t + \sum_t r_t/E_t` over the R rounds to come.

    Attributes
    ----------
    compression : ndarray, shape (R,)
        q_t = rho^(T-t) d ||xbar_t||^2 >= 0.
    noise : ndarray, shape (R,)
        r_t = rho^(T-t) d sigma^2 c_t >= 0.
    lower, upper : ndarray of int, shape (R,)
        Limits on m_t.
    peaks : ndarray, shape (R,)
        Limits on E_t; may be infinite.
    uses : int
        Channel uses left.
    energy : float
        Energy left, >= 0.
    spent_uses, spent_energies : ndarray, shape (T - R,)
        What the rounds before took; constraints may look at it.
    """

    compression: Real
    noise: Real
    lower: Whole
    upper: Whole
    peaks: Real
    uses: int
    energy: float
    spent_uses: Whole
    spent_energies: Real

    def real_uses(self) -> Real:
        """The best m_t if a use could be divided."""
        limits = self.lower.astype(np.float64), self.upper.astype(np.float64)
        return water_fill(np.sqrt(self.compression), *limits, float(self.uses))

    def whole_uses(self) -> Whole:
        """The best whole m_t."""
        return whole_water_fill(self.compression, self.lower, self.upper, self.uses)

    def energies(self) -> Real:
        """The best E_t."""
        return water_fill(np.sqrt(self.noise), np.zeros_like(self.noise), self.peaks, self.energy * EXHAUSTED)
