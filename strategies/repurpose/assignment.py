"""Owners of a layer's units: the Hungarian algorithm on workers with a number of places each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from strategies.repurpose.owners import EVERYWHERE, Owners
from strategies.repurpose.ownership import Ownership


def assign(cost: ArrayLike, places: Sequence[int]) -> Owners:
    """Owners p that minimise the sum of cost[j, p(j)] where worker q owns exactly places[q] units.

    Parameters
    ----------
    cost : array, shape (n, P)
    places : sequence of int
        They sum to n.

    References
    ----------
    J. Munkres, "Algorithms for the assignment and transportation problems", J. SIAM 5(1), 1957; solved by
    ``scipy.optimize.linear_sum_assignment``.
    """
    costs = np.asarray(cost, dtype=np.float64)
    if sum(places) != len(costs):
        raise ValueError(f"places = {list(places)} sum to {sum(places)}; accepted: {len(costs)}, one for each unit")
    slots = np.repeat(np.arange(len(places)), places)
    rows, columns = linear_sum_assignment(costs[:, slots])
    owners = np.empty(len(costs), dtype=np.int64)
    owners[rows] = slots[columns]
    return owners


def contiguous(places: Sequence[int]) -> Owners:
    """Owners in the order of the units: the first places[0] to worker 0, and so on."""
    return np.repeat(np.arange(len(places), dtype=np.int64), places)


def owners_in_order(shared: Ownership, places: Sequence[Sequence[int]]) -> list[Owners]:
    """For each of a network's owners the units dealt out in their order, or EVERYWHERE."""
    return [
        np.full(shared.units[number], EVERYWHERE) if shared.everywhere(number) else contiguous(own)
        for number, own in enumerate(places)
    ]


def places_by_share(units: int, shares: ArrayLike) -> list[int]:
    """How many of `units` each worker owns if it is to own this share, by largest remainders.

    Examples
    --------
    >>> places_by_share(10, [0.25, 0.25, 0.5])
    [3, 2, 5]
    """
    exact = units * np.asarray(shares, dtype=np.float64)
    places = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(places - exact, kind="stable")
    places[order[: units - int(places.sum())]] += 1
    return [int(number) for number in places]
