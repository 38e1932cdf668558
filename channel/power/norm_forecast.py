"""What the norms of the rounds to come will be: a power law fitted to past ones, or those of a pilot run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import scipy  # its parts load when first used

from channel.power.water_filling import Real, Whole

STEEPEST = 2.0
SCATTER = 0.5
"""Standard deviation of a norm's logarithm about the law: rounds, batches and decoding noise."""


@dataclass(frozen=True)
class Observation:
    """What the server knows of one round after it.

    Attributes
    ----------
    round : int
        From 0.
    mean_norm : float
        Estimate of ||xbar_t||, the norm of the mean update.
    largest_energy : float
        c_t, the largest energy that a device needed at unit receive scale.
    """

    round: int
    mean_norm: float
    largest_energy: float


class NormForecast(Protocol):
    """Norms of all rounds, from those observed so far. Asked whenever a run is planned anew."""

    def predict(self, rounds: int, observed: Sequence[Observation]) -> tuple[Real, Real]:
        """||xbar_t|| and c_t, each of shape (T,). Only ratios within each matter to a plan."""
        ...


@dataclass(frozen=True)
class PowerLaw:
    r""":math:`\|\bar x_t\| \propto (t + t_0)^{-p}`, and :math:`\sqrt{c_t}` with a p of its own.

    Each p is the robust (soft L1) least-squares fit of logarithms to what has been observed, drawn to `exponent` as
    by a normal prior: ten early rounds, which span little of log t, hardly move it, fifty do. Rounds of norm 0 say
    nothing. p stays within 0 and 2: plans that hold back for later did harm in every trial. Persistence of the last
    value is ``PowerLaw(exponent=0, energy_exponent=0, fit=False)``, since a plan only looks at ratios; it plans a
    constant schedule.

    Parameters
    ----------
    exponent : float, default 0.5
        p of the norms before anything is observed, and the mean of the prior.
    energy_exponent : float, default 0.25
        The same of the root of c_t, which falls more slowly: the strongest device's norm does not vanish.
    offset : float, default 5
        t_0 > 0; t counts from 1.
    fit : bool, default True
        False keeps p whatever is observed.
    prior_deviation : float, default 0.25
        Standard deviation of the prior of p.

    Raises
    ------
    ValueError
        An exponent outside 0 to 2, an offset or a deviation that is not positive.
    """

    exponent: float = 0.5
    energy_exponent: float = 0.25
    offset: float = 5.0
    fit: bool = True
    prior_deviation: float = 0.25

    def __post_init__(self) -> None:
        for name, exponent in (("exponent", self.exponent), ("energy_exponent", self.energy_exponent)):
            if not 0 <= exponent <= STEEPEST:
                raise ValueError(f"{name} is {exponent}; accepted: 0 to {STEEPEST}")
        for name, value in (("offset", self.offset), ("prior_deviation", self.prior_deviation)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}; accepted: a finite number > 0")

    def predict(self, rounds: int, observed: Sequence[Observation]) -> tuple[Real, Real]:
        """See :class:`NormForecast`."""
        times = np.array([o.round for o in observed], dtype=np.int64)
        norms = self._law(rounds, times, np.array([o.mean_norm for o in observed]), self.exponent)
        amplitudes = self._law(rounds, times, np.sqrt([o.largest_energy for o in observed]), self.energy_exponent)
        return norms, amplitudes**2

    def _law(self, rounds: int, times: Whole, levels: Real, exponent: float) -> Real:
        age = np.log(np.arange(1, rounds + 1) + self.offset)
        told = levels > 0
        level = 0.0
        if told.any() and self.fit:
            level, exponent = self._fitted(age[times[told]], np.log(levels[told]), exponent)
        law: Real = np.exp(level - exponent * age)
        return law

    def _fitted(self, x: Real, y: Real, prior: float) -> tuple[float, float]:
        def misfit(law: Real) -> Real:
            scatter = (y - law[0] + law[1] * x) / SCATTER
            return np.append(scatter, (law[1] - prior) / self.prior_deviation)

        start = [float(np.median(y + prior * x)), prior]
        bounds = ([-np.inf, -1e-9], [np.inf, STEEPEST + 1e-9])  # a start on its bound is not accepted
        found = scipy.optimize.least_squares(
            misfit, start, loss="soft_l1", bounds=bounds, xtol=1e-10, ftol=1e-10, gtol=1e-10
        )
        return float(found.x[0]), float(np.clip(found.x[1], 0.0, STEEPEST))


@dataclass(frozen=True)
class Pilot:
    """The norms of another run of the same kind, taken as they are: what this run observes changes nothing.

    Parameters
    ----------
    mean_norms : sequence of float, length T
        ||xbar_t|| of the pilot run.
    largest_energies : sequence of float, length T
        c_t of the pilot run.

    Raises
    ------
    ValueError
        Lengths that differ, or values negative or not finite; at :meth:`predict`, a run of another length.
    """

    mean_norms: Sequence[float]
    largest_energies: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.mean_norms) != len(self.largest_energies):
            raise ValueError(
                f"pilot has {len(self.mean_norms)} mean_norms and {len(self.largest_energies)} largest_energies; "
                "accepted: one of each a round"
            )
        for name in ("mean_norms", "largest_energies"):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            if not (np.isfinite(values) & (values >= 0)).all():
                raise ValueError(f"{name} of the pilot is {values}; accepted: finite numbers >= 0")

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read ``{"mean_norms": [...], "largest_energies": [...]}``.

        Raises
        ------
        ValueError
            Not JSON, or a key missing.
        """
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not {"mean_norms", "largest_energies"} <= found.keys():
            raise ValueError(f"{path} holds no pilot run; accepted: an object of mean_norms and largest_energies")
        return cls(found["mean_norms"], found["largest_energies"])

    def predict(self, rounds: int, observed: Sequence[Observation]) -> tuple[Real, Real]:
        """See :class:`NormForecast`."""
        if rounds != len(self.mean_norms):
            raise ValueError(f"the pilot has {len(self.mean_norms)} rounds; accepted: {rounds}, as the plan")
        return np.asarray(self.mean_norms, dtype=np.float64), np.asarray(self.largest_energies, dtype=np.float64)
