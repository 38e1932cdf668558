"""A device's objective: its value, gradient and curvature at any point, with no matrix ever formed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from clients.data import Split
from clients.differentiated_loss import DifferentiatedLoss
from clients.losses import LossFunction
from clients.softmax_regression import SoftmaxRegression, single_linear_layer

Operator = Callable[[Tensor], Tensor]
"""A linear map of vectors of shape (d,)."""

_DTYPES = (torch.float32, torch.float64)


class MeanLoss(Protocol):
    """The mean loss over a device's rows, without the L2 term, in one dtype."""

    def value(self, w: Tensor) -> float: ...
    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]: ...
    def hessian(self, w: Tensor) -> Operator: ...
    def along(self, w: Tensor, p: Tensor, steps: Tensor, gradients: bool) -> tuple[Tensor, Tensor | None]: ...


class Objective:
    r"""What device i minimises, as a function of one flat vector of parameters.

    .. math:: f_i(w) = \frac{1}{s_i} \sum_{(x, y) \in D_i} \ell(h(w; x), y) + \frac{l_2}{2} \|w\|^2.

    w holds the trainable parameters in the order of ``model.parameters()``, each flattened row by row; frozen
    parameters and buffers keep the values they had when the objective was made.

    Everything is computed in the dtype of w, float32 or float64; the rows (and the model's buffers) are converted
    on the first use of a dtype. Half precision is refused: curvature is lost in its rounding. The model is copied,
    never changed, and the copy is in evaluation mode: f_i is a deterministic sum over rows, without dropout and with
    the batch-norm statistics at hand.

    Softmax regression (one linear layer under cross-entropy) is written out, see
    :class:`clients.softmax_regression.SoftmaxRegression`; every other model goes through automatic differentiation,
    see :class:`clients.differentiated_loss.DifferentiatedLoss`. Both tell what memory they use.

    Parameters
    ----------
    model : nn.Module
        Maps inputs (n, ...) to outputs, each row by itself.
    data : Split
        The device's s_i >= 1 rows. Targets are classes (int64), or floating point for losses that want it: for an
        autoencoder the inputs themselves.
    l2 : float, default 0
        Weight of the L2 term, >= 0.
    loss : callable, default cross-entropy
        ``loss(outputs, targets)``, the plain mean over its rows, of shape (). Losses that weigh rows differently
        (class weights, ignored classes) are none: blocks of rows could not be put together.
    device : torch.device or str, default "cpu"
        Where to compute. The rows move there, once; w must be there.
    block_rows : int, default 4096
        Rows that pass through the model at once, >= 1. It bounds memory; results agree to rounding for all values.

    Attributes
    ----------
    size : int
        d, the length of w.
    rows : int
        s_i.
    device : torch.device
        Where w must be.

    Raises
    ------
    ValueError
        If an argument is out of range, there are no rows or no trainable parameters, or the model normalises by
        the statistics of the batch even in evaluation mode.

    Examples
    --------
    >>> from clients.models import build
    >>> rows = Split(torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1]))
    >>> objective = Objective(build("softmax", (3,), 2), rows, l2=0.1)
    >>> value, gradient = objective.value_and_gradient(torch.zeros(objective.size, dtype=torch.float64))
    >>> round(value, 4), gradient.shape
    (0.6931, torch.Size([8]))
    """

    def __init__(
        self,
        model: nn.Module,
        data: Split,
        *,
        l2: float = 0.0,
        loss: LossFunction = functional.cross_entropy,
        device: torch.device | str = "cpu",
        block_rows: int = 4096,
    ) -> None:
        _check(model, data, l2, loss, block_rows)
        self.size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.rows = len(data.targets)
        self.l2 = l2
        self.device = torch.device(device)
        self._model = copy.deepcopy(model).to(device).eval()
        self._rows = Split(data.inputs.to(device), data.targets.to(device))
        self._loss, self._block_rows = loss, block_rows
        self._layer = single_linear_layer(self._model, self._rows) if loss is functional.cross_entropy else None
        if self._layer is not None and int(data.targets.max()) >= self._layer.out_features:
            raise ValueError(
                f"data: found class {int(data.targets.max())}; accepted: 0 to {self._layer.out_features - 1}"
            )
        self._means: dict[torch.dtype, MeanLoss] = {}

    def value(self, w: Tensor) -> float:
        """f_i(w), for w of shape (d,); summed over blocks of rows in float64."""
        return self._mean(w).value(w) + self.l2 / 2 * dot(w, w)

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """f_i(w) and its gradient of shape (d,), in one pass over the rows."""
        value, gradient = self._mean(w).value_and_gradient(w)
        return value + self.l2 / 2 * dot(w, w), gradient.add_(w, alpha=self.l2)

    def hessian(self, w: Tensor) -> Operator:
        r"""The operator :math:`v \mapsto \nabla^2 f_i(w)\, v`, for vectors of shape (d,) in w's dtype.

        What all products at w share is computed here, once. Where the loss has kinks (ReLU) the operator is the
        Hessian of the smooth piece that w lies on.
        """
        product = self._mean(w).hessian(w)

        def regularised(v: Tensor) -> Tensor:
            self._check_vector("v", v, w.dtype)
            return product(v).add_(v, alpha=self.l2)

        return regularised

    def along(self, w: Tensor, p: Tensor, steps: Sequence[float], *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        r"""The values, and with `gradients` the gradients, at :math:`w + \alpha_k p` for all K steps.

        Parameters
        ----------
        w, p : Tensor of shape (d,)
            Point and direction.
        steps : sequence of float
            The K step sizes alpha_k, in any order.
        gradients : bool
            Whether to compute gradients too.

        Returns
        -------
        values : Tensor of shape (K,)
            Always float64.
        gradients : Tensor of shape (K, d) or None
            In w's dtype.
        """
        mean = self._mean(w)
        self._check_vector("p", p, w.dtype)
        sizes = torch.tensor(list(steps), dtype=torch.float64, device=w.device)
        values, slopes = mean.along(w, p, sizes, gradients)
        squares = dot(w, w) + 2 * dot(w, p) * sizes + dot(p, p) * sizes.square()
        if slopes is not None:
            slopes.add_(w, alpha=self.l2).addr_(sizes.to(w.dtype), p, alpha=self.l2)
        return values + self.l2 / 2 * squares, slopes

    def on_rows(self, rows: Tensor) -> Objective:
        r"""The objective of some rows only, for stochastic gradients; unbiased for rows drawn uniformly.

        Parameters
        ----------
        rows : Tensor of shape (b,)
            Their numbers, b >= 1, each from 0 to s_i - 1; a row that is named twice counts twice.
        """
        if rows.dim() != 1 or len(rows) == 0:
            raise ValueError(f"rows: shape {tuple(rows.shape)}; expected (b,) with b >= 1")
        some = copy.copy(self)
        some.rows, some._means = len(rows), {}
        some._rows = Split(self._rows.inputs[rows], self._rows.targets[rows])
        return some

    def _mean(self, w: Tensor) -> MeanLoss:
        if w.dtype not in _DTYPES:
            raise ValueError(f"w: dtype {w.dtype} does not do for curvature; accepted: torch.float32, torch.float64")
        self._check_vector("w", w, w.dtype)
        if w.dtype not in self._means:
            self._means[w.dtype] = self._mean_in(w.dtype)
        return self._means[w.dtype]

    def _mean_in(self, dtype: torch.dtype) -> MeanLoss:
        rows = Split(_as_floats(self._rows.inputs, dtype), _as_floats(self._rows.targets, dtype))
        if self._layer is not None:
            return SoftmaxRegression(rows, self._layer.out_features, self._layer.bias is not None, self._block_rows)
        return DifferentiatedLoss(copy.deepcopy(self._model).to(dtype), rows, self._loss, self._block_rows)

    def _check_vector(self, name: str, vector: Tensor, dtype: torch.dtype) -> None:
        expected = ((self.size,), dtype, self._rows.inputs.device)
        found = (tuple(vector.shape), vector.dtype, vector.device)
        if found != expected:
            raise ValueError(f"{name}: shape, dtype and device are {found}; expected {expected}")


def _as_floats(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, but whole numbers (classes, tokens) as they are."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def dot(a: Tensor, b: Tensor) -> float:
    """<a, b>, summed in float64."""
    return float(torch.dot(a.double(), b.double()))


def _check(model: nn.Module, data: Split, l2: float, loss: LossFunction, block_rows: int) -> None:
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model: has no trainable parameters")
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ValueError(
                f"model: {name or type(module).__name__} normalises by the batch at hand, so that the loss is no sum "
                "over rows; accepted: batch norm with track_running_stats=True, group or layer norm"
            )
    if len(data.inputs) != len(data.targets) or len(data.targets) == 0:
        raise ValueError(f"data: {len(data.inputs)} inputs and {len(data.targets)} targets; expected as many, >= 1")
    if loss is functional.cross_entropy and not data.targets.is_floating_point() and int(data.targets.min()) < 0:
        raise ValueError(f"data: found class {int(data.targets.min())}; accepted: classes >= 0")
    if not (l2 >= 0 and math.isfinite(l2)):
        raise ValueError(f"l2 = {l2!r} must be finite and >= 0")
    if isinstance(block_rows, bool) or not isinstance(block_rows, int) or block_rows < 1:
        raise ValueError(f"block_rows = {block_rows!r} must be a whole number >= 1")
