"""Gradient descent on softmax regression whose mean gradient comes over an uplink: the loop of the reproductions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.uplinks import MeanUplink
from clients.data import Split, load

DEFAULT_MOMENTUM = 0.9

Real = NDArray[np.float64]
Exchange = Callable[[Tensor, Real, int], Tensor | None]
"""What the server hears of the updates (K, d), weights (K,) and the number of the round, from 1; None: nothing."""


class Task:
    """Digits dealt out to devices, and a linear classifier with biases that starts at zero.

    Parameters
    ----------
    devices, partition, seed
        As :func:`clients.data.load`; ``"shards"`` deals two to each.
    held_out : {"test", "validation"}
        Where accuracies are taken: on the test rows, or on a fifth of the training rows, not trained on then.
    source : str
        Name of the data.
    """

    def __init__(
        self, devices: int, partition: str, seed: int, held_out: str = "test", source: str = "mnist-5k"
    ) -> None:
        data = load(
            source, devices=devices, partition=partition, shards=2 if partition == "shards" else None,
            validation_fraction=0.2 if held_out == "validation" else 0.0, seed=seed,
        ).grouped()  # fmt: skip
        assert data.offsets is not None
        self.offsets = data.offsets
        self.inputs, self.targets = _with_ones(data.train), data.train.targets
        self.weights: Real = np.diff(data.offsets) / len(data.train)
        judged = data.test if held_out == "test" else data.validation
        self.judged = _with_ones(judged), judged.targets
        self.shape = (data.num_classes, self.inputs.shape[1])

    def gradients(self, w: Tensor) -> Tensor:
        """Each device's full gradient, shape (K, d): the weights' row by row, then the biases'."""
        residuals = (self.inputs @ w.T).softmax(dim=1)
        residuals[torch.arange(len(self.targets)), self.targets] -= 1.0
        found = torch.stack([residuals[a:b].T @ self.inputs[a:b] / (b - a) for a, b in pairwise(self.offsets)])
        return torch.cat([found[:, :, :-1].flatten(1), found[:, :, -1]], dim=1)

    def accuracy(self, w: Tensor) -> float:
        """On the rows held out."""
        inputs, targets = self.judged
        return float(((inputs @ w.T).argmax(dim=1) == targets).double().mean())


def train(task: Task, exchange: Exchange, rate: float, rounds: int, momentum: float = DEFAULT_MOMENTUM) -> float:
    r"""Accuracy after so many rounds of :math:`v \leftarrow \mu v + \hat{\bar x}, w \leftarrow w + v`.

    The devices' updates are :math:`x_i = -\text{rate}\, \nabla f_i(w)`. Where nobody is heard, a round
    changes nothing.
    """
    w = torch.zeros(task.shape)
    v = torch.zeros_like(w)
    for number in range(1, rounds + 1):
        heard = exchange(-rate * task.gradients(w), task.weights, number)
        if heard is None:
            continue
        heard = heard.to(w.dtype)
        step = torch.cat([heard[: -len(w)].reshape(len(w), -1), heard[-len(w) :, None]], dim=1)
        v = momentum * v + step
        w = w + v
    return task.accuracy(w)


class OverTheAir:
    """Updates over an uplink that the server hears the mean of; what a code leaves out devices add to the next.

    Parameters
    ----------
    uplink : MeanUplink
        Of the library.
    seed : int
        Of fading, noise and codes.

    Attributes
    ----------
    records : list of dict
        What the uplink says of each round.
    relative_errors : list of float
        Squared error of the received mean over the mean's energy, of each round in which somebody was heard.
    """

    def __init__(self, uplink: MeanUplink, seed: int) -> None:
        self.uplink, self.seed = uplink, seed
        self.left: Tensor | None = None
        self.records: list[dict[str, Any]] = []
        self.relative_errors: list[float] = []

    def __call__(self, updates: Tensor, weights: Real, number: int) -> Tensor | None:
        order = self.uplink.order(number, self.seed)
        code = order.build_code()
        if code.error_feedback:
            updates = updates if self.left is None else updates + self.left
            self.left = code.residual(updates, order.seed)
        reception = self.uplink.receive(_Updates(updates, weights, code, order.seed), number, self.seed)
        self.records.append(reception.record)
        if reception.update is not None:
            mean = torch.from_numpy(weights) @ updates.double()
            self.relative_errors.append(float((reception.update - mean).square().sum() / mean.square().sum()))
        return reception.update


class _Updates:
    """All devices' updates as a cohort of an uplink."""

    def __init__(self, updates: Tensor, weights: Real, code: Code, seed: int) -> None:
        self._updates = updates
        self._code, self._seed = code, seed
        self.devices = np.arange(len(updates))
        self.weights = weights
        self.norms = torch.linalg.vector_norm(code.sent(updates), dim=1, dtype=torch.float64).numpy()
        self.size, self.total = updates.shape[1], len(updates)

    def updates(self, gains: Real) -> Tensor:
        return torch.from_numpy(gains) @ self._updates.double()

    def signals(self, gains: Real) -> Tensor:
        return torch.from_numpy(gains) @ self._code.encode(self._updates, self._seed).double()

    def symbols(self, code: Code, seed: int) -> Tensor:
        scale = np.sqrt(code.uses(self.size) / code.expected_energy_ratio(self.size)) / self.norms
        return code.encode(self._updates, seed) * torch.from_numpy(scale)[:, None]


def _with_ones(split: Split) -> Tensor:
    flat = split.inputs.flatten(1)
    return torch.cat([flat, torch.ones(len(flat), 1)], dim=1)
