r"""What a plan costs: sends, bytes, multiply-adds of each worker, and an estimate of latency and energy.

The latency of an inference is the sum over layers of the slowest worker's computation and the transfers before it, and
at last the gathering of the outputs:

.. math:: \sum_m \Big(T_m + \max_q \frac{\text{multiply-adds of q in m}}{\text{speed of q}}\Big) + T_{out},

T being the sum of all transfers where the links are shared, else the longest time that a worker sends or receives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.repurpose.network import Step
from strategies.repurpose.owners import Real
from strategies.repurpose.plan import COLLECTOR, Plan
from strategies.repurpose.workers import Links, Worker

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LayerAccount:
    """Of one layer, for one input.

    Attributes
    ----------
    name : str
    sends : int
        Activations sent before it: neurons, or feature maps.
    most_sends : int
        If every worker were sent all.
    bytes_between : ndarray of int, shape (P, P)
        From the row's worker to the column's.
    multiply_adds : ndarray of int, shape (P,)
        Of each worker, on the weights that are kept.
    """

    name: str
    sends: int
    most_sends: int
    bytes_between: Counts
    multiply_adds: Counts


@dataclass(frozen=True)
class Accounts:
    """Of a plan, for one input: its layers, and the bytes of gathering the outputs, shape (P, P)."""

    layers: tuple[LayerAccount, ...]
    gathering: Counts

    @property
    def sends(self) -> int:
        """Activations sent between layers."""
        return sum(layer.sends for layer in self.layers)

    @property
    def bytes(self) -> int:
        """All bytes sent, the gathering of the outputs included."""
        return int(self.gathering.sum() + sum(layer.bytes_between.sum() for layer in self.layers))

    @property
    def multiply_adds(self) -> Counts:
        """Of each worker, shape (P,)."""
        return np.asarray(sum(layer.multiply_adds for layer in self.layers))

    def latency(self, workers: Sequence[Worker], links: Links) -> float:
        """Estimate for one input, s; see the module."""
        speeds = np.array([worker.speed for worker in workers])
        computing = sum(float((layer.multiply_adds / speeds).max()) for layer in self.layers)
        exchanges = [*(layer.bytes_between for layer in self.layers), self.gathering]
        return computing + sum(transfer_time(sent, links) for sent in exchanges)

    def energy(self, workers: Sequence[Worker], links: Links) -> float:
        """Of sending and computing for one input, J; links without an energy count as 0."""
        per_multiply_add = np.array([worker.energy_per_multiply_add for worker in workers])
        computing = float((self.multiply_adds * per_multiply_add).sum())
        if links.energy_per_bit is None:
            return computing
        total = self.gathering + sum(layer.bytes_between for layer in self.layers)
        some = total > 0
        return computing + float((8 * total[some] * np.asarray(links.energy_per_bit)[some]).sum())


def account(plan: Plan) -> Accounts:
    """Count what a plan costs for one input."""
    layers = []
    for step in plan.network.layers:
        before, after, own = plan.owner_before(step), plan.owner_after(step), plan.layers[step.name]
        size = _bytes_of_number(plan, step) * plan.network.elements(step.sources[0])
        uses = own.kept.sum(dim=1).numpy() * plan.network.columns(step) * plan.network.positions(step)
        work = np.bincount(after, weights=uses, minlength=plan.workers).astype(np.int64)
        at_all = int((before >= 0).sum()) * (plan.workers - 1)
        layers.append(
            LayerAccount(
                step.name, int(own.sends.sum()), at_all, _between(own.sends, before, plan.workers) * size, work
            )
        )
    step = plan.network.layers[-1]
    owners, gathering = plan.owner_after(step), np.zeros((plan.workers, plan.workers), dtype=np.int64)
    gathering[:, COLLECTOR] = np.bincount(owners, minlength=plan.workers) * _bytes_of_number(plan, step) * step.elements
    gathering[COLLECTOR, COLLECTOR] = 0
    return Accounts(tuple(layers), gathering)


def transfer_time(sent: Counts, links: Links) -> float:
    """Seconds that an exchange of these bytes between workers takes, shape (P, P)."""
    busy: Real = np.zeros(sent.shape)
    some = sent > 0
    busy[some] = links.delay + 8.0 * sent[some] / np.asarray(links.rate)[some]
    if links.shared:
        return float(busy.sum())
    return float(max(busy.sum(0).max(), busy.sum(1).max()))


def _between(sends: NDArray[np.bool_], owners: NDArray[np.int64], workers: int) -> Counts:
    found = np.zeros((workers, workers), dtype=np.int64)
    for q in range(workers):
        if (owners == q).any():
            found[q] = sends[owners == q].sum(0)
    return found


def _bytes_of_number(plan: Plan, step: Step) -> int:
    return plan.network.weights[step.name].weight.element_size()
