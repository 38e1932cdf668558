"""Everybody sends at full power; only the receiver chooses."""

from __future__ import annotations

from typing import Literal

import numpy as np

from channel.power.power_control import AllocationProblem, PowerControl, Real


class FullPower(PowerControl):
    r""":math:`b_i = \sqrt{P_i}`: no channel knowledge of the amplitude at the devices.

    Parameters
    ----------
    receive : {"lmmse", "unbiased"}
        ``lmmse``: :math:`a = \sum w_i c_i/(\sigma^2 + \sum c_i^2)`, least error. ``unbiased``:
        :math:`a = \sum w_i/\sum c_i`, so that the received weights :math:`a c_i` sum to that of the wanted
        ones: the power-weighted mean of Amiri and Gündüz (arXiv:1901.00844).

    Raises
    ------
    ValueError
        Another receive rule.
    """

    name = "full-power"

    def __init__(self, receive: Literal["lmmse", "unbiased"] = "lmmse") -> None:
        if receive not in ("lmmse", "unbiased"):
            raise ValueError(f"receive is {receive!r}; accepted: 'lmmse', 'unbiased'")
        self.receive = receive

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        heard = problem.wanted  # a device of weight zero would only disturb
        amplitudes = np.where(heard, problem.peaks, 0.0)
        reach, weights = np.where(heard, problem.reach, 0.0), problem.weights
        if self.receive == "unbiased":
            return amplitudes, float(np.sum(weights) / np.sum(reach))
        return amplitudes, float(weights @ reach / (problem.noise_power + reach @ reach))
