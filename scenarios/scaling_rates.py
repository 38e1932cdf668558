"""Learning rates of scenarios/scaling.py, chosen on validation rows by the simulated time to the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from scaling_cells import Cell
from scaling_runs import Runs

RATES = tuple(0.025 * 2**k for k in range(10))
"""The grid of the search."""
FIRST_RATE = 0.2
SEED = 1000
"""Rates are chosen under a seed of their own."""
NETWORK, STRAGGLERS = "data-centre", "mild"
"""Where they are chosen."""


class Rates:
    """The rate of each system for a number of workers and a scaling.

    Parameters
    ----------
    runs : Runs
        Of the study.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        self._last: dict[tuple[str, str], float] = {}

    def chosen(self, cell: Cell, system: str) -> float:
        """The rate for a cell's number of workers and scaling."""
        cell = replace(cell, network=NETWORK, stragglers=STRAGGLERS)

        def cost(rate: float) -> tuple[float, float]:
            told = self.runs.figures(cell, system, rate, SEED, "validation")
            return told.get("time_s") or math.inf, told["last_loss"]

        best = best_rate(cost, self._last.get((cell.scaling, system), FIRST_RATE))
        self._last[cell.scaling, system] = best
        return best


def best_rate(cost: Callable[[float], tuple[float, ...]], start: float) -> float:
    """The rate of least cost on the grid, downhill from `start` to where both neighbours cost no less."""
    place = RATES.index(start)
    step = -1 if place and cost(RATES[place - 1]) < cost(RATES[place]) else 1
    while 0 <= place + step < len(RATES) and cost(RATES[place + step]) < cost(RATES[place]):
        place += step
    return RATES[place]
