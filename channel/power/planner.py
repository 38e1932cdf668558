"""Planning while a run goes on: what is left is planned anew every few rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from channel.power.norm_forecast import NormForecast, Observation, PowerLaw
from channel.power.plan_problem import EXHAUSTED
from channel.power.power_control import PowerControlError
from channel.power.round_plan import RoundPlan
from channel.power.water_filling import Real, Whole


class Planner:
    """Grants each round its channel uses and energy out of a run's budget.

    Before a round the server asks :meth:`grant`, after it it tells :meth:`observe` what it heard. Every `every`
    rounds, and in the last, the rest of the budget is planned for the norms that the forecast expects. Budgets are
    never exceeded; what is left goes to the last round, as far as its limits let it. Given norms that come true, the
    grants are those of :meth:`RoundPlan.schedule`.

    Parameters
    ----------
    plan : RoundPlan
        Budget, limits and constraints.
    forecast : NormForecast, optional
        A fitted power law unless given.
    every : int, default 10
        Rounds between plans.

    Attributes
    ----------
    warnings : list of str
        Plans that the solver failed to renew, the last good one being kept.

    Raises
    ------
    ValueError
        `every` below 1.
    """

    def __init__(self, plan: RoundPlan, forecast: NormForecast | None = None, every: int = 10) -> None:
        if every != int(every) or every < 1:
            raise ValueError(f"every is {every}; accepted: an integer >= 1")
        self.plan, self.every = plan, int(every)
        self.forecast = PowerLaw() if forecast is None else forecast
        self.warnings: list[str] = []
        self._uses: list[int] = []
        self._energies: list[float] = []
        self._observed: dict[int, Observation] = {}
        self._planned: tuple[Whole, Real] | None = None
        self._planned_at = 0

    def grant(self, round: int) -> tuple[int, float]:
        """Channel uses m_t and largest energy E_t of a round, counted from 0.

        Asked again it says the same. A round passed over has taken nothing.

        Raises
        ------
        ValueError
            A round outside 0 to T - 1.
        PowerControlError
            The very first plan fails: constraints that cannot be met.
        """
        if not 0 <= round < self.plan.rounds:
            raise ValueError(f"round is {round}; accepted: 0 to {self.plan.rounds - 1}")
        if round >= len(self._uses):
            passed = round - len(self._uses)
            self._uses += [0] * passed
            self._energies += [0.0] * passed
            uses, energies = self._plan_for(round)
            self._uses.append(int(uses[round]))
            self._energies.append(min(float(energies[round]), self.remaining[1] * EXHAUSTED))
        return self._uses[round], self._energies[round]

    def observe(self, round: int, mean_norm: float, largest_energy: float, energy: float | None = None) -> None:
        """What a round was like.

        Parameters
        ----------
        round : int
            One that has been granted.
        mean_norm : float
            Estimate of ||xbar_t||; 0 where nothing was heard above the noise, which says nothing of later rounds.
        largest_energy : float
            c_t; see :class:`~channel.power.round_plan.RoundPlan`.
        energy : float, optional
            What the strongest device did spend. What it left of the grant goes back into the budget.

        Raises
        ------
        ValueError
            A round not granted yet, values negative or not finite, or more energy than granted.
        """
        if not 0 <= round < len(self._uses):
            raise ValueError(f"round is {round}; accepted: one that has been granted, below {len(self._uses)}")
        for name, value in (("mean_norm", mean_norm), ("largest_energy", largest_energy), ("energy", energy)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of round {round} is {value}; accepted: a finite number >= 0")
        if energy is not None:
            if energy > self._energies[round] * (1 + 1e-9):
                raise ValueError(f"energy of round {round} is {energy}; accepted: at most {self._energies[round]}")
            self._energies[round] = min(float(energy), self._energies[round])
        self._observed[round] = Observation(round, float(mean_norm), float(largest_energy))

    @property
    def remaining(self) -> tuple[int, float]:
        """Channel uses and energy not granted yet."""
        return self.plan.uses - sum(self._uses), max(0.0, self.plan.energy - math.fsum(self._energies))

    @property
    def planned(self) -> tuple[Whole, Real]:
        """Uses and energies of all rounds, shape (T,) each, as spent so far and planned last.

        Raises
        ------
        ValueError
            Nothing has been granted yet.
        """
        if self._planned is None:
            raise ValueError("planned is asked for before the first grant; accepted: after it")
        uses, energies = self._planned[0].copy(), self._planned[1].copy()
        uses[: len(self._uses)], energies[: len(self._energies)] = self._uses, self._energies
        return uses, energies

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, as JSON values; plan, forecast and `every` are the caller's to keep."""
        planned = None if self._planned is None else [self._planned[0].tolist(), self._planned[1].tolist()]
        return {
            "uses": list(self._uses),
            "energies": list(self._energies),
            "observed": [[o.round, o.mean_norm, o.largest_energy] for o in self._observed.values()],
            "planned": planned,
            "planned_at": self._planned_at,
            "warnings": list(self.warnings),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state`: the grants to come are those of the planner that it was taken from.

        Raises
        ------
        ValueError
            A state of a longer run, or one that spent more than this budget.
        """
        uses, energies, planned = state["uses"], state["energies"], state["planned"]
        rounds = [len(uses), len(energies)] + ([] if planned is None else [len(p) for p in planned])
        if max(rounds) > self.plan.rounds or rounds[0] != rounds[1] or rounds[2:] not in ([], [self.plan.rounds] * 2):
            raise ValueError(f"state holds {rounds} rounds; accepted: those of a run of {self.plan.rounds}")
        if sum(uses) > self.plan.uses or math.fsum(energies) > self.plan.energy:
            raise ValueError(
                f"state has spent {sum(uses)} uses and energy {math.fsum(energies)}; accepted: at most "
                f"{self.plan.uses} and {self.plan.energy}"
            )
        self._uses, self._energies = [int(m) for m in uses], [float(e) for e in energies]
        self._observed = {int(o[0]): Observation(int(o[0]), float(o[1]), float(o[2])) for o in state["observed"]}
        self._planned = (
            None if planned is None else (np.asarray(planned[0], np.int64), np.asarray(planned[1], np.float64))
        )
        self._planned_at = int(state["planned_at"])
        self.warnings = list(state["warnings"])

    def _plan_for(self, round: int) -> tuple[Whole, Real]:
        due = round - self._planned_at >= self.every or round == self.plan.rounds - 1
        if self._planned is not None and not due:
            return self._planned
        norms, largest = self.forecast.predict(self.plan.rounds, [self._observed[t] for t in sorted(self._observed)])
        try:
            schedule = self.plan.schedule(norms, largest, self._uses, self._energies)
        except PowerControlError as error:
            if self._planned is None:
                raise
            self.warnings.append(f"round {round}: {error}; the plan of round {self._planned_at} is kept")
            return self._planned
        self._planned, self._planned_at = (schedule.uses, schedule.energies), round
        return self._planned
