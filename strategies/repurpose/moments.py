"""First and second moments of a layer's inputs over the calibration set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from strategies.repurpose.network import Network, Step

BATCH_NUMBERS = 4_000_000
"""Numbers of a batch's patches that are held at once."""


@dataclass(frozen=True)
class Moments:
    r"""Of what a weighted step takes at one position.

    Attributes
    ----------
    mean : Tensor
        :math:`\mu`, shape (d,), float64.
    covariance : Tensor
        :math:`\Sigma = E[xx^T] - \mu\mu^T + \rho I`, shape (d, d), summed over the positions of a convolution (where
        :math:`\mu` is their average) and averaged over inputs; :math:`\rho` keeps it regular where inputs repeat each
        other.
    """

    mean: Tensor
    covariance: Tensor

    def blocks(self, columns: int) -> Tensor:
        """Covariances within each unit, shape (units, columns, columns)."""
        units = len(self.mean) // columns
        split = self.covariance.reshape(units, columns, units, columns)
        return split.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def moments_of(network: Network, step: Step, values: Tensor, ridge: float) -> Moments:
    """Moments of what `step` takes, from a batch of its source.

    Parameters
    ----------
    network : Network
    step : Step
        Weighted.
    values : Tensor
        The step's source over the calibration set, (N, ...).
    ridge : float
        rho as a share of the mean diagonal entry, > 0.
    """
    size = network.matrix(step)[0].numel()
    total, second, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    rows = max(1, BATCH_NUMBERS // (size * network.positions(step)))
    shift: Tensor | None = None
    for batch in torch.split(values, rows):
        patches = _patches(network, step, batch)
        if shift is None:  # near the mean: a variance small beside it would be lost as the difference of two squares
            shift = patches.mean(0, dtype=torch.float64).to(patches.dtype)
        patches = patches - shift
        total += patches.sum(0, dtype=torch.float64)
        # Products in the model's own precision are enough within a batch; batches are added up in float64.
        second += (patches.T @ patches).to(torch.float64)
        count += len(patches)
    assert shift is not None
    moved = total / count
    mean = shift.to(torch.float64) + moved
    covariance = (second / count - torch.outer(moved, moved)) * network.positions(step)
    covariance = 0.5 * (covariance + covariance.T)
    floor = ridge * max(float(covariance.diagonal().mean()), torch.finfo(torch.float32).tiny)
    return Moments(mean, covariance + floor * torch.eye(size, dtype=torch.float64))


def _patches(network: Network, step: Step, batch: Tensor) -> Tensor:
    """Inputs at each position, shape (N * positions, d)."""
    if step.kind == "linear":
        return batch
    options = step.options
    kernel = network.weights[step.name].weight.shape[2:]
    padding = options["padding"]
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(options["dilation"], kernel, strict=True)]
        left = [r // 2 if padding == "same" else 0 for r in reach]
        right = [r - r // 2 if padding == "same" else 0 for r in reach]
        batch, padding = functional.pad(batch, (left[1], right[1], left[0], right[0])), 0
    patches = functional.unfold(batch, kernel, options["dilation"], padding, options["stride"])
    return patches.transpose(1, 2).flatten(0, 1)
