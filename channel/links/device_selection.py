"""Which devices are worth their energy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.links.allocation import AllocationError, Allocator, Constraint, cvxpy
from channel.power.user_constraints import user_constraints

Real = NDArray[np.float64]
MAXIMUM_PROGRAMS = 50


class BenefitPerJoule(Allocator):
    r"""The k devices that together give most benefit per joule.

    .. math:: \max_{x \in \{0,1\}^K} \frac{\sum_i x_i u_i}{\sum_i x_i E_i} \quad\text{with}\quad \sum_i x_i = k,

    :math:`u_i` what an update is worth (:math:`n_i`, :math:`w_i^2 \|x_i\|^2`, ...), :math:`E_i` what it costs to
    compute and to send. By Dinkelbach's method (Management Science 13(7), 1967): at the ratio q reached so far take the
    k largest :math:`u_i - q E_i`, until q does not rise. That is not the k largest :math:`u_i/E_i`: beside cheap
    devices a useful one that costs more can be worth it. With constraints each step is a mixed-integer program for
    HiGHS.

    Parameters
    ----------
    solver, constraints
        See :class:`~channel.links.allocation.Allocator`. A constraint is called with ``(chosen,)``, the x as a boolean
        variable of shape (K,), and must be linear.

    Examples
    --------
    >>> BenefitPerJoule().select([1.0, 1.0, 5.0], [1.0, 2.0, 3.0], count=2).tolist()
    [0, 2]
    >>> not_both = lambda chosen: chosen[0] + chosen[2] <= 1
    >>> BenefitPerJoule(constraints=[not_both]).select([1.0, 1.0, 5.0], [1.0, 2.0, 3.0], count=2).tolist()
    [1, 2]
    """

    def select(self, benefits: ArrayLike, energies: ArrayLike, count: int) -> NDArray[np.int64]:
        """Positions of the devices that are to send.

        Parameters
        ----------
        benefits : array, shape (K,)
            u_i >= 0.
        energies : array, shape (K,)
            E_i > 0; infinite for a device in outage, which is never chosen.
        count : int
            k >= 1, at most as many as can send.

        Returns
        -------
        ndarray of int, shape (k,)
            Ascending.

        Raises
        ------
        AllocationError
            Fewer than `count` devices can send, or constraints that cannot be met.
        """
        worth, cost = np.asarray(benefits, dtype=np.float64), np.asarray(energies, dtype=np.float64)
        if worth.ndim != 1 or not (np.isfinite(worth).all() and (worth >= 0).all()):
            raise ValueError(f"benefits is {benefits!r}; accepted: finite numbers >= 0 of shape (K,)")
        if cost.shape != worth.shape or not (cost > 0).all():
            raise ValueError(f"energies is {energies!r}; accepted: numbers > 0 of shape {worth.shape}")
        if count < 1 or int(count) != count:
            raise ValueError(f"count is {count!r}; accepted: an integer >= 1")
        able = np.isfinite(cost)
        if able.sum() < count:
            raise AllocationError(f"count is {count}, and {able.sum()} of {len(cost)} devices can send; ask for fewer")
        unit = float(np.median(cost[able]))
        cost = np.where(able, cost / unit, 0.0)
        program = None if self.by_closed_form else self._program(len(cost), _Program)
        return _dinkelbach(worth, cost, able, int(count), program)


def _dinkelbach(
    worth: Real, cost: Real, able: NDArray[np.bool_], count: int, program: _Program | None
) -> NDArray[np.int64]:
    ratio, best = 0.0, np.zeros(0, dtype=np.int64)
    for _ in range(MAXIMUM_PROGRAMS):
        gain = worth - ratio * cost
        chosen = _largest(gain, able, count) if program is None else program.solve(gain, able, count)
        reached = float(worth[chosen].sum() / cost[chosen].sum())
        if best.size and reached <= ratio * (1.0 + 1e-12):
            return best
        ratio, best = reached, chosen
    return best


def _largest(gain: Real, able: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    order = np.argsort(-np.where(able, gain, -np.inf), kind="stable")
    return np.sort(order[:count]).astype(np.int64)


class _Program:
    """max gain . x over x in {0, 1}^K with sum k and the user's constraints."""

    def __init__(self, devices: int, constraints: tuple[Constraint, ...]) -> None:
        cp = cvxpy()
        self._chosen = cp.Variable(devices, boolean=True)
        self._gain = cp.Parameter(devices)
        self._able = cp.Parameter(devices, nonneg=True)
        self._count = cp.Parameter(nonneg=True)
        extra = user_constraints(constraints, self._chosen)
        limits = [cp.sum(self._chosen) == self._count, self._chosen <= self._able, *extra]
        self._problem: Any = cp.Problem(cp.Maximize(self._gain @ self._chosen), limits)

    def solve(self, gain: Real, able: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        cp = cvxpy()
        self._gain.value = gain / max(float(np.abs(gain).max()), 1e-300)
        self._able.value = able.astype(np.float64)
        self._count.value = count
        try:
            self._problem.solve(solver=cp.SCIPY)  # scipy's milp: HiGHS
        except cp.error.SolverError as error:
            raise AllocationError(f"HiGHS failed: {error}; a constraint on the choice must be linear") from error
        if self._problem.status != "optimal":
            raise AllocationError(
                f"cvxpy ended with status {self._problem.status!r}: no {count} devices meet the constraints; relax one"
            )
        return np.flatnonzero(self._chosen.value > 0.5).astype(np.int64)
