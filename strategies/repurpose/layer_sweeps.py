"""Owners of one layer's rows and the units that its workers take: sweeps that never raise the objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strategies.repurpose.arrangement import Penalty, sums_by_worker
from strategies.repurpose.assignment import assign
from strategies.repurpose.moments import Moments
from strategies.repurpose.owners import Owners, Real
from strategies.repurpose.support import Support, costs_by_row, eliminate


@dataclass(frozen=True)
class LayerTask:
    """One layer's problem: its matrix, moments, prices (units, P), places if owners are free.

    `fixed` is what else each row costs at each worker, shape (rows, P): inside it, and in the layers ahead.
    """

    matrix: Tensor
    moments: Moments
    price: Real
    fixed: Real
    places: Sequence[int] | None


def group_sweeps(task: LayerTask, owners: Owners, sweeps: int) -> tuple[Owners, Tensor, list[float]]:
    """Owners and units kept that lower the objective together; shape (rows,) and (rows, units).

    Returns
    -------
    owners, kept
    objectives : list of float
        After each half of a sweep; they never rise.
    """
    workers = task.price.shape[1]
    if not task.price.any():
        kept = torch.ones(task.matrix.shape[:2], dtype=torch.bool)
        return owners, kept, []
    inverse = torch.linalg.inv(task.moments.covariance)
    seen = task.matrix.flatten(1) @ task.moments.covariance
    best: _Taken | None = None
    objectives: list[float] = []
    for _ in range(sweeps):
        mine = [torch.from_numpy(owners == q) for q in range(workers)]
        found = _taken(task, seen, [eliminate(task.matrix[mine[q]], inverse, task.price[:, q]) for q in range(workers)])
        best = found if best is None else best.better_of(found, owners)
        total = best.errors + task.fixed
        objectives.append(float(best.sending.sum() + total[np.arange(len(owners)), owners].sum()))
        if task.places is None:
            break
        better = assign(total, task.places)
        reached = float(best.sending.sum() + total[np.arange(len(owners)), better].sum())
        if not reached < objectives[-1] * (1.0 - 1e-9):
            break
        owners = better
        objectives.append(reached)
    assert best is not None
    kept = torch.stack([support.kept for support in best.supports])[torch.from_numpy(owners)]
    return owners, kept, objectives


@dataclass(frozen=True)
class _Taken:
    """What each worker takes, what sending it costs (P,), and the error of each row at each worker (rows, P)."""

    supports: tuple[Support, ...]
    sending: Real
    errors: Real

    def better_of(self, other: _Taken, owners: Owners) -> _Taken:
        """For each worker the one of the two that is cheaper with these owners."""
        mine = owners[:, None] == np.arange(len(self.supports))
        costs = [one.sending + (one.errors * mine).sum(0) for one in (self, other)]
        keep = costs[0] <= costs[1]
        supports = tuple(a if k else b for k, a, b in zip(keep, self.supports, other.supports, strict=True))
        return _Taken(supports, np.where(keep, self.sending, other.sending), np.where(keep, self.errors, other.errors))


def _taken(task: LayerTask, seen: Tensor, supports: Sequence[Support]) -> _Taken:
    sending = np.array([task.price[s.kept.numpy(), q].sum() for q, s in enumerate(supports)])
    errors = np.stack([costs_by_row(task.matrix, seen, s).numpy() for s in supports], axis=1)
    return _Taken(tuple(supports), sending, errors)


def diagonal_choice(task: LayerTask, owners: Owners, penalty: Penalty) -> Tensor:
    """Units kept by the diagonal approximation: those that cost more to do without than to send."""
    loss, price = losses(task.matrix, task.moments), task.price
    if penalty == "edge":
        keep = (loss > price.T[owners]) | (price.T[owners] == 0)
        return torch.from_numpy(keep)
    worth = (sums_by_worker(loss, owners, price.shape[1]) > price) | (price == 0)
    return torch.from_numpy(worth.T[owners])


def losses(matrix: Tensor, moments: Moments) -> Real:
    """e_ji, what row j loses without unit i alone, shape (rows, units)."""
    blocks = moments.blocks(matrix.shape[2])
    return np.asarray(0.5 * torch.einsum("jic,icd,jid->ji", matrix, blocks, matrix).numpy())
