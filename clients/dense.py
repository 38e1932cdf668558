"""Gradient steps of fully connected networks, written out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class DenseNetwork:
    r"""A chain of linear layers with ReLU between them, under cross-entropy.

    On the small batches of a device, automatic differentiation spends more time on its books than on arithmetic, and
    a gradient that is stored only to be subtracted costs memory traffic. Here the step is written out: with
    :math:`z_l = W_l a_{l-1} + b_l`, :math:`a_l = \max(z_l, 0)` and :math:`g_L = (\mathrm{softmax}(z_L) - y)/n`,

    .. math:: g_{l-1} = (W_l^T g_l) \odot [a_{l-1} > 0], \qquad
              W_l \leftarrow (1 - \eta\lambda) W_l - \eta\, g_l a_{l-1}^T,

    and each product goes straight into the weights. Equal to automatic differentiation to rounding.

    Parameters
    ----------
    weights : tuple of Tensor
        W_l of shape (outputs, inputs), first to last; updated in place.
    biases : tuple of Tensor or None
        b_l of shape (outputs,).
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, model: nn.Module) -> DenseNetwork | None:
        """The network in `model`, or None if it is anything but (flatten,) linear, ReLU, linear, …, linear."""
        if type(model) is not nn.Sequential or len(model) == 0:
            return None
        parts = list(model)
        if type(parts[0]) is nn.Flatten:
            parts = parts[1:]
        expected = [nn.Linear if i % 2 == 0 else nn.ReLU for i in range(len(parts))]
        if len(parts) % 2 == 0 or [type(part) for part in parts] != expected:
            return None
        layers = [part for part in parts if isinstance(part, nn.Linear)]
        if not all(p.requires_grad for p in model.parameters()):
            return None
        biases = (None if layer.bias is None else layer.bias.detach() for layer in layers)
        return cls(tuple(layer.weight.detach() for layer in layers), tuple(biases))

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor, learning_rate: float, l2: float = 0.0) -> Tensor:
        """One step of gradient descent on a batch.

        Parameters
        ----------
        inputs : Tensor of shape (n, ...)
            Flattened to (n, features).
        targets : Tensor of shape (n,)
            Classes.
        learning_rate, l2 : float
            Step size eta and weight lambda of the L2 term.

        Returns
        -------
        Tensor of shape ()
            Mean cross-entropy before the step.
        """
        examples = len(inputs)
        activations = [inputs if inputs.dim() == 2 else inputs.flatten(1)]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            activations.append(functional.linear(activations[-1], weight, bias).relu_())
        scores = functional.linear(activations[-1], self.weights[-1], self.biases[-1]).log_softmax(dim=1)
        loss = functional.nll_loss(scores, targets)
        # n times the gradient with respect to the last layer's output; the 1/n is in the step size.
        gradient = scores.exp_().sub_(_rows_of_identity(scores)[targets])
        keep, size = 1.0 - learning_rate * l2, -learning_rate / examples
        ones = _ones(gradient)
        for index in range(len(self.weights) - 1, -1, -1):
            weight, bias, activation = self.weights[index], self.biases[index], activations[index]
            below = torch.mm(gradient, weight).mul_(activation.sign()) if index else gradient
            turned = gradient.t()
            weight.addmm_(turned, activation, beta=keep, alpha=size)
            if bias is not None:
                bias.addmv_(turned, ones, beta=keep, alpha=size)
            gradient = below
        return loss


@lru_cache(maxsize=16)
def _identity(classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.eye(classes, dtype=dtype, device=device)


def _rows_of_identity(scores: Tensor) -> Tensor:
    return _identity(scores.shape[1], scores.dtype, scores.device)


@lru_cache(maxsize=64)
def _ones_of(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(count, dtype=dtype, device=device)


def _ones(gradient: Tensor) -> Tensor:
    return _ones_of(gradient.shape[0], gradient.dtype, gradient.device)
