"""Curves of a figure over a cost: one for each seed, their mean, and what is read from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmac.axes import AXES, best_direction
from fedmac.studies.compare.statistics import Estimate, estimate, half_widths

MOST_POINTS = 200
"""Points of a curve: about one for each two pixels of a figure."""

Rounds = Sequence[Mapping[str, float]]
"""One seed's rounds in their order, the numbers of each only; nan is what the record writes as null."""


@dataclass(frozen=True)
class Points:
    """One seed's curve: x, not falling, and y at each recorded round; shape (points,) each."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Mean over seeds on a common grid of x, with half its 95 % band.

    Attributes
    ----------
    x, mean : ndarray, shape (points,)
    half_width : ndarray, shape (points,), or None
        None for one seed.
    seeds : int
        How many the mean is over.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    half_width: NDArray[np.float64] | None
    seeds: int


@dataclass(frozen=True)
class Target:
    """What it cost to reach a target.

    Attributes
    ----------
    cost : Estimate or None
        On the x axis, over the seeds that reached it; None if none did, or no cost on that axis is recorded.
    reached, seeds : int
        How many reached it, and of how many.
    best : float
        The best value that any seed had; nan if there is none.
    """

    cost: Estimate | None
    reached: int
    seeds: int
    best: float


def cost(rounds: Rounds, axis: str) -> NDArray[np.float64] | None:
    """What each round has cost on an axis since the start, shape (rounds,); None if no round says.

    Before training nothing is spent: round 0 costs nothing. A round that does not say (no device sent) adds nothing.
    """
    key = AXES[axis][0]
    if not any(math.isfinite(row.get(key, math.nan)) for row in rounds if row["round"] > 0 or axis == "round"):
        return None
    spent, costs = 0.0, []
    for row in rounds:
        value = row.get(key, math.nan)
        spent = value if math.isfinite(value) and row["round"] > 0 else spent
        costs.append(spent)
    return np.array(costs, dtype=np.float64)


def points(rounds: Rounds, axis: str, y: str) -> Points | None:
    """One seed's curve over an axis; None if there is none, or if it stays at one x.

    Of rounds that cost nothing (no device sent) the last is kept: that is where the cost led.
    """
    x = cost(rounds, axis)
    if x is None:
        return None
    values = np.array([row.get(y, math.nan) for row in rounds], dtype=np.float64)
    known = np.isfinite(values)
    x, values = x[known], values[known]
    last = np.append(np.diff(x) > 0, True)[: len(x)]
    x, values = x[last], values[last]
    return Points(x, values) if len(x) > 1 else None


def mean_curve(seeds: Sequence[Points]) -> Curve | None:
    """The mean of several seeds' curves where all have values; None if that is nowhere.

    Between recorded rounds a curve is a straight line; it is not continued beyond its ends.
    """
    if not seeds:
        return None
    grid = _common_grid(seeds)
    if grid is None:
        return None
    samples = np.array([np.interp(grid, seed.x, seed.y) for seed in seeds])
    return Curve(grid, samples.mean(axis=0), half_widths(samples), len(seeds))


def shared_range(seeds: Sequence[Points]) -> tuple[float, float] | None:
    """From the largest first x to the smallest last; None if that is empty."""
    low = max((float(seed.x[0]) for seed in seeds), default=0.0)
    high = min((float(seed.x[-1]) for seed in seeds), default=0.0)
    return (low, high) if low < high else None


def height(seed: Points, low: float, high: float) -> float:
    """Mean height of a curve over ``low <= x <= high``: the area under it divided by the length.

    The integral of the straight lines between recorded rounds, exact by the trapezoidal rule with knots at the rounds
    and at both ends.
    """
    inside = seed.x[(seed.x > low) & (seed.x < high)]
    x = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(x, seed.x, seed.y), x) / (high - low))


def first_reached(rounds: Rounds, key: str, value: float) -> int | None:
    """Index of the first recorded round at which `key` is `value` or better; None if there is none."""
    high = best_direction(key) == "high"
    for index, row in enumerate(rounds):
        here = row.get(key, math.nan)
        if here >= value if high else here <= value:
            return index
    return None


def cost_to_target(seeds: Sequence[Rounds], axis: str, key: str, value: float, diverged: int = 0) -> Target:
    """What it cost on an axis until `key` was first recorded at `value` or beyond.

    Parameters
    ----------
    seeds : sequence of Rounds
        Each seed's rounds, but for those that diverged.
    axis, key, value
        Of :data:`AXES`; the target.
    diverged : int
        Seeds that diverged: they count as not reaching it.
    """
    costs, reached = [], 0
    for rounds in seeds:
        index = first_reached(rounds, key, value)
        spent = cost(rounds, axis)
        if index is not None:
            reached += 1
            costs += [] if spent is None else [float(spent[index])]
    values = [row[key] for rounds in seeds for row in rounds if math.isfinite(row.get(key, math.nan))]
    choose = max if best_direction(key) == "high" else min
    best = choose(values, default=math.nan)
    return Target(estimate(costs) if costs else None, reached, len(seeds) + diverged, best)


def _common_grid(seeds: Sequence[Points]) -> NDArray[np.float64] | None:
    """The rounds' own x where all seeds have the same, thinned; else points at equal distances."""
    first = seeds[0].x
    if all(np.array_equal(seed.x, first) for seed in seeds):
        chosen = np.linspace(0, len(first) - 1, min(len(first), MOST_POINTS)).round().astype(np.intp)
        return first[chosen]
    shared = shared_range(seeds)
    return None if shared is None else np.linspace(*shared, MOST_POINTS)
