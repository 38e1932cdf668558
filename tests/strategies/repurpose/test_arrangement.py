"""Owners of all layers at once: the objective is what it says, and sweeps never raise it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from strategies.repurpose.arrangement import Cut, arrange, objective, row_costs
from strategies.repurpose.assignment import assign
from strategies.repurpose.owners import EVERYWHERE, Owners, Real

PENALTIES = ["group", "edge"]
EDGE_COSTS = [0.0, 0.2]


def prices(price: float, workers: int) -> Callable[[Owners], Real]:
    """The same between all workers."""

    def of(before: Owners) -> Real:
        return price * ((before[:, None] != np.arange(workers)) & (before[:, None] != EVERYWHERE))

    return of


@pytest.mark.parametrize("edge_cost", EDGE_COSTS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("price", [0.4, 1.0, 3.0])
def test_the_objective_of_the_arrangement_never_rises_and_falls_from_the_start(
    penalty: str, price: float, edge_cost: float
) -> None:
    random = np.random.default_rng(0)
    owners: list[Owners] = [np.repeat(np.arange(4), 5), np.repeat(np.arange(4), 4), np.repeat(np.arange(4), 2)]
    losses = [random.exponential(0.3, (16, 20)), random.exponential(0.3, (8, 16))]
    cuts = [Cut(loss, n, n + 1, prices(price, 4), edge_cost) for n, loss in enumerate(losses)]
    found, objectives = arrange(cuts, owners, [[5] * 4, [4] * 4, [2] * 4], 4, penalty, 12)
    assert (np.diff(objectives) <= 0).all()
    assert objectives[-1] < 0.97 * objectives[0]
    assert [np.bincount(o).tolist() for o in found] == [[5] * 4, [4] * 4, [2] * 4]


@pytest.mark.parametrize("edge_cost", EDGE_COSTS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_objective_is_the_sum_over_units_workers_and_edges(penalty: str, edge_cost: float) -> None:
    random = np.random.default_rng(1)
    loss, price = random.exponential(0.3, (7, 5)), 0.5
    before, after = random.integers(3, size=5), random.integers(3, size=7)
    expected = 0.0
    for i, q in product(range(5), range(3)):
        losses = [loss[j, i] for j in range(7) if after[j] == q]
        if before[i] == q:
            expected += sum(min(edge_cost, one) for one in losses)
        elif penalty == "group":
            expected += min(price, sum(losses))
        else:
            expected += sum(min(price, one) for one in losses)
    cut = Cut(loss, 0, 1, prices(price, 3), edge_cost)
    assert objective([cut], [before, after], 3, penalty) == pytest.approx(expected, rel=1e-12)  # order of sums


@pytest.mark.parametrize("edge_cost", EDGE_COSTS)
def test_owners_of_rows_are_the_best_there_are_if_edges_pay(edge_cost: float) -> None:
    """With the edge-wise penalty the objective is linear in the rows' owners, so that one assignment solves it."""
    random = np.random.default_rng(2)
    before = np.array([0, 0, 1, 1, 1, EVERYWHERE])
    cut = Cut(random.exponential(0.3, (6, 6)), 0, 1, prices(0.3, 2), edge_cost)
    start = np.array([0, 0, 0, 1, 1, 1])
    found = assign(row_costs(cut, before, start, 2, "edge"), [3, 3])
    every = [np.array(own) for own in product(range(2), repeat=6) if sum(own) == 3]
    least = min(objective([cut], [before, own], 2, "edge") for own in every)
    assert objective([cut], [before, found], 2, "edge") == pytest.approx(least, rel=1e-12)  # order of sums
