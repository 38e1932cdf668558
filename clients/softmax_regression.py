"""Softmax regression written out: loss, gradient, curvature, and all three along a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn

from clients.data import Split
from clients.sparse_softmax_curvature import SparseSoftmaxCurvature, is_faster_sparse


class SoftmaxRegression:
    r"""Mean cross-entropy of a linear layer over a device's s rows, without automatic differentiation.

    With the rows' inputs X (s, m), classes Y as rows of the identity (s, K), weights W (K, m), the biases b added to
    each row, and :math:`P = \mathrm{softmax}(X W^T + b)`,

    .. math:: \nabla_W f = \frac1s (P - Y)^T X, \qquad
              H[V] = \frac1s \left( P \odot Z - P \odot \mathrm{rowsum}(P \odot Z) \right)^T X, \quad Z = X V^T + c,

    V and c the parts of v that belong to W and b; the biases' part is the same with a column of ones for X. P is
    computed once for all products at a point, so that a product is two matrix products. Along a line
    :math:`X (W + \alpha V)^T = X W^T + \alpha Z`: all steps share these two, and their gradients are one product.

    Features that are zero in all of a device's rows (a fifth of MNIST's pixels) have a zero gradient and curvature
    and are left out of the products. Where most of the others are zero as well, Hessian products are those of
    :class:`clients.sparse_softmax_curvature.SparseSoftmaxCurvature`.

    Memory beside the rows: a second copy of the inputs that are not left out, if more than a tenth are, and, from the
    first Hessian operator on, the sparse copies; s K numbers for a Hessian operator while it lives; K x block_rows
    numbers at work, times the number of steps in `along`.

    Parameters
    ----------
    rows : Split
        Inputs (s, ...), flattened to (s, m); classes (s,).
    classes : int
        K.
    bias : bool
        Whether there are biases.
    block_rows : int
        Rows that are worked on at once.
    """

    def __init__(self, rows: Split, classes: int, bias: bool, block_rows: int) -> None:
        self.inputs, self.targets = rows.inputs.flatten(1), rows.targets
        self.rows, self.features = self.inputs.shape
        self.classes, self.bias = classes, bias
        bounds = [*range(0, self.rows, block_rows), self.rows]
        self.blocks = [slice(first, last) for first, last in pairwise(bounds)]
        self.used: Tensor | None = None
        used = torch.stack([self.inputs[block].any(dim=0) for block in self.blocks]).any(dim=0).nonzero()[:, 0]
        if len(used) < 0.9 * self.features:
            self.used, self.inputs = used, self.inputs.index_select(1, used)
        # Double-precision matrix products of a few rows are faster when these come in fours (MKL on AVX2: 12 rows
        # take less time than 10). The added weights are zero, and what they yield is dropped.
        self.padded = 4 * math.ceil(classes / 4) if classes > 4 else classes

    def value(self, w: Tensor) -> float:
        """The mean loss at w."""
        total = torch.zeros((), dtype=torch.float64, device=w.device)
        for block, scores in self._scores(w):
            total += self._losses(scores[: self.classes].log_softmax(dim=0), block)
        return float(total)

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """The mean loss at w and its gradient."""
        total, sums = torch.zeros((), dtype=torch.float64, device=w.device), self._zeros(w, self.padded)
        for block, scores in self._scores(w):
            residuals = scores[: self.classes]
            residuals.copy_(residuals.log_softmax(dim=0))
            total += self._losses(residuals, block)
            self._subtract_targets(residuals.exp_(), block)
            self._accumulate(sums, scores, block)
        return float(total), self._flat(sums, 1)[0]

    def hessian(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        """The operator v -> H(w) v."""
        probabilities = [scores[: self.classes].softmax(dim=0) for _, scores in self._scores(w)]
        if self._sparse is not None:
            return self._sparse.at(torch.cat(probabilities, dim=1))

        def product(v: Tensor) -> Tensor:
            sums = self._zeros(v, self.padded)
            for (block, scores), p in zip(self._scores(v), probabilities, strict=True):
                z = scores[: self.classes].mul_(p)
                z.addcmul_(p, z.sum(dim=0), value=-1)
                self._accumulate(sums, scores, block)
            return self._flat(sums, 1)[0]

        return product

    def along(self, w: Tensor, p: Tensor, steps: Tensor, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """Values and, if wanted, gradients at w + step p."""
        values, sizes = torch.zeros_like(steps), steps.to(w.dtype)[:, None, None]
        sums = self._zeros(w, len(steps) * self.classes) if gradients else None
        for (block, at_w), (_, of_p) in zip(self._scores(w), self._scores(p), strict=True):
            residuals = torch.addcmul(at_w[: self.classes], sizes, of_p[: self.classes]).log_softmax(dim=1)
            values += self._losses(residuals, block)
            if sums is not None:
                self._subtract_targets(residuals.exp_(), block)
                self._accumulate(sums, residuals.flatten(0, 1), block)
        return values, None if sums is None else self._flat(sums, len(steps))

    @cached_property
    def _sparse(self) -> SparseSoftmaxCurvature | None:
        """The Hessian products of inputs that are mostly zeros."""
        if not is_faster_sparse(self.inputs, self.classes):
            return None
        return SparseSoftmaxCurvature(self.inputs, self.used, self.features, self.bias)

    def _scores(self, w: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Each block with W X^T + b of shape (padded classes, rows), to be overwritten at will."""
        split = self.classes * self.features
        weights = self._zeros(w, self.padded)[0]
        used = w[:split].view(self.classes, self.features)
        weights[: self.classes] = used if self.used is None else used.index_select(1, self.used)
        for block in self.blocks:
            scores = weights @ self.inputs[block].t()
            if self.bias:
                scores[: self.classes] += w[split:, None]
            yield block, scores

    def _losses(self, log_probabilities: Tensor, block: slice) -> Tensor:
        """The block's part of the mean loss, (..., K, rows) to (...), in float64."""
        shape = (*log_probabilities.shape[:-2], 1, -1)
        own = log_probabilities.gather(-2, self.targets[block].expand(shape))
        return own.sum(dim=(-2, -1), dtype=torch.float64) / -self.rows

    def _subtract_targets(self, probabilities: Tensor, block: slice) -> None:
        """P - Y, in place, for probabilities of shape (..., K, rows)."""
        shape = (*probabilities.shape[:-2], 1, -1)
        index = self.targets[block].expand(shape)
        probabilities.scatter_add_(-2, index, probabilities.new_tensor(-1.0).expand(index.shape))

    def _zeros(self, like: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
        """Room for sums over rows: (outputs, features in use) for the weights, (outputs,) for the biases."""
        return like.new_zeros((outputs, self.inputs.shape[1])), like.new_zeros(outputs)

    def _accumulate(self, sums: tuple[Tensor, Tensor], residuals: Tensor, block: slice) -> None:
        """Add residuals (outputs, rows) times the block's inputs, over s."""
        sums[0].addmm_(residuals, self.inputs[block], alpha=1 / self.rows)
        if self.bias:
            sums[1].add_(residuals.sum(dim=1), alpha=1 / self.rows)

    def _flat(self, sums: tuple[Tensor, Tensor], points: int) -> Tensor:
        """Sums of each point's K outputs as vectors in the order of the parameters, shape (points, d)."""
        split, kept = self.classes * self.features, points * self.classes
        flat = sums[0].new_zeros((points, split + self.classes * self.bias))
        weights = flat[:, :split].view(points, self.classes, self.features)
        own = sums[0][:kept].view(points, self.classes, self.inputs.shape[1])
        if self.used is None:
            weights.copy_(own)
        else:
            weights.index_copy_(2, self.used, own)
        if self.bias:
            flat[:, split:] = sums[1][:kept].view(points, self.classes)
        return flat


def single_linear_layer(model: nn.Module, rows: Split) -> nn.Linear | None:
    """The layer of a model that is one trainable linear layer (and a flattening) on `rows`, else None."""
    parts = list(model) if type(model) is nn.Sequential else [model]
    if len(parts) == 2 and type(parts[0]) is nn.Flatten and (parts[0].start_dim, parts[0].end_dim) == (1, -1):
        parts = parts[1:]
    elif rows.inputs.dim() != 2:
        return None
    layer = parts[0] if len(parts) == 1 else None
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        return None
    classes_are_given = rows.targets.dim() == 1 and rows.targets.dtype == torch.int64
    return layer if classes_are_given and all(p.requires_grad for p in model.parameters()) else None
