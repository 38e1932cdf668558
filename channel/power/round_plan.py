"""A total budget of channel uses and energy, spread over the rounds of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from channel.power.constrained_plan import ConstrainedPlan, PlanConstraint
from channel.power.plan_problem import PlanProblem
from channel.power.water_filling import Real, Whole


@dataclass(frozen=True)
class Schedule:
    """What every round may take.

    Attributes
    ----------
    uses : ndarray of int, shape (T,)
        Real channel uses m_t.
    energies : ndarray, shape (T,)
        Largest energy E_t of a device.
    predicted_error : float
        Weighted squared error of the mean updates, summed over the rounds; infinite where a round with something to
        send has no energy.
    """

    uses: Whole
    energies: Real
    predicted_error: float


class RoundPlan:
    r"""Spread channel uses and energy over T rounds so that the weighted error of the mean updates is least.

    .. math::
        \min_{m, E} \sum_{t=1}^T \rho^{T-t}\Big[\Big(\frac{d}{m_t} - 1\Big)\|\bar x_t\|^2
        + \frac{d\,\sigma^2 c_t}{E_t}\Big] \quad\text{s.t.}\quad \sum_t m_t \le M,\; \sum_t E_t \le E,

    the error of random linear codes with the unbiased decoder (equation R1 with the noise at equal energy, R6) under
    channel inversion, where :math:`c_t = \max_i w_i^2\|x_{ti}\|^2/|h_{ti}|^2` is the largest energy that a device
    needs at unit receive scale. Uses and energy separate:
    :math:`m_t = \mathrm{clip}(k\sqrt{\rho^{T-t}}\,\|\bar x_t\|,\, 1,\, d)`, then the best whole numbers, and
    :math:`E_t \propto \sqrt{\rho^{T-t} c_t}`. Only ratios of norms, and of energies, matter. Constraints of the user's
    own make it a convex program; where they tie energy to uses, levels matter too.

    Parameters
    ----------
    rounds : int
        T.
    size : int
        Entries d of an update.
    uses : int
        Total M of real channel uses; beyond T d there is nothing to spend them on.
    energy : float
        Total E of the strongest device of each round: J, or units of noise energy.
    decay : float, default 1
        :math:`\rho`, 0 < rho <= 1: how much an error counts for a round later.
    noise_power : float, default 1
        :math:`\sigma^2` of a real use, in units of energy: in joules it is N_0/(2B).
    min_uses, max_uses : int or array of shape (T,), optional
        Limits on m_t: 1 and d unless given. A deadline of a round is a `max_uses`.
    peak_energy : float or array of shape (T,), optional
        Limit on E_t. Budget beyond the sum of the peaks stays unspent.
    constraints : iterable of callables, optional
        Each is called with cvxpy expressions ``(uses, energies)`` of shape (T,) and returns a convex cvxpy constraint
        or a list of them. They hold for whole numbers of uses, to the solver's 1e-8 of their own size.

    Raises
    ------
    ValueError
        Rounds, size or energy not positive, a budget below the sum of the least uses, rho outside (0, 1], limits that
        cross or have another shape.

    Examples
    --------
    A limit on the power of a use, b^2 <= 2, ties energy to uses:

    >>> plan = RoundPlan(4, size=100, uses=40, energy=60.0, constraints=[lambda m, e: e <= 2 * m])
    >>> schedule = plan.schedule([8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    >>> bool((schedule.energies <= 2 * schedule.uses + 1e-6).all())
    True
    """

    def __init__(
        self,
        rounds: int,
        size: int,
        uses: int,
        energy: float,
        decay: float = 1.0,
        noise_power: float = 1.0,
        min_uses: int | ArrayLike = 1,
        max_uses: int | ArrayLike | None = None,
        peak_energy: float | ArrayLike | None = None,
        constraints: Iterable[PlanConstraint] = (),
    ) -> None:
        self.rounds, self.size, self.uses = _count("rounds", rounds), _count("size", size), _count("uses", uses)
        self.energy = _positive("energy", energy)
        self.noise_power = _positive("noise_power", noise_power)
        if not 0 < decay <= 1:
            raise ValueError(f"decay is {decay}; accepted: 0 < decay <= 1")
        self.decay = float(decay)
        self.min_uses = self._use_limit("min_uses", min_uses)
        self.max_uses = self._use_limit("max_uses", size if max_uses is None else max_uses)
        self.peak_energy = self._series("peak_energy", np.inf if peak_energy is None else peak_energy, highest=np.inf)
        if (self.min_uses > self.max_uses).any():
            raise ValueError(f"min_uses is {min_uses!r}; accepted: at most max_uses, {self.max_uses}, in each round")
        if (least := int(self.min_uses.sum())) > self.uses:
            raise ValueError(f"uses is {uses}; accepted: at least {least}, the least of {rounds} rounds together")
        self.constraints = tuple(constraints)
        for constraint in self.constraints:
            if not callable(constraint):
                raise TypeError(
                    f"constraints holds a {type(constraint).__name__}; accepted: callables (uses, energies) -> cvxpy "
                    "constraint"
                )

    def schedule(
        self,
        mean_norms: ArrayLike,
        largest_energies: ArrayLike,
        spent_uses: ArrayLike = (),
        spent_energies: ArrayLike = (),
    ) -> Schedule:
        """The plan of least predicted error, from the first round on or from where a run has got to.

        Parameters
        ----------
        mean_norms : array, shape (T,)
            ||xbar_t||, known or predicted.
        largest_energies : array, shape (T,)
            c_t, known or predicted.
        spent_uses, spent_energies : array, shape (t,), optional
            What the first t rounds took. They are kept; only what is left is planned.

        Raises
        ------
        ValueError
            Arrays of another shape, values negative or not finite, or too few uses left for the least of each round.
        PowerControlError
            The constraints cannot be met, or the solver failed; the message has its status.
        """
        norms, largest = self._series("mean_norms", mean_norms), self._series("largest_energies", largest_energies)
        uses, energies = self._solve(self._left(norms, largest, self._ages, *self._spent(spent_uses, spent_energies)))
        return Schedule(uses, energies, self.predicted_error(uses, energies, norms, largest))

    def constant(self, mean_norms: ArrayLike = 1.0, largest_energies: ArrayLike = 1.0) -> Schedule:
        """The same uses and energy in every round, as far as limits and whole numbers let them be.

        This is the plan of equal norms and no decay. What a division leaves over goes to the first rounds, one use
        each.

        Parameters
        ----------
        mean_norms, largest_energies : array, shape (T,), or number, optional
            Only for the predicted error; all 1 unless given.

        Raises
        ------
        ValueError, PowerControlError
            As :meth:`schedule`.
        """
        norms, largest = self._series("mean_norms", mean_norms), self._series("largest_energies", largest_energies)
        ones = np.ones(self.rounds)
        uses, energies = self._solve(self._left(ones, ones, ones, np.zeros(0, np.int64), np.zeros(0)))
        return Schedule(uses, energies, self.predicted_error(uses, energies, norms, largest))

    def predicted_error(
        self, uses: ArrayLike, energies: ArrayLike, mean_norms: ArrayLike, largest_energies: ArrayLike
    ) -> float:
        """The objective: weighted compression and noise error of any uses and energies, each of shape (T,).

        A round of no uses is received as nothing, with error ||xbar_t||^2.
        """
        m, e = self._series("uses", uses), self._series("energies", energies)
        norms, largest = self._series("mean_norms", mean_norms), self._series("largest_energies", largest_energies)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            compression = np.where(m > 0, self.size / m - 1, 1.0) * norms**2
            noise = np.where((largest > 0) & (m > 0), self.size * self.noise_power * largest / e, 0.0)
        counts = self._ages > 0
        return float(self._ages[counts] @ (compression + noise)[counts])

    @property
    def _ages(self) -> Real:
        """rho^(T-t), shape (T,)."""
        return np.power(self.decay, np.arange(self.rounds - 1, -1, -1, dtype=np.float64))

    def _left(self, norms: Real, largest: Real, ages: Real, spent_uses: Whole, spent_energies: Real) -> PlanProblem:
        done = len(spent_uses)
        problem = PlanProblem(
            compression=(self.size * ages * norms**2)[done:],
            noise=(self.size * self.noise_power * ages * largest)[done:],
            lower=self.min_uses[done:],
            upper=self.max_uses[done:],
            peaks=self.peak_energy[done:],
            uses=self.uses - int(spent_uses.sum()),
            energy=max(0.0, self.energy - float(spent_energies.sum())),
            spent_uses=spent_uses,
            spent_energies=spent_energies,
        )
        if problem.uses < (least := int(problem.lower.sum())):
            raise ValueError(
                f"spent_uses leaves {problem.uses} uses; the other {self.rounds - done} rounds need {least}"
            )
        return problem

    def _solve(self, problem: PlanProblem) -> tuple[Whole, Real]:
        if self.constraints:
            uses, energies = ConstrainedPlan(problem, self.constraints).solve()
        else:
            uses, energies = problem.whole_uses(), problem.energies()
        return np.concatenate([problem.spent_uses, uses]), np.concatenate([problem.spent_energies, energies])

    def _spent(self, uses: ArrayLike, energies: ArrayLike) -> tuple[Whole, Real]:
        m, e = np.asarray(uses, dtype=np.float64), np.asarray(energies, dtype=np.float64)
        if m.ndim != 1 or m.shape != e.shape or len(m) >= self.rounds:
            raise ValueError(
                f"spent_uses and spent_energies have shapes {m.shape} and {e.shape}; accepted: the same (t,), "
                f"t < {self.rounds}"
            )
        if not (np.isfinite(e) & (e >= 0) & (m >= 0) & (m % 1 == 0)).all():
            raise ValueError(f"spent_uses is {m} and spent_energies {e}; accepted: whole uses >= 0, energies >= 0")
        return m.astype(np.int64), e

    def _series(self, name: str, values: ArrayLike, highest: float = 1e150) -> Real:
        """One value a round, shape (T,); squares must stay finite."""
        array: Real = np.asarray(values, dtype=np.float64)
        if array.shape not in ((), (self.rounds,)):
            raise ValueError(
                f"{name} has shape {array.shape}; accepted: ({self.rounds},), or one number for all rounds"
            )
        if not ((array >= 0) & (array <= highest)).all():
            raise ValueError(f"{name} is {array}; accepted: numbers from 0 to {highest:g}")
        return np.broadcast_to(array, self.rounds).copy()

    def _use_limit(self, name: str, value: ArrayLike) -> Whole:
        array = self._series(name, value)
        if not ((array >= 1) & (array <= self.size) & (array % 1 == 0)).all():
            raise ValueError(f"{name} is {array}; accepted: whole numbers from 1 to {self.size}, the size")
        return array.astype(np.int64)


def _count(name: str, value: int) -> int:
    if not np.isfinite(value) or value != int(value) or value < 1:
        raise ValueError(f"{name} is {value}; accepted: an integer >= 1")
    return int(value)


def _positive(name: str, value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; accepted: a finite number > 0")
    return float(value)
