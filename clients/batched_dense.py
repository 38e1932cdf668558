"""Gradient steps of several fully connected networks at once, written out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def batched_dense_step(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    inputs: Tensor,
    targets: Tensor,
    learning_rate: float,
    l2: float = 0.0,
) -> Tensor:
    r"""One step of gradient descent of g networks of one shape, each on a batch of its own.

    The step of :class:`clients.dense.DenseNetwork` with one more dimension: each product of matrices is a batch of g
    products, so that g devices cost as many kernels as one.

    Parameters
    ----------
    weights : sequence of Tensor
        :math:`W_l` of the g networks, shape (g, outputs, inputs), first layer to last; updated in place.
    biases : sequence of Tensor or None
        :math:`b_l`, shape (g, outputs), None for a layer without; updated in place.
    inputs : Tensor of shape (g, n, ...)
        Flattened to (g, n, features).
    targets : Tensor of shape (g, n)
        Classes.
    learning_rate, l2 : float
        Step size :math:`\eta` and weight :math:`\lambda` of the L2 term.

    Returns
    -------
    Tensor of shape (g,)
        Mean cross-entropy of each before the step.
    """
    activations = [inputs.flatten(2)]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        activations.append(_linear(activations[-1], weight, bias).relu_())
    scores = _linear(activations[-1], weights[-1], biases[-1]).log_softmax(dim=2)
    answers = targets.unsqueeze(2)
    losses = -scores.gather(2, answers).squeeze(2).mean(dim=1)
    # n times the gradient with respect to the last layer's output; the 1/n is in the step size.
    gradient = scores.exp_().scatter_add_(2, answers, scores.new_full((), -1.0).expand(answers.shape))
    keep, size = 1.0 - learning_rate * l2, -learning_rate / inputs.shape[1]
    for index in range(len(weights) - 1, -1, -1):
        weight, bias, activation = weights[index], biases[index], activations[index]
        below = torch.bmm(gradient, weight).mul_(activation.sign()) if index else gradient
        weight.baddbmm_(gradient.transpose(1, 2), activation, beta=keep, alpha=size)
        if bias is not None:
            bias.mul_(keep).add_(gradient.sum(dim=1), alpha=size)
        gradient = below
    return losses


def _linear(activation: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    turned = weight.transpose(1, 2)
    return torch.bmm(activation, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), activation, turned)
