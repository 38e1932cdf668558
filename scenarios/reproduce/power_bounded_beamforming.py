"""Beamforming of least transmit power under bounds on bias and error, after arXiv:2501.18058."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.power import ChannelInversion, PowerControlError, ZeroForcing
from channel.power.quadratic_program import solve_checked

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
MAXIMUM_SWEEPS = 15
STOP = 0.01  # relative change of the power, as in the published code


class BoundedPower:
    r"""Least :math:`\sum b_i^2` with bounds on what an estimate of the gradient may be off.

    With :math:`v_i` what arrives of device i and :math:`B = \sum_i |w_i - v_i|`, the worst case of the bias,

    .. math:: B \le \alpha \sum_i w_i, \qquad B^2 + \sigma^2\|F\|^2 \le \delta \bigl(\sum_i w_i\bigr)^2 + \eta.

    :math:`\sum w_i` stands for the norm of the gradient, per root of its number of entries. Alternating: given F,
    the least amplitudes that meet both are proportional to :math:`|F^H h_i|` where neither the limit nor
    :math:`v_i \le w_i` binds; given those, F of least :math:`B^2 + \sigma^2\|F\|^2` under the first bound is a convex
    program. At the end F is made longer and all amplitudes smaller by the same factor until the second bound is
    met with equality. Where the least aligned error does not meet it, that is what is sent.

    Parameters
    ----------
    alpha, delta, eta : float
        :math:`\alpha = \infty, \delta = 0` is the paper's bounded-error rule, :math:`\eta = 0` its proposal with
        beta = 0.
    """

    def __init__(self, alpha: float, delta: float, eta: float) -> None:
        self.alpha, self.delta, self.eta = alpha, delta, eta
        self._programs: dict[tuple[int, int], Combiner] = {}

    def solve(self, gains: Complex, weights: Real, power_limit: float, noise_power: float) -> tuple[Complex, Complex]:
        """F, shape (M,), and what devices send, :math:`b_i e^{j\\theta_i}`, shape (K,)."""
        start = ZeroForcing().combine(gains, weights, power_limit, noise_power, ChannelInversion())
        combiner = start.allocation.receive_scale * start.combiner
        heard = gains @ combiner.conj()
        sent = np.asarray(start.allocation.amplitudes * np.exp(-1j * np.angle(heard)))
        total = float(weights.sum())
        budget = self.delta * total**2 + self.eta
        if budget < noise_power * np.linalg.norm(combiner) ** 2:
            return combiner, sent
        candidate, spent = combiner, math.inf
        for _ in range(MAXIMUM_SWEEPS):
            slack = budget - noise_power * float(np.linalg.norm(candidate)) ** 2
            bias = min(math.sqrt(max(slack, 0.0)), self.alpha * total)
            combiner, sent = candidate, least_amplitudes(gains @ candidate.conj(), weights, power_limit, bias)
            previous, spent = spent, float(np.sum(np.abs(sent) ** 2))
            if previous - spent < STOP * previous and math.isfinite(previous):
                break
            candidate = self._combiner(gains * sent[:, None], weights, noise_power, combiner)
        bias = float(np.abs(weights - np.real((gains @ combiner.conj()) * sent)).sum())
        longer = math.sqrt((budget - bias**2) / noise_power) / float(np.linalg.norm(combiner))
        return longer * combiner, np.asarray(sent / longer)

    def _combiner(self, arriving: Complex, weights: Real, noise_power: float, last: Complex) -> Complex:
        devices, antennas = arriving.shape
        if (devices, antennas) not in self._programs:
            self._programs[devices, antennas] = Combiner(devices, antennas, bounded=math.isfinite(self.alpha))
        return self._programs[devices, antennas].solve(arriving, weights, noise_power, last, self.alpha)


def least_amplitudes(heard: Complex, weights: Real, power_limit: float, bias: float) -> Complex:
    """The least-power b e^{j theta} with at most this sum of shortfalls: min(t |F^H h|, limit), t by bisection."""
    strength = np.abs(heard)
    largest = np.minimum(math.sqrt(power_limit), weights / strength)
    needed = float(weights.sum()) - bias
    low, high = 0.0, float(np.max(largest / strength))
    for _ in range(100):
        middle = 0.5 * (low + high)
        enough = float(strength @ np.minimum(middle * strength, largest)) >= needed
        low, high = (low, middle) if enough else (middle, high)
    return np.asarray(np.minimum(high * strength, largest) * np.exp(-1j * np.angle(heard)))


class Combiner:
    """F of least B^2 + sigma^2 ||F||^2 with B at most alpha times the sum of the weights, DPP in all that varies."""

    def __init__(self, devices: int, antennas: int, bounded: bool) -> None:
        cp: Any = import_module("cvxpy")
        self._rows = cp.Parameter((devices, 2 * antennas))
        self._weights = cp.Parameter(devices, nonneg=True)
        self._noise = cp.Parameter(nonneg=True)
        self._x = cp.Variable(2 * antennas)
        bias = cp.norm1(self._weights - self._rows @ self._x)
        self._bound = cp.Parameter(nonneg=True)
        limits = [bias <= self._bound] if bounded else []
        objective = cp.square(bias) + cp.sum_squares(self._noise * self._x)
        self._problem: Any = cp.Problem(cp.Minimize(objective), limits)

    def solve(self, arriving: Complex, weights: Real, noise_power: float, last: Complex, alpha: float) -> Complex:
        """In units of the last F and of the sum of the weights."""
        unit, total = float(np.linalg.norm(last)), float(weights.sum())
        rows = arriving.conj() * unit / total
        self._rows.value = np.hstack([rows.real, -rows.imag])
        self._weights.value = weights / total
        self._noise.value = math.sqrt(noise_power) * unit / total
        self._bound.value = alpha if math.isfinite(alpha) else 1.0
        status = solve_checked(self._problem)
        if status not in ("optimal", "optimal_inaccurate"):
            raise PowerControlError(f"cvxpy ended with status {status!r} for the combiner under a bounded bias")
        half = len(self._x.value) // 2
        return np.asarray((self._x.value[:half] + 1j * self._x.value[half:]) * unit)
