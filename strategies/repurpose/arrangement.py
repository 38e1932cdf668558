r"""Owners of all layers' units at once, by the diagonal approximation of what a cut costs.

With units of columns :math:`c` and :math:`\Sigma_{ii}` their own covariance, what layer m loses if unit i is not
there for row j is

.. math:: e_{ji} = \tfrac12 w_{j,i} \Sigma_{ii} w_{j,i}^T,

and the arrangement minimises, :math:`\pi_{iq}` being the price of sending unit i to worker q,

.. math:: \sum_m \sum_{i,\,q \ne o(i)} \min\Big(\pi_{iq}, \sum_{j:\,p(j)=q} e_{ji}\Big)
   \quad\text{(edges: } \sum_{j:\,p(j)=q} \min(\pi_{iq}, e_{ji})\text{)}.

With a cost :math:`\lambda_{in}` of edges inside a worker, :math:`\sum_m \sum_i \sum_{j:\,p(j)=o(i)}
\min(\lambda_{in}, e_{ji})` is added.

The minimum is concave in the sum, so that its tangent bounds it from above: a sweep assigns each layer's units by the
tangents of the layers that take them in, and the objective never rises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from strategies.repurpose.assignment import assign
from strategies.repurpose.owners import EVERYWHERE, Owners, Real, at_home

Penalty = str
"""``group``: an activation is paid once for a worker; ``edge``: once for each neuron that uses it."""


LEAST_GAIN = 1e-3
"""A sweep that lowers the objective by a smaller share is the last."""


@dataclass(frozen=True)
class Cut:
    """What a layer loses by cutting, and which owners it depends on.

    Attributes
    ----------
    loss : ndarray, shape (rows, units)
        e_ji.
    before, after : int
        Numbers of the owners of its inputs and of its rows.
    price : callable
        From owners of the inputs to prices, shape (units, P): 0 where the worker has the unit itself.
    edge_cost : float
        lambda_in, of an edge inside a worker.
    """

    loss: Real
    before: int
    after: int
    price: Callable[[Owners], Real]
    edge_cost: float = 0.0


def sums_by_worker(loss: Real, owners: Owners, workers: int) -> Real:
    """What worker q loses without unit i, the sum of e_ji over its rows; shape (units, P)."""
    return np.asarray(loss.T @ (owners[:, None] == np.arange(workers)))


def cut_cost(cut: Cut, before: Owners, after: Owners, workers: int, penalty: Penalty) -> Real:
    """What unit i costs at worker q, shape (units, P): the lesser of having it there and of doing without."""
    price = cut.price(before)
    if penalty == "group":
        across = np.minimum(price, sums_by_worker(cut.loss, after, workers))
    else:
        across = _edge_costs(cut.loss, price, after, workers)
    if not cut.edge_cost:
        return across
    return across + sums_by_worker(np.minimum(cut.loss, cut.edge_cost), after, workers) * at_home(before, workers)


def inside_costs(loss: Real, edge_cost: float, before: Owners, workers: int) -> Real:
    """What row j pays at worker q for edges from units that are q's own, shape (rows, P)."""
    return np.asarray(np.minimum(loss, edge_cost) @ at_home(before, workers))


def row_costs(cut: Cut, before: Owners, after: Owners, workers: int, penalty: Penalty) -> Real:
    """Cost of row j at worker q, shape (rows, P): the tangent of the objective at `after`."""
    price = cut.price(before)
    if penalty == "edge":
        across = np.stack([np.minimum(cut.loss, price[:, q]).sum(1) for q in range(workers)], axis=1)
    else:
        done_without = sums_by_worker(cut.loss, after, workers) <= price
        across = np.asarray(cut.loss @ (done_without & (price > 0)))
    return across + inside_costs(cut.loss, cut.edge_cost, before, workers) if cut.edge_cost else across


def unit_costs(cut: Cut, after: Owners, workers: int, penalty: Penalty) -> Real:
    """Cost of unit i if it is worker r's, shape (units, P), for given owners of the rows."""
    units = cut.loss.shape[1]
    costs = np.empty((units, workers))
    for r in range(workers):
        owned = np.full(units, r, dtype=np.int64)
        costs[:, r] = cut_cost(cut, owned, after, workers, penalty).sum(1)
    return costs


def objective(cuts: Sequence[Cut], owners: Sequence[Owners], workers: int, penalty: Penalty) -> float:
    """The sum above over all layers."""
    return float(sum(cut_cost(c, owners[c.before], owners[c.after], workers, penalty).sum() for c in cuts))


def arrange(
    cuts: Sequence[Cut],
    owners: Sequence[Owners],
    places: Sequence[Sequence[int]],
    workers: int,
    penalty: Penalty,
    sweeps: int,
) -> tuple[list[Owners], list[float]]:
    """Owners of all layers' units, improved from given ones sweep by sweep.

    Parameters
    ----------
    cuts : sequence of Cut
    owners : sequence of ndarray
        To start from; owners that begin with EVERYWHERE stay.
    places : sequence of sequences of int
        Of each of the owners.
    workers : int
        P.
    penalty : {"group", "edge"}
    sweeps : int
        At most; it ends when little changes (:data:`LEAST_GAIN`).

    Returns
    -------
    owners : list of ndarray
    objectives : list of float
        Before the first sweep and after each; they never rise.
    """
    found = [np.array(o) for o in owners]
    objectives = [objective(cuts, found, workers, penalty)]
    for _ in range(sweeps):
        for number, current in enumerate(found):
            if current[0] == EVERYWHERE:
                continue
            cost = np.zeros((len(current), workers))
            for cut in cuts:
                if cut.after == number:
                    cost += row_costs(cut, found[cut.before], current, workers, penalty)
                if cut.before == number:
                    cost += unit_costs(cut, found[cut.after], workers, penalty)
            trial = [*found[:number], assign(cost, places[number]), *found[number + 1 :]]
            # a cut from owners to the same owners (a residual branch) is outside the bound: so it is checked
            if objective(cuts, trial, workers, penalty) < objective(cuts, found, workers, penalty):
                found = trial
        objectives.append(objective(cuts, found, workers, penalty))
        if not objectives[-1] < objectives[-2] * (1.0 - LEAST_GAIN):
            break
    return found, objectives


def _edge_costs(loss: Real, price: Real, after: Owners, workers: int) -> Real:
    costs = np.empty((loss.shape[1], workers))
    for q in range(workers):
        costs[:, q] = np.minimum(loss[after == q], price[:, q]).sum(0)
    return costs
