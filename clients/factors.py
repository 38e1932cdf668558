"""The factors of dense layers' gradients: what goes into each layer, and the errors that come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


@dataclass(frozen=True)
class DenseFactors:
    """X and D of a layer with the weight gradient :math:`X^T D`, the transpose of that of ``nn.Linear.weight``.

    Attributes
    ----------
    inputs : Tensor of shape (B, n_in)
        X, what went into the layer. A layer that is called several times, or on sequences, has a row for each.
    errors : Tensor of shape (B, n_out)
        D, the derivatives of the loss by what came out; of a mean loss they have its 1/B. Their sum over the rows is
        the gradient of the bias.
    """

    inputs: Tensor
    errors: Tensor

    @property
    def gradient(self) -> Tensor:
        """:math:`X^T D`, shape (n_in, n_out)."""
        return self.inputs.T @ self.errors


def dense_factors(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, DenseFactors]:
    """X and D of every linear layer of a model, for one batch.

    One forward and one backward pass; gradients that the parameters hold are left as they are.

    Parameters
    ----------
    model : nn.Module
        Its ``nn.Linear`` modules are what counts. Convolutions are left to ordinary codecs.
    loss : callable
        Computes the loss of the batch by calling the model; returns a tensor of shape ().

    Returns
    -------
    dict of str to DenseFactors
        By the name of the module, in the model's order. Without layers whose weight is frozen, and those that `loss`
        does not call, or not for a gradient.

    Raises
    ------
    ValueError
        If the loss has another shape, or does not depend on any of the layers.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> factors = dense_factors(model, lambda: model(torch.ones(5, 4)).square().mean())
    >>> {name: (tuple(f.inputs.shape), tuple(f.errors.shape)) for name, f in factors.items()}
    {'0': ((5, 4), (5, 3)), '2': ((5, 3), (5, 2))}
    """
    calls: dict[str, list[_Call]] = {}
    hooks = [
        module.register_forward_hook(_recorder(calls.setdefault(name, [])), with_kwargs=True)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight.requires_grad
    ]
    try:
        with torch.enable_grad():
            value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    if value.dim() != 0:
        raise ValueError(f"loss: returned shape {tuple(value.shape)}; expected ()")
    made = [call for of_layer in calls.values() for call in of_layer]
    if not made or not value.requires_grad:
        raise ValueError("loss: depends on none of the model's linear layers; it has to call the model")
    errors = torch.autograd.grad(value, [call.output for call in made], allow_unused=True)
    rows = iter([call.errors(gradient) for call, gradient in zip(made, errors, strict=True)])
    return {
        name: DenseFactors(torch.cat([call.inputs for call in of_layer]), torch.cat([next(rows) for _ in of_layer]))
        for name, of_layer in calls.items()
        if of_layer
    }


@dataclass(frozen=True)
class _Call:
    """A call of a layer: its inputs, and where in the graph its output is, which a layer in place may overwrite."""

    inputs: Tensor
    output: GradientEdge
    outputs: int

    def errors(self, gradient: Tensor | None) -> Tensor:
        """Rows of D; zeros if the loss does not depend on the output."""
        return self.inputs.new_zeros(len(self.inputs), self.outputs) if gradient is None else _rows(gradient)


def _recorder(calls: list[_Call]) -> Callable[..., None]:
    def record(module: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> None:
        if output.requires_grad:
            inputs = arguments[0] if arguments else named["input"]
            calls.append(_Call(_rows(inputs), get_gradient_edge(output), output.shape[-1]))

    return record


def _rows(values: Tensor) -> Tensor:
    return values.detach().reshape(-1, values.shape[-1])
