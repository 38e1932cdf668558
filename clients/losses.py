"""What a model is trained to lower: losses by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn import functional

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) of some rows to the mean of their losses, a tensor of shape ()."""


@dataclass(frozen=True)
class Loss:
    """A loss, and what its targets are.

    Parameters
    ----------
    mean : callable
        (outputs, targets) of some rows to the mean of their losses, a tensor of shape (). Each row counts the same, so
        that the means of batches, weighted by their rows, make the mean of all.
    of_classes : bool
        Whether targets are classes, shape (n,), int64; only then is there an accuracy. Otherwise they are the inputs
        themselves, shape (n, features), see :meth:`clients.data.FederatedData.with_inputs_as_targets`.
    """

    mean: LossFunction
    of_classes: bool


def reconstruction(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Half the squared distance between outputs and targets, the mean over rows.

    .. math:: f = \frac{1}{n} \sum_{i=1}^{n} \frac12 \sum_j \bigl(h(x_i) - x_i\bigr)_j^2

    The sum runs over the entries of a row: of images with 784 pixels it is 392 times the mean squared error of a
    pixel. The best that a linear model with k hidden units can do is half the sum of the eigenvalues of the inputs'
    covariance matrix (divided by n, not n - 1) without the k largest: principal component analysis [1]_.

    Parameters
    ----------
    outputs : Tensor of shape (n, ...)
        h(x), of as many entries a row as the targets.
    targets : Tensor of shape (n, ...)
        x.

    Returns
    -------
    Tensor of shape ()

    Raises
    ------
    ValueError
        If a row of the outputs has another number of entries.

    References
    ----------
    .. [1] P. Baldi, K. Hornik, "Neural networks and principal component analysis: learning from examples without
       local minima", Neural Networks 2(1), 1989.
    """
    h, x = outputs.flatten(1), targets.flatten(1)
    if h.shape != x.shape:  # broadcasting would give a number that means nothing
        raise ValueError(f"outputs: shape {tuple(outputs.shape)}; the targets' is {tuple(targets.shape)}")
    return functional.mse_loss(h, x, reduction="sum") / (2 * len(x))


CROSS_ENTROPY = Loss(functional.cross_entropy, of_classes=True)
RECONSTRUCTION = Loss(reconstruction, of_classes=False)

LOSSES: Mapping[str, Loss] = MappingProxyType({"cross-entropy": CROSS_ENTROPY, "reconstruction": RECONSTRUCTION})
"""What ``training.loss`` accepts."""
