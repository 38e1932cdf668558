r"""Units of each layer that each worker owns: by their shares, and in whole units within every worker's limits.

Where units rounded by share break a limit, the numbers :math:`n_{oq} \ge 0` of units of owners o at worker q are those
of the integer program

.. math:: \min \sum_{oq} c_o |n_{oq} - \bar n_{oq}| \quad \text{with} \quad \sum_q n_{oq} = N_o, \quad
          \sum_o c_o n_{oq} \le C_q, \quad \sum_o m_o n_{oq} \le M_q,

with :math:`\bar n` the rounded ones, c the multiply-adds and m the bytes of a unit's rows, dense.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from strategies.repurpose.assignment import places_by_share
from strategies.repurpose.network import Network
from strategies.repurpose.owners import Owners, Real
from strategies.repurpose.ownership import Ownership
from strategies.repurpose.workers import BYTES, DoesNotFit, Worker, shares

MOST_NODES, GAP = 2000, 0.5
"""Of the search, which thus ends in seconds: nodes, and the share of its objective that it may leave to gain."""


def places_of_layers(network: Network, shared: Ownership, workers: Sequence[Worker]) -> list[list[int]]:
    """For each of the owners of a network, how many units each worker gets; none of the input's.

    Raises
    ------
    ValueError
        If a hidden layer has fewer units than there are workers.
    DoesNotFit
        If the workers' limits are too tight; the message says for whom, and by how much.
    """
    last = shared.of_value[-1]
    for number, (name, units) in enumerate(zip(shared.first_layer, shared.units, strict=True)):
        if name and number != last and units < len(workers):
            raise ValueError(f"workers = {len(workers)}: {name} has {units} units; accepted: at most {units} workers")
    cost = costs_of_units(network, shared)
    dealt = np.array([count if name else 0 for count, name in zip(shared.units, shared.first_layer, strict=True)])
    share = shares(workers, *(float(total) for total in cost @ dealt))
    found = np.array([places_by_share(int(count), share) for count in dealt])
    limits = np.array([[w.multiply_adds for w in workers], [w.memory for w in workers]])
    if (cost @ found > limits).any():
        found = _within(limits, cost, found)
    return [[int(count) for count in row] for row in found]


def costs_of_units(network: Network, shared: Ownership) -> Real:
    """Multiply-adds an inference and bytes of a unit's rows in all layers that it is in, shape (2, owners); dense."""
    found = np.zeros((2, len(shared.units)))
    for number, step in enumerate(network.steps, start=1):
        if step.weighted:
            own = network.weights[step.name]
            row = own.weight[0].numel()
            found[:, shared.of_value[number]] += row * network.positions(step), BYTES * (row + 1)
    return found


def _within(limits: Real, cost: Real, dealt: Owners) -> Owners:
    """Whole units within limits, near those dealt out by share; both of shape (owners, P)."""
    owners, workers = dealt.shape
    size = owners * workers
    # variables: the places, then how far each is from those dealt out
    each_worker = np.tile(np.eye(workers), owners)
    each_owner = np.repeat(np.eye(owners), workers, axis=1)
    nothing, same = np.zeros((max(owners, workers), size)), np.eye(size)
    constraints = [
        LinearConstraint(np.hstack([each_owner, nothing[:owners]]), dealt.sum(1), dealt.sum(1)),
        LinearConstraint(np.hstack([same, -same]), ub=dealt.ravel()),
        LinearConstraint(np.hstack([-same, -same]), ub=-dealt.ravel()),
    ]
    for limit, own in zip(limits, cost, strict=True):
        used = np.hstack([each_worker * np.repeat(own, workers), nothing[:workers]])
        constraints.append(LinearConstraint(used, ub=np.floor(limit)))
    result = milp(
        np.concatenate([np.zeros(size), np.repeat(cost[0], workers)]),
        integrality=np.repeat([1, 0], size),
        bounds=Bounds(lb=0),
        constraints=constraints,
        options={"node_limit": MOST_NODES, "mip_rel_gap": GAP},
    )
    found = dealt if result.x is None else np.rint(result.x[:size]).astype(np.int64).reshape(dealt.shape)
    used = cost @ found
    over = np.argwhere(used > limits)
    if len(over) or (found.sum(1) != dealt.sum(1)).any():
        raise DoesNotFit(_told(used, limits, *map(int, over[0])))
    return found


def _told(used: Real, limits: Real, what: int, worker: int) -> str:
    value, limit = used[what, worker], limits[what, worker]
    name, unit = (("multiply_adds", "multiply-adds"), ("memory", "bytes"))[what]
    return (
        f"workers: worker {worker} would get {value:,.0f} {unit} with {name} = {limit:,.0f}, {value - limit:,.0f} too "
        "many: no way was found to deal out whole units within the workers' limits; accepted: slightly higher limits"
    )
