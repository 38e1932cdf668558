"""How many floating-point operations a device's work of a round is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clients.training import Training

COUNTED = 2
"""Examples in the batch that is counted: layers that normalise over a batch refuse one alone."""


def flops_per_example(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """FLOPs of a gradient on one example: forward and backward, by PyTorch's own counter.

    Matrix products and convolutions are counted, which is all that matters in a network; the elementwise rest and the
    step itself are not.

    Parameters
    ----------
    model : nn.Module
        Its parameters and buffers stay as they are.
    inputs, targets : Tensor of shape (n, ...)
        Examples, n >= 1; those at the beginning are used.
    loss : callable
        Mean loss of (outputs, targets).

    Returns
    -------
    float
        Of one example, on average over the batch counted.

    Raises
    ------
    ValueError
        If there are no examples.
    """
    if not len(targets):
        raise ValueError("flops_per_example: no examples; accepted: at least one")
    rows = torch.arange(COUNTED) % len(targets)
    x, y = inputs[rows], targets[rows]
    parameters = [p for p in model.parameters() if p.requires_grad]
    buffers = [(b, b.clone()) for b in model.buffers()]
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter:
            torch.autograd.grad(loss(model(x), y), parameters)
    finally:
        model.train(was_training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return float(counter.get_total_flops()) / COUNTED


def examples_visited(training: Training, examples: int) -> int:
    """How many examples a device that holds `examples` works through in one message's training."""
    if training.full_batch:
        return training.local_steps * examples
    if training.local_batches is None or examples == 0:
        return training.local_epochs * examples
    a_pass = math.ceil(examples / training.batch_size)
    passes, left = divmod(training.local_batches, a_pass)
    return passes * examples + min(examples, left * training.batch_size)
