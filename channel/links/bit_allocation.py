"""How many bits each device's update is worth, out of a budget for all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import ArrayLike, NDArray

from channel.links.allocation import AllocationError, Allocator, Constraint, cvxpy, solve_or_raise
from channel.power.user_constraints import user_constraints

Real = NDArray[np.float64]


class BitAllocation(Allocator):
    r"""Least total error under a budget of bits: reverse water-filling.

    .. math:: \min_{b} \sum_i D_i 4^{-b_i} \quad\text{with}\quad \sum_i b_i \le B,\qquad 0 \le b_i \le b_{max,i},

    b_i in bits per coordinate and D_i the error of an update that is not sent, :math:`w_i^2 \|x_i\|^2`: a bit more per
    coordinate takes 6 dB off the error of any good codec, so that the constant in front of :math:`4^{-b}` does not
    matter where it is the same for all. Closed form: every device that gets bits, and is not at its most, ends at the
    same error theta (the water level),

    .. math:: b_i = \min\left(b_{max,i}, \max\left(0, \tfrac12 \log_2(D_i/\theta)\right)\right),

    theta by bisection on the budget. T. M. Cover, J. A. Thomas, "Elements of Information Theory", section 10.3.3.

    Parameters
    ----------
    solver, constraints
        See :class:`~channel.links.allocation.Allocator`. A constraint is called with ``(bits,)``, the b_i as a variable
        of shape (K,).
    """

    def allocate(self, distortions: ArrayLike, budget: float, largest: ArrayLike = math.inf) -> Real:
        """Bits per coordinate of each device.

        Parameters
        ----------
        distortions : array, shape (K,)
            D_i >= 0; a device of 0 gets nothing.
        budget : float
            B >= 0, bits per coordinate of all devices together.
        largest : array, shape (K,), or a scalar
            b_max >= 0, what a device's link carries; 0 for a device in outage.

        Returns
        -------
        ndarray, shape (K,)
            Their sum is the budget, or less where `largest` says so.

        Raises
        ------
        AllocationError
            Nobody can send (all D_i or all b_max are 0), or constraints that cannot be met.
        """
        error = np.asarray(distortions, dtype=np.float64)
        if error.ndim != 1 or not (np.isfinite(error).all() and (error >= 0).all()):
            raise ValueError(f"distortions is {distortions!r}; accepted: finite numbers >= 0 of shape (K,)")
        if not 0.0 <= budget < math.inf:
            raise ValueError(f"budget is {budget!r}; accepted: a finite number of bits >= 0")
        try:
            most = np.broadcast_to(np.asarray(largest, dtype=np.float64), error.shape)
        except ValueError as mismatch:
            raise ValueError(f"largest is {largest!r}; accepted: a scalar or shape {error.shape}") from mismatch
        if not (most >= 0).all():
            raise ValueError(f"largest is {largest!r}; accepted: numbers >= 0")
        most = np.where(error > 0, np.minimum(most, budget), 0.0)
        if not (most > 0).any() and budget > 0:
            raise AllocationError("nobody can send: every device has distortion 0 or no bits (largest is 0)")
        if self.by_closed_form:
            return _water_filling(error, budget, most)
        return self._program(len(error), _Program).solve(error, budget, most)


def _water_filling(error: Real, budget: float, most: Real) -> Real:
    if most.sum() <= budget:
        return most
    half_log = 0.5 * np.log2(np.where(error > 0, error, 1.0))

    def bits(level: float) -> Real:
        return np.asarray(np.clip(half_log - level, 0.0, most))

    top = float(half_log[error > 0].max())
    bottom = float((half_log - most)[error > 0].min()) - 1.0  # the least level, clear of rounding
    level = scipy.optimize.brentq(lambda x: float(bits(x).sum()) - budget, bottom, top, xtol=1e-14, rtol=1e-14)
    return bits(float(level))


class _Program:
    """The problem in cvxpy, DPP in the logarithms of the distortions: sum exp(ln D_i - b_i ln 4), of the largest."""

    def __init__(self, devices: int, constraints: tuple[Constraint, ...]) -> None:
        cp = cvxpy()
        self._bits = cp.Variable(devices, nonneg=True)
        self._counted = cp.Parameter(devices, nonneg=True)
        self._log_error = cp.Parameter(devices)
        self._most = cp.Parameter(devices, nonneg=True)
        self._budget = cp.Parameter(nonneg=True)
        error = cp.multiply(self._counted, cp.exp(self._log_error - math.log(4.0) * self._bits))
        limits = [cp.sum(self._bits) <= self._budget, self._bits <= self._most]
        extra = user_constraints(constraints, self._bits)
        self._problem: Any = cp.Problem(cp.Minimize(cp.sum(error)), [*limits, *extra])

    def solve(self, error: Real, budget: float, most: Real) -> Real:
        counted = (error > 0) & (most > 0)
        log_error = np.log(np.where(counted, error, 1.0))
        # In units of the water level, so that what is minimised is of order one per device however many bits there are.
        level = 2.0 * float(np.max(np.where(counted, 0.5 * log_error / math.log(2.0), -np.inf), initial=0.0))
        if counted.any():
            reference = _water_filling(error, budget, most)[counted]
            level = float(np.max(log_error[counted] - math.log(4.0) * reference))
        self._counted.value = counted.astype(np.float64)
        self._log_error.value = np.where(counted, log_error - level, 0.0)
        self._most.value = most
        self._budget.value = budget
        solve_or_raise(self._problem)
        return np.asarray(np.where(counted, np.clip(self._bits.value, 0.0, most), 0.0))
