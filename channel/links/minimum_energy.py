"""Slots of a frame in which all devices send their bits with the least energy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import ArrayLike

from channel.links.allocation import AllocationError, Allocator, Constraint, cvxpy, solve_or_raise
from channel.links.budget import LinkBudget, Real
from channel.power.user_constraints import user_constraints


class MinimumEnergy(Allocator):
    r"""Minimise the energy of TDMA under a deadline: long slots at low power, as long as the others leave room.

    .. math:: \min_{\tau} \sum_i \left(\frac{w_i}{\eta_i}\left(e^{s_i/\tau_i} - 1\right) + P_{c,i}\right)\tau_i
              \quad\text{with}\quad \sum_i \tau_i \le T,\quad \tau_i \ge s_i/\ln(1 + P_i/w_i),

    :math:`s_i = S_i \ln 2/B` the bits as nats per hertz, :math:`w_i = \Gamma N_0 B/|h_i|^2` the power that arrives as
    strong as the noise, eta and P_c of the amplifier and the circuits. Convex; in cvxpy an exponential cone. Closed
    form: :math:`\tau_i = \max(\tau_{min,i}, s_i/x_i)` with

    .. math:: x_i = 1 + W_0\!\left(\left(\frac{\eta_i(\lambda + P_{c,i})}{w_i} - 1\right)/e\right)

    (W the Lambert function) and the price :math:`\lambda \ge 0` of time by bisection on :math:`\sum\tau_i = T`, 0 where
    circuit power alone makes slots end before.

    Parameters
    ----------
    solver, constraints
        See :class:`~channel.links.allocation.Allocator`. A constraint is called with ``(durations, energies)``: the
        :math:`\tau_i` in s and the energies in power times s, a convex expression, both of shape (K,).
    """

    def allocate(self, budget: LinkBudget, bits: ArrayLike, deadline: float, gap: float = 1.0) -> tuple[Real, Real]:
        """Durations and powers.

        Parameters
        ----------
        budget : LinkBudget
            The K devices; noise_power > 0.
        bits : array, shape (K,), or a scalar
            S_i > 0.
        deadline : float
            T, s.
        gap : float
            Gamma >= 1 of the link.

        Returns
        -------
        durations : ndarray, shape (K,)
            s; 0 for devices in outage.
        powers : ndarray, shape (K,)
            What sends the bits in that time.

        Raises
        ------
        AllocationError
            All devices in outage, a deadline too short even at full power, or constraints that cannot be met.
        """
        if not 0.0 < deadline < math.inf:
            raise ValueError(f"deadline is {deadline!r}; accepted: a finite number of seconds > 0")
        if not budget.noise_power > 0:
            raise ValueError(f"noise_power is {budget.noise_power!r}; accepted: > 0, without noise nothing takes time")
        heard = budget.reachable
        if not heard.any():
            raise AllocationError("all devices are in outage: each has gain 0 or power 0")
        problem = _Slots(budget, np.broadcast_to(np.asarray(bits, dtype=np.float64), heard.shape), deadline, gap)
        least = float(problem.shortest.sum())
        if least > deadline * (1 + 1e-12):
            raise AllocationError(f"deadline is {deadline!r} s, and full power takes {least:.6g} s; allow more time")
        durations = np.zeros(len(heard))
        if self.by_closed_form or (not self.constraints and least > deadline * (1 - 1e-6)):  # no room for a solver
            durations[heard] = problem.durations_at_price(problem.price())
        else:
            durations[heard] = self._program(len(heard), _Program).solve(problem)[heard]
        powers = np.zeros(len(heard))
        powers[heard] = problem.noise * np.expm1(problem.nats / durations[heard])
        return durations, np.minimum(powers, budget.powers)


class _Slots:
    """The problem of the devices that can be heard, by time over the deadline."""

    def __init__(self, budget: LinkBudget, bits: Real, deadline: float, gap: float) -> None:
        heard = budget.reachable
        self.heard = heard
        self.deadline = deadline
        self.nats = bits[heard] * math.log(2.0) / budget.bandwidth
        self.noise = gap * budget.noise_power / np.asarray(budget.gains)[heard] ** 2
        self.efficiency = np.asarray(budget.amplifier_efficiency)[heard]
        self.circuit = np.asarray(budget.circuit_power)[heard]
        self.shortest = self.nats / np.log1p(budget.powers[heard] / self.noise)

    def durations_at_price(self, price: float) -> Real:
        """The best durations if a second costs `price` more; the inverse of the marginal energy."""
        value = self.efficiency * (price + self.circuit) / self.noise
        root = np.sqrt(2.0 * value)
        lambertw = scipy.special.lambertw
        exponent = np.where(root > 0.01, 1.0 + lambertw((value - 1.0) / math.e, 0).real, root * _at_branch_point(root))
        with np.errstate(divide="ignore"):
            return np.asarray(np.maximum(self.shortest, self.nats / exponent))

    def price(self) -> float:
        """lambda; the durations at it add up to the deadline, or to less at 0."""

        def surplus(log_price: float) -> float:
            return (
                float(np.minimum(self.durations_at_price(math.exp(log_price)), 2 * self.deadline).sum()) - self.deadline
            )

        if float(self.durations_at_price(0.0).sum()) <= self.deadline:
            return 0.0
        # From the price on at which every device would choose full power, the slots are the shortest.
        fullest = self.nats / self.shortest
        high = 2.0 * float(np.max(self.noise / self.efficiency * ((fullest - 1.0) * np.exp(fullest) + 1.0)))
        low = high
        while surplus(math.log(low)) < 0 and low > 1e-300 * high:
            low *= 1e-3
        if surplus(math.log(high)) >= 0:
            return high
        return math.exp(float(scipy.optimize.brentq(surplus, math.log(low), math.log(high), xtol=1e-14, rtol=1e-14)))


def _at_branch_point(p: Real) -> Real:
    """(1 + W_0((p^2/2 - 1)/e)) / p for small p, where W_0 itself loses digits: Corless et al. 1996, equation 4.22."""
    return np.asarray(1.0 - p / 3.0 + 11.0 / 72.0 * p**2 - 43.0 / 540.0 * p**3 + 769.0 / 17280.0 * p**4)


class _Program:
    """The problem in cvxpy, DPP in s, w, T and the least durations.

    Durations are in units of those without constraints; tau e^(s/tau) is e^(x0) times tau e^(s/tau - x0) with x0 their
    exponent s / tau, and the cone of the latter holds numbers of order one.
    """

    def __init__(self, devices: int, constraints: tuple[Constraint, ...]) -> None:
        cp = cvxpy()
        self._durations = cp.Variable(devices, nonneg=True)
        self._received = cp.Variable(devices, nonneg=True)
        self._exponent = cp.Parameter(devices, nonneg=True)  # x0
        self._shortest = cp.Parameter(devices, nonneg=True)
        self._longest = cp.Parameter(devices, nonneg=True)
        self._part = cp.Parameter(devices, nonneg=True)  # of the frame that one unit of duration is
        self._price_received = cp.Parameter(devices, nonneg=True)
        self._price_duration = cp.Parameter(devices)
        self._duration_unit = cp.Parameter(devices, nonneg=True)
        self._energy_unit = cp.Parameter(nonneg=True)
        exponent = self._exponent - cp.multiply(self._exponent, self._durations)
        energies = cp.multiply(self._price_received, self._received)
        energies += cp.multiply(self._price_duration, self._durations)
        seconds = cp.multiply(self._duration_unit, self._durations)
        limits = [
            cp.constraints.ExpCone(exponent, self._durations, self._received),
            self._part @ self._durations <= 1,
            self._durations >= self._shortest,
            self._durations <= self._longest,
            *user_constraints(constraints, seconds, self._energy_unit * energies),
        ]
        self._problem: Any = cp.Problem(cp.Minimize(cp.sum(energies)), limits)

    def solve(self, slots: _Slots) -> Real:
        heard = slots.heard
        unit = slots.durations_at_price(slots.price())
        exponent = slots.nats / unit
        radiated = slots.noise / slots.efficiency
        energy = float(np.sum((radiated * np.expm1(exponent) + slots.circuit) * unit))

        def spread(values: Real) -> Real:
            full = np.zeros(len(heard))
            full[heard] = values
            return full

        self._exponent.value = spread(exponent)
        self._shortest.value = spread(np.minimum(slots.shortest / unit, 1.0))
        self._longest.value = spread(slots.deadline / unit)
        self._part.value = spread(unit / slots.deadline)
        self._price_received.value = spread(radiated * np.exp(exponent) * unit / energy)
        self._price_duration.value = spread((slots.circuit - radiated) * unit / energy)
        self._duration_unit.value = spread(unit)
        self._energy_unit.value = energy
        solve_or_raise(self._problem)
        return np.asarray(np.maximum(self._durations.value, self._shortest.value) * spread(unit))
