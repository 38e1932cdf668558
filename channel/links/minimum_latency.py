"""Shares of a band with which all devices are done at the same time, as early as can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import ArrayLike

from channel.links.allocation import AllocationError, Allocator, Constraint, cvxpy, solve_or_raise
from channel.links.budget import LinkBudget, Real
from channel.power.user_constraints import user_constraints

NEAR = 30.0  # times the share without constraints: where an optimum with constraints is looked for first


class MinimumLatency(Allocator):
    r"""Maximise the common rate :math:`t` of OFDMA, every device with all its power in its own share.

    .. math:: \max_{\beta \ge 0,\, t} t \quad\text{with}\quad
              B \beta_i \log_2\!\left(1 + \frac{c_i}{\beta_i}\right) \ge t S_i,\qquad \sum_i \beta_i \le 1,

    :math:`c_i = P_i |h_i|^2/(\Gamma N_0 B)` the SNR over the whole band at the link's gap, S_i the bits to send; the
    latency is 1/t. With equal S_i it is the max-min rate. The rate is concave in the share, :math:`-\beta \ln(\beta /
    (\beta + c))` is cvxpy's ``-rel_entr``. Closed form: with :math:`y_i = t S_i \ln 2 / (B c_i)`,

    .. math:: \beta_i = c_i / x_i,\qquad x_i = -W_{-1}(-y_i e^{-y_i})/y_i - 1

    (W the Lambert function) and t by bisection on :math:`\sum \beta_i = 1`.

    Parameters
    ----------
    solver, constraints
        See :class:`~channel.links.allocation.Allocator`. A constraint is called with ``(shares, rates)``: the
        :math:`\beta_i` and the rates in bit/s, a concave expression, both of shape (K,).

    Examples
    --------
    No device may have more than half of the band:

    >>> even = MinimumLatency(constraints=[lambda shares, rates: shares <= 0.5])
    >>> budget = LinkBudget([0.1, 1.0, 1.0], power_limits=1.0, noise_power=0.1, bandwidth=1e6)
    >>> bool(MinimumLatency().allocate(budget, 1000).max() > 0.5 >= even.allocate(budget, 1000).max() - 1e-6)
    True
    """

    def allocate(self, budget: LinkBudget, bits: ArrayLike, gap: float = 1.0) -> Real:
        """Shares of the band.

        Parameters
        ----------
        budget : LinkBudget
            The K devices; noise_power > 0.
        bits : array, shape (K,), or a scalar
            S_i > 0.
        gap : float
            Gamma >= 1 of the link.

        Returns
        -------
        ndarray, shape (K,)
            Sum 1; 0 for devices in outage.

        Raises
        ------
        AllocationError
            All devices in outage, or constraints that cannot be met.
        """
        heard = budget.reachable
        if not heard.any():
            raise AllocationError("all devices are in outage: each has gain 0 or power 0")
        if not budget.noise_power > 0:
            raise ValueError(f"noise_power is {budget.noise_power!r}; accepted: > 0, without noise nothing takes time")
        size = np.broadcast_to(np.asarray(bits, dtype=np.float64), heard.shape)
        reach = np.where(heard, budget.snr(budget.powers, np.ones(len(heard))) / gap, 0.0)
        demand = np.where(heard, size / size[heard].max(), 0.0)
        if self.by_closed_form:
            shares = np.zeros(len(heard))
            shares[heard] = _closed_form(reach[heard], demand[heard])
            return shares
        return self._program(len(heard), _Program).solve(reach, demand, budget.bandwidth)


def _rate(shares: Real, reach: Real) -> Real:
    """Nats per use of the whole band."""
    return np.asarray(shares * np.log1p(reach / shares))


def share_for(rate: Real, reach: Real) -> Real:
    """The share of the band that gives a rate, infinite for a rate that none gives; shape (K,).

    Parameters
    ----------
    rate : ndarray, shape (K,)
        Nats per complex use of the whole band, > 0.
    reach : ndarray, shape (K,)
        c, the SNR over the whole band at the link's gap, > 0.
    """
    y = rate / reach
    with np.errstate(divide="ignore", invalid="ignore"):
        short = 1.0 - y
        # Towards y = 1 (low SNR) the branch point of W takes half of the digits: a series starts better there.
        lambertw = scipy.special.lambertw
        snr = np.where(short > 1e-3, -lambertw(-y * np.exp(-y), -1).real / y - 1.0, 2.0 * short + 8.0 / 3.0 * short**2)
        for _ in range(2):  # Newton's method on ln(1 + x) = y x
            snr -= (np.log1p(snr) - y * snr) / (1.0 / (1.0 + snr) - y)
        return np.where((y < 1.0) & (snr > 0), reach / snr, np.inf)


def _closed_form(reach: Real, demand: Real) -> Real:
    equal = float(np.min(_rate(np.full(len(reach), 1.0 / len(reach)), reach) / demand))
    most = float(np.min(_rate(np.ones(len(reach)), reach) / demand))
    if len(reach) == 1:
        return np.ones(1)

    def excess(log_rate: float) -> float:
        return float(np.minimum(share_for(np.exp(log_rate) * demand, reach), 2.0).sum()) - 1.0

    low, high = np.log(equal) - 1e-6, np.log(most) + 1e-6
    log_rate = float(scipy.optimize.brentq(excess, low, high, xtol=1e-14, rtol=1e-14))
    shares = share_for(np.exp(log_rate) * demand, reach)
    return np.asarray(shares / shares.sum())


class _Program:
    """The problem in cvxpy, DPP in c, S and the scales.

    Shares are in units of those without constraints, and ln(1 + x) is written ln(x0) + ln((1 + x)/x0), x0 the value of
    1 + x there, so that a device of 60 dB looks to the solver like one of 0 dB.
    """

    def __init__(self, devices: int, constraints: tuple[Constraint, ...]) -> None:
        cp = cvxpy()
        self._shares = cp.Variable(devices, nonneg=True)  # over the unconstrained ones
        self._rates = cp.Variable(devices, nonneg=True)  # over the same
        self._common = cp.Variable(nonneg=True)
        self._reach = cp.Parameter(devices, nonneg=True)  # x / x0
        self._inverse = cp.Parameter(devices, nonneg=True)  # 1 / x0
        self._offset = cp.Parameter(devices, nonneg=True)  # ln x0
        self._demand = cp.Parameter(devices, nonneg=True)
        self._largest = cp.Parameter(devices, nonneg=True)
        self._share_unit = cp.Parameter(devices, nonneg=True)
        self._rate_unit = cp.Parameter(devices, nonneg=True)
        scaled = cp.multiply(self._inverse, self._shares) + self._reach
        nats = cp.multiply(self._offset, self._shares) - cp.rel_entr(self._shares, scaled)
        shares = cp.multiply(self._share_unit, self._shares)
        extra = user_constraints(constraints, shares, cp.multiply(self._rate_unit, self._rates))
        limits = [
            self._rates <= nats,
            self._rates >= self._demand * self._common,
            cp.sum(shares) <= 1,
            self._shares <= self._largest,
            *extra,
        ]
        self._problem: Any = cp.Problem(cp.Maximize(self._common), limits)

    def solve(self, reach: Real, demand: Real, bandwidth: float) -> Real:
        heard = demand > 0
        unit = np.zeros(len(reach))
        unit[heard] = _closed_form(reach[heard], demand[heard])
        snr = np.where(heard, reach / np.where(heard, unit, 1.0), 0.0)
        self._reach.value = snr / (1.0 + snr)
        self._inverse.value = 1.0 / (1.0 + snr)
        self._offset.value = np.log1p(snr)
        self._demand.value = np.log1p(snr)
        self._share_unit.value = unit
        self._rate_unit.value = unit * bandwidth / np.log(2.0)
        whole = np.where(heard, 1.0 / np.where(heard, unit, 1.0), 0.0)  # the band, in these units
        if not self._solved_within(np.minimum(whole, NEAR * heard)):
            self._largest.value = whole
            solve_or_raise(self._problem)
        return np.asarray(np.where(heard, np.maximum(self._shares.value, 0.0) * unit, 0.0))

    def _solved_within(self, largest: Real) -> bool:
        """Whether there is an optimum with shares below these bounds, which keep the program well scaled."""
        self._largest.value = largest
        try:
            solve_or_raise(self._problem)
        except AllocationError:
            return False
        return not bool((self._shares.value > 0.99 * NEAR).any())
