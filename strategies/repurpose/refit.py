r"""Weights refitted by least squares on what is left of a row: :math:`w'_K = \Sigma_{KK}^{-1}\Sigma_{K:}w`.

With the bias moved by :math:`(w - w')^T\mu` this minimises :math:`E(w^Tx + b - w'^Tx - b')^2` over weights on K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strategies.repurpose.moments import Moments


def refit(matrix: Tensor, kept: Tensor, moments: Moments) -> Tensor:
    """Rows refitted on the units that each keeps; rows that keep all are untouched.

    Parameters
    ----------
    matrix : Tensor
        Shape (rows, units, columns), float64.
    kept : Tensor
        Shape (rows, units), bool.
    moments : Moments

    Returns
    -------
    Tensor
        Shape (rows, units, columns), 0 where a unit is not kept.
    """
    columns = matrix.shape[2]
    found = torch.zeros_like(matrix)
    masks, which = torch.unique(kept, dim=0, return_inverse=True)
    seen = matrix.flatten(1) @ moments.covariance
    for number, units in enumerate(masks):
        rows = (which == number).nonzero().squeeze(1)
        if units.all():
            found[rows] = matrix[rows]
            continue
        if not units.any():
            continue
        mask = units.repeat_interleave(columns)
        factor = torch.linalg.cholesky(moments.covariance[mask][:, mask])
        solved = torch.cholesky_solve(seen[rows][:, mask].T, factor).T
        found[rows[:, None], units.nonzero().squeeze(1)] = solved.reshape(len(rows), -1, columns)
    return found


def bias_moved(matrix: Tensor, refitted: Tensor, bias: Tensor, moments: Moments) -> Tensor:
    """Bias that keeps the mean of every row's output, shape (rows,)."""
    moved: Tensor = bias.to(torch.float64) + (matrix - refitted).flatten(1) @ moments.mean
    return moved


def squared_error(matrix: Tensor, refitted: Tensor, moments: Moments) -> float:
    """Half the mean squared change of the layer's outputs before the activation, summed over rows and positions."""
    difference = (matrix - refitted).flatten(1)
    return 0.5 * float(((difference @ moments.covariance) * difference).sum())
