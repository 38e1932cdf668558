"""Power control within average power limits: spend where the channel is worth it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from channel.power.closed_form import optimal_receive_scale
from channel.power.ergodic import ErgodicOptimum, ergodic_optimum, relative_weights
from channel.power.power_control import AllocationProblem, Ids, PowerControl, Real
from channel.power.power_price import priced_amplitudes, priced_scale

LEAST_PRICE = 1e-3  # in units of error per device: what is free is not thrown about
LEAST_OF_FITTED = 0.1  # savings lower a price to this share of the fitted one and are not carried further
LARGEST_DEBT = 50.0  # as good as silence
SWEEPS = 400
FIT_TOLERANCE = 1e-3  # the states are a sample: their own error is larger


class AveragePower(PowerControl):
    r"""Least error where the limits P_i hold on average over exchanges, with peaks of ``peak_to_average`` P_i.

    Each exchange minimises :math:`\sum_i (a|h_i|b_i - w_i)^2 + \sigma^2 a^2 + \sum_i \mu_i b_i^2` over a and
    :math:`0 \le b_i \le \sqrt{r P_i}`: in poor states a device saves what it spends in better ones. The prices are
    :math:`\mu_i = (\nu_i + u\,(e^{q_i} - 1))\,\|w\|^2/(K P_i)`:

    * :math:`\nu_i` is fitted by :meth:`learn` on simulated states (:func:`~channel.power.ergodic.ergodic_optimum`);
      it is relative to the weights, because these shrink with the updates during a run.
    * :math:`q_i` starts at 0 and follows what the device has spent, :math:`q_i \leftarrow q_i + s\,(b_i^2/P_i - 1)`,
      and u is the fitted error per device. Below 0 the price is linear in q, which falls no further than the price
      can. Summed up, the mean power over n exchanges is at most :math:`P_i (1 + q_i/(s n))`: it comes to within the
      limit as n grows, whatever the channel really does.

    The average of a device is over the exchanges it takes part in. Equations 1f and 1h of docs/equations.md.

    Parameters
    ----------
    peak_to_average : float
        r >= 1: the peak power over the limit, 4 is 6 dB. May be infinite.
    step : float
        s >= 0. Larger holds the averages sooner, smaller costs less error; 0 trusts the simulated states.

    Raises
    ------
    ValueError
        A parameter outside the above; at :meth:`allocate`, a device that no state was shown of.
    RuntimeError
        At :meth:`allocate`, if :meth:`learn` was not called.

    References
    ----------
    X. Cao, G. Zhu, J. Xu, K. Huang, "Optimized power control for over-the-air computation in fading channels", IEEE
    Trans. Wireless Commun. 19(11), 2020 (regularised inversion). M. J. Neely, "Stochastic network optimization with
    application to communication and queueing systems", 2010 (q is a virtual queue of power spent beyond the limit).
    """

    name = "average-power"
    needs_statistics: ClassVar[bool] = True

    def __init__(self, peak_to_average: float = 4.0, step: float = 0.03) -> None:
        if not peak_to_average >= 1.0:
            raise ValueError(f"peak_to_average is {peak_to_average!r}; accepted: >= 1, or infinity")
        if not 0.0 <= step < math.inf:
            raise ValueError(f"step is {step!r}; accepted: a finite number >= 0")
        self.peak_to_average = peak_to_average
        self.step = step
        self._optimum: ErgodicOptimum | None = None
        self._price_unit = 1.0
        self._corrections = np.zeros(0)
        self._spent = np.zeros(0)
        self._exchanges = np.zeros(0, dtype=np.int64)

    def learn(self, magnitudes: ArrayLike, power_limits: ArrayLike, noise_power: float, weights: ArrayLike) -> None:
        """Fit the multipliers to states of the channel, shape (T, N), and forget what has been spent."""
        self._optimum = ergodic_optimum(
            magnitudes, power_limits, noise_power, weights, self.peak_to_average, SWEEPS, FIT_TOLERANCE
        )
        devices = len(self._optimum.multipliers)
        present = np.count_nonzero(np.atleast_2d(np.asarray(weights)), axis=1).mean()
        self._price_unit = self._optimum.error / float(present)
        self._corrections = np.zeros(devices)
        self._spent = np.zeros(devices)
        self._exchanges = np.zeros(devices, dtype=np.int64)

    @property
    def optimum(self) -> ErgodicOptimum:
        """What :meth:`learn` found: multipliers, the error to expect and its dual bound.

        Raises
        ------
        RuntimeError
            Before :meth:`learn`.
        """
        if self._optimum is None:
            raise RuntimeError(
                "AveragePower knows no channel statistics; call learn(magnitudes, power_limits, noise_power, weights) "
                "with simulated states before the first exchange"
            )
        return self._optimum

    @property
    def mean_powers(self) -> Real:
        """Mean power of each device so far as a share of its limit, shape (N,); 0 before its first exchange."""
        return self._spent / np.maximum(self._exchanges, 1)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: what was learnt, and what devices have spent."""
        return {
            "optimum": None if self._optimum is None else asdict(self._optimum),
            "price_unit": self._price_unit,
            "corrections": self._corrections.copy(),
            "spent": self._spent.copy(),
            "exchanges": self._exchanges.copy(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`; parameters are the caller's to keep."""
        self._optimum = None if state["optimum"] is None else ErgodicOptimum(**state["optimum"])
        self._price_unit = state["price_unit"]
        self._corrections = state["corrections"].copy()
        self._spent = state["spent"].copy()
        self._exchanges = state["exchanges"].copy()

    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        devices, known = problem.devices, len(self.optimum.multipliers)
        if devices.max() >= known:
            raise ValueError(f"devices holds {devices.max()}; accepted: 0 to {known - 1}, those shown to learn()")
        if problem.noise_power == 0.0:  # any level is free of error: plain inversion, within the average limits
            scale = optimal_receive_scale(problem)
            amplitudes = problem.invert(scale, problem.wanted)
        else:
            amplitudes, scale = self._priced(problem)
        self._remember(problem, amplitudes)
        return amplitudes, scale

    def _priced(self, problem: AllocationProblem) -> tuple[Real, float]:
        peak, price = math.sqrt(self.peak_to_average), self._prices(problem.devices)
        reach = problem.reach[None] / math.sqrt(problem.noise_power)
        parts = relative_weights(problem.weights[None])
        squared = priced_scale(reach, parts, price, peak)
        fractions = priced_amplitudes(squared, reach, parts, price, peak)[0]
        unit = float(problem.weights.max() / parts.max())
        return fractions * problem.peaks, math.sqrt(squared[0] / problem.noise_power) * unit

    def _prices(self, devices: Ids) -> Real:
        fitted = self.optimum.multipliers[devices]
        debt = self._corrections[devices]
        rise = np.where(debt > 0, np.expm1(np.clip(debt, 0.0, LARGEST_DEBT)), debt)
        corrected = fitted + self._price_unit * rise
        return np.maximum(corrected, np.maximum(LEAST_OF_FITTED * fitted, LEAST_PRICE * self._price_unit))

    def _remember(self, problem: AllocationProblem, amplitudes: Real) -> None:
        limited = (problem.power_limits > 0) & (problem.weights > 0)
        devices = problem.devices[limited]
        shares = np.square(amplitudes[limited]) / problem.power_limits[limited]
        self._spent[devices] += shares
        self._exchanges[devices] += 1
        lowest = (LEAST_OF_FITTED - 1.0) * self.optimum.multipliers[devices] / self._price_unit
        self._corrections[devices] = np.maximum(self._corrections[devices] + self.step * (shares - 1.0), lowest)
