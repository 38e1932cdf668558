"""Power budgets over time: the multipliers that meet them on average, and the least error anybody could reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from channel.power.power_control import Real
from channel.power.power_price import priced_amplitudes, priced_scale

LEAST = 1e-15  # of a multiplier whose limit does not bind: as good as 0, and it can still come back
EXPONENTS = (0.1, 10.0)
FASTER, SLOWER = 1.2, 0.5  # while a price moves one way, and where it turns


@dataclass(frozen=True)
class ErgodicOptimum:
    r"""What is best over T states when powers are limited on average.

    Attributes
    ----------
    multipliers : ndarray, shape (N,)
        nu_i: the price of device i's power, in units of its limit and of :math:`\|w\|^2/K`.
    error : float
        Mean over the states of :math:`K\,MSE/\|w\|^2` (K^2 MSE where all weights are 1/K) at these multipliers.
    bound : float
        The dual value: no allocation within the average limits, not even one that knows all states in advance, has
        a smaller mean error.
    powers : ndarray, shape (N,)
        Mean power of each device over the states it takes part in, as a share of its limit.
    sweeps : int
        Passes over the states.
    """

    multipliers: Real
    error: float
    bound: float
    powers: Real
    sweeps: int


def ergodic_optimum(
    magnitudes: ArrayLike,
    power_limits: ArrayLike,
    noise_power: float,
    weights: ArrayLike,
    peak_to_average: float = math.inf,
    maximum_sweeps: int = 1000,
    tolerance: float = 1e-5,
) -> ErgodicOptimum:
    r"""Least mean error over given states with :math:`\overline{b_i^2} \le P_i` and peaks :math:`r P_i`.

    The limits are priced: each state's allocation minimises :math:`K\,MSE/\|w\|^2 + \sum_i \nu_i b_i^2/P_i`
    (:func:`~channel.power.power_price.priced_scale`), and prices follow the mean powers, :math:`\nu_i \leftarrow
    \nu_i\,(\overline{b_i^2}/P_i)^{1/2}`, until what is paid for is used and nobody spends more. Then the mean error and
    its dual bound agree. Equation 1f of docs/equations.md.

    Parameters
    ----------
    magnitudes : array, shape (T, N)
        \|h\|.
    power_limits : array, shape (N,), or a scalar
        P_i > 0, on the mean over the states that the device takes part in.
    noise_power : float
        sigma^2 > 0.
    weights : array, shape (N,) or (T, N)
        w_i >= 0; 0 for a device that does not take part in a state.
    peak_to_average : float
        r >= 1; may be infinite.
    maximum_sweeps : int
        Passes over the states, at most.
    tolerance : float
        Where to stop: relative gap to the bound, and relative excess of a limit.

    Raises
    ------
    ValueError
        Shapes that do not fit, or numbers outside the above.
    """
    channel = np.asarray(magnitudes, dtype=np.float64)
    _check(channel, power_limits, noise_power, weights, peak_to_average)
    reach = channel * np.sqrt(np.asarray(power_limits, dtype=np.float64) / noise_power)
    parts = relative_weights(np.broadcast_to(np.asarray(weights, dtype=np.float64), channel.shape))
    present = np.maximum((parts > 0).sum(0), 1)
    attended = present / len(parts)  # a mean over one's own states is this much less a mean over all
    peak = math.sqrt(peak_to_average)

    multipliers, squared = np.ones(channel.shape[1]), np.ones(len(channel))
    exponents, previous = np.full(channel.shape[1], 0.5), np.zeros(channel.shape[1])
    for sweep in range(1, maximum_sweeps + 1):
        squared = priced_scale(reach, parts, multipliers, peak, squared)
        amplitudes = priced_amplitudes(squared, reach, parts, multipliers, peak)
        powers = np.square(amplitudes).sum(0) / present
        aligned = np.sqrt(squared)[:, None] * reach * amplitudes
        error = float((np.square(aligned - parts).sum(1) + squared).mean())
        paid = multipliers * attended * (powers - 1.0)
        if np.abs(paid).sum() <= tolerance * error and (powers <= 1.0 + tolerance).all():
            break
        if sweep < maximum_sweeps:
            change = np.log(np.maximum(powers, 1e-30))
            exponents = np.clip(exponents * np.where(change * previous < 0, SLOWER, FASTER), *EXPONENTS)
            multipliers, previous = np.maximum(multipliers * np.exp(exponents * change), LEAST), change
    return ErgodicOptimum(multipliers, error, error + float(paid.sum()), powers, sweep)


def relative_weights(weights: Real) -> Real:
    r"""Weights of states, shape (T, K), over their root mean square among those that take part (w > 0)."""
    size = np.square(weights).sum(-1, keepdims=True) / (weights > 0).sum(-1, keepdims=True)
    return np.asarray(weights / np.sqrt(size))


def _check(
    magnitudes: Real, power_limits: ArrayLike, noise_power: float, weights: ArrayLike, peak_to_average: float
) -> None:
    if magnitudes.ndim != 2 or magnitudes.size == 0 or not (np.isfinite(magnitudes) & (magnitudes >= 0)).all():
        raise ValueError(f"magnitudes has shape {magnitudes.shape}; accepted: finite numbers >= 0, shape (T, N)")
    states, devices = magnitudes.shape
    limits, parts = np.asarray(power_limits, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if limits.shape not in ((), (devices,)) or not (np.isfinite(limits) & (limits > 0)).all():
        raise ValueError(f"power_limits is {power_limits!r}; accepted: finite numbers > 0, a scalar or ({devices},)")
    if parts.shape not in ((devices,), (states, devices)) or not (np.isfinite(parts) & (parts >= 0)).all():
        raise ValueError(
            f"weights has shape {parts.shape}; accepted: finite numbers >= 0, ({devices},) or {magnitudes.shape}"
        )
    if not (np.atleast_2d(parts).sum(1) > 0).all():
        raise ValueError("weights are all 0 in a state; accepted: at least one device that takes part")
    if not 0.0 < noise_power < math.inf:
        raise ValueError(f"noise_power is {noise_power!r}; accepted: a finite number > 0")
    if not peak_to_average >= 1.0:
        raise ValueError(f"peak_to_average is {peak_to_average!r}; accepted: >= 1, or infinity")
