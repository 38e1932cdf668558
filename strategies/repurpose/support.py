r"""Which units a worker needs: backward elimination with the weights refitted at every step.

A worker with rows W takes the units K. With weights refitted on what it takes, its error is

.. math:: \tfrac12 \mathrm{tr}\, W (\Sigma - \Sigma_{:K} \Sigma_{KK}^{-1} \Sigma_{K:}) W^T .

With :math:`H = \Sigma_{KK}^{-1}` and refitted weights V, doing without unit i of K costs exactly
:math:`\tfrac12 \mathrm{tr}\, V_i H_{ii}^{-1} V_i^T`, and what is left is
:math:`H - H_{:i} H_{ii}^{-1} H_{i:}` and :math:`V - V_i H_{ii}^{-1} H_{i:}`: the optimal brain surgeon of Hassibi and
Stork (1993), for all rows of a worker together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from strategies.repurpose.owners import Real

AT_ONCE = 0.08
"""Share of the units worth dropping that are dropped before costs are worked out anew."""


@dataclass(frozen=True)
class Support:
    """What a worker takes.

    Attributes
    ----------
    kept : Tensor
        Shape (units,), bool.
    inverse : Tensor
        Inverse covariance of the columns kept.
    """

    kept: Tensor
    inverse: Tensor


def eliminate(rows: Tensor, inverse: Tensor, price: Real) -> Support:
    """Drop units while one costs less to do without than to send.

    Parameters
    ----------
    rows : Tensor
        W of the worker's neurons, shape (rows, units, columns).
    inverse : Tensor
        Inverse covariance of all columns.
    price : ndarray, shape (units,)
        Of sending each unit; those of price 0 stay.
    """
    units, columns = rows.shape[1:]
    kept = torch.arange(units)
    prices = torch.from_numpy(price).to(torch.float64)
    weights = rows
    while True:
        costs = _costs_of_dropping(weights, inverse)
        gains = torch.where(prices[kept] > 0, prices[kept] - costs, -math.inf)
        worth = int((gains >= 0).sum())
        if not worth:
            mask = torch.zeros(units, dtype=torch.bool)
            mask[kept] = True
            return Support(mask, inverse)
        dropped = torch.zeros(len(kept), dtype=torch.bool)
        dropped[gains.topk(math.ceil(AT_ONCE * worth)).indices] = True
        weights, inverse = _without(weights, inverse, dropped, columns)
        kept = kept[~dropped]


def costs_by_row(rows: Tensor, seen: Tensor, support: Support) -> Tensor:
    """Error of each row, wherever it is, with refitted weights on the units of a support; shape (rows,).

    Parameters
    ----------
    rows : Tensor
        W, shape (rows, units, columns).
    seen : Tensor
        W Sigma, shape (rows, units * columns).
    support : Support
    """
    explained = seen[:, support.kept.repeat_interleave(rows.shape[2])]
    whole = (seen * rows.flatten(1)).sum(1)
    return 0.5 * (whole - ((explained @ support.inverse) * explained).sum(1)).clamp(min=0.0)


def _costs_of_dropping(weights: Tensor, inverse: Tensor) -> Tensor:
    units, columns = weights.shape[1:]
    if columns == 1:
        return 0.5 * weights[:, :, 0].square().sum(0) / inverse.diagonal()
    blocks = inverse.reshape(units, columns, units, columns).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    gram = torch.einsum("jic,jid->icd", weights, weights)
    solved: Tensor = torch.linalg.solve(blocks, gram)
    return 0.5 * solved.diagonal(dim1=1, dim2=2).sum(1)


def _without(weights: Tensor, inverse: Tensor, dropped: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    mask = dropped.repeat_interleave(columns)
    across = inverse[mask][:, ~mask]
    correction = torch.linalg.solve(inverse[mask][:, mask], across)
    flat = weights.flatten(1)
    left = flat[:, ~mask] - flat[:, mask] @ correction
    remaining = inverse[~mask][:, ~mask] - across.T @ correction
    return left.reshape(len(flat), int((~dropped).sum()), columns), remaining
