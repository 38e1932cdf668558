"""The mean loss of any model over a device's rows, and its derivatives by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clients.data import Split


class DifferentiatedLoss:
    r"""Mean loss :math:`\frac1s \sum_r \ell(h(w; x_r), y_r)`, its gradient and Hessian products.

    Rows pass in blocks and in order; each block's mean weighs as much as it has rows. A product is the derivative of
    :math:`\langle \nabla f(w), v \rangle` (double backward). All products at one w share the graph of the gradient,
    which is kept if the rows make one block: a product then costs about as much as a gradient. With several blocks
    each product makes each block's graph anew, at about twice that, so that memory stays bounded.

    Memory: a gradient holds the activations of `block_rows` rows; a Hessian operator, for as long as it lives, about
    three times these, or between its products nothing if the rows make several blocks.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode, in the dtype and on the device of the computation.
    rows : Split
        The s rows.
    loss : callable
        (outputs, targets) to the mean over their rows.
    block_rows : int
        Rows in a block.
    """

    def __init__(
        self, model: nn.Module, rows: Split, loss: Callable[[Tensor, Tensor], Tensor], block_rows: int
    ) -> None:
        self.model, self.rows, self.loss, self.block_rows = model, rows, loss, block_rows
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shapes = {name: p.shape for name, p in trainable.items()}
        self.sizes = [p.numel() for p in trainable.values()]

    def value(self, w: Tensor) -> float:
        """The mean loss at w."""
        with torch.no_grad():
            return float(self._sum(self._loss_of(block, w).double() for block in self._blocks()))

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """The mean loss at w and its gradient."""
        total, gradient = torch.zeros((), dtype=torch.float64, device=w.device), torch.zeros_like(w)
        for block in self._blocks():
            point = w.detach().requires_grad_()
            with torch.enable_grad():
                loss = self._loss_of(block, point)
            gradient += torch.autograd.grad(loss, point)[0]
            total += loss.detach()
        return float(total), gradient

    def hessian(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        """The operator v -> H(w) v."""
        blocks = list(self._blocks())
        if len(blocks) == 1:
            return self._hessian_of(blocks[0], w)
        w = w.clone()
        return lambda v: self._sum(self._hessian_of(block, w)(v) for block in blocks)

    def along(self, w: Tensor, p: Tensor, steps: Tensor, gradients: bool) -> tuple[Tensor, Tensor | None]:
        """Values and, if wanted, gradients at w + step p; one point after the other."""
        values, slopes = torch.empty_like(steps), w.new_empty((len(steps), len(w))) if gradients else None
        for k, step in enumerate(steps.tolist()):
            point = torch.add(w, p, alpha=step)
            if slopes is None:
                values[k] = self.value(point)
            else:
                values[k], slopes[k] = self.value_and_gradient(point)
        return values, slopes

    def _hessian_of(self, block: Split, w: Tensor) -> Callable[[Tensor], Tensor]:
        point = w.detach().clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._loss_of(block, point), point, create_graph=True)
        if not gradient.requires_grad:  # a loss that is linear in w
            return torch.zeros_like
        return lambda v: torch.autograd.grad(gradient, point, v, retain_graph=True, materialize_grads=True)[0]

    def _loss_of(self, block: Split, w: Tensor) -> Tensor:
        """The block's part of the mean loss."""
        named = zip(self.shapes.items(), torch.split_with_sizes(w, self.sizes), strict=True)
        parameters = {name: flat.view(shape) for (name, shape), flat in named}
        loss = self.loss(functional_call(self.model, parameters, (block.inputs,)), block.targets)
        if loss.dim() != 0:
            raise ValueError(f"loss: returned shape {tuple(loss.shape)}; expected the mean over rows, of shape ()")
        return loss * (len(block) / len(self.rows))

    def _blocks(self) -> Iterator[Split]:
        for first in range(0, len(self.rows), self.block_rows):
            block = slice(first, first + self.block_rows)
            yield Split(self.rows.inputs[block], self.rows.targets[block])

    @staticmethod
    def _sum(parts: Iterator[Tensor]) -> Tensor:
        """In order, holding one part at a time."""
        total = next(parts).clone()
        for part in parts:
            total += part
        return total
