"""The trained models that `repurpose.py` restructures: quick to train, the same for the same seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from channel.randomness import torch_generator
from clients.models import build
from clients.sources import read

REFERENCE_ACCURACY = 0.9892
"""Of 784-256-128-10 on its own 5,000 training rows."""


def digits() -> tuple[Tensor, Tensor]:
    """All rows of mnist-5k: inputs (5000, 784) and targets (5000,)."""
    rows = read("mnist-5k")
    inputs = torch.tensor(rows.inputs, dtype=torch.float32).reshape(len(rows.targets), -1) / rows.scale
    return inputs, torch.tensor(rows.targets)


def reference_mlp(inputs: Tensor, targets: Tensor, seed: int, *, epochs: int = 40) -> nn.Module:
    """784-256-128-10, trained by Adam (1e-3, batches of 100) until it has the reference's accuracy on its rows.

    From the eighth epoch on it is looked at every five steps, and left as it is when it gets there: after some ten
    epochs, six seconds of one core.
    """
    model = build("mlp", (784,), 10, seed=seed, hidden=[256, 128])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for number, rows in enumerate(_batches(len(inputs), seed, epoch)):
            _step(model, optimiser, inputs[rows], targets[rows])
            if epoch > 6 and number % 5 == 4 and accuracy(model, inputs, targets) >= REFERENCE_ACCURACY:
                return model
    raise RuntimeError(f"seed {seed}: accuracy {accuracy(model, inputs, targets):.4f} after {epochs} epochs")


def reference_mlp_by_descent(inputs: Tensor, targets: Tensor, seed: int, *, epochs: int = 80) -> nn.Module:
    """784-256-128-10 trained by plain gradient descent (0.1, batches of 100) to the reference accuracy.

    Its weights stay smaller than Adam's.
    """
    model = build("mlp", (784,), 10, seed=seed, hidden=[256, 128])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for rows in _batches(len(inputs), seed, epoch):
            _step(model, optimiser, inputs[rows], targets[rows])
        if accuracy(model, inputs, targets) >= REFERENCE_ACCURACY:
            return model
    raise RuntimeError(f"seed {seed}: accuracy {accuracy(model, inputs, targets):.4f} after {epochs} epochs")


def trained(name: str, inputs: Tensor, targets: Tensor, seed: int, epochs: int, **parameters: Any) -> nn.Module:
    """A model by name, trained by Adam (1e-3, batches of 100) for a number of epochs."""
    model = build(name, (784,), 10, seed=seed, **parameters)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        for rows in _batches(len(inputs), seed, epoch):
            _step(model, optimiser, inputs[rows], targets[rows])
    return model


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Share of inputs whose largest output is their target."""
    with torch.no_grad():
        return float((model(inputs).argmax(1) == targets).float().mean())


def _batches(rows: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    return torch.split(torch.randperm(rows, generator=torch_generator(seed, "batches", epoch)), 100)


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    optimiser.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()
    optimiser.step()
