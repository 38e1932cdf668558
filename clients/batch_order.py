"""The order in which a device takes its examples: the mini-batches of its local steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from channel.randomness import torch_generator

if TYPE_CHECKING:
    from clients.training import Training


@dataclass(frozen=True)
class LocalStep:
    """The examples of one of a device's steps.

    Parameters
    ----------
    epoch : int
        Pass over the device's examples that the step is of, from 0; of full-batch steps each is one.
    rows : Tensor of shape (b,)
        Numbers of the examples among the device's own, int64.
    """

    epoch: int
    rows: Tensor


def batches(
    inputs: Tensor, targets: Tensor, training: Training, *, seed: int, round: int, device: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of each step, in an order that (seed, round, device) names."""
    if training.full_batch:
        for _ in range(training.local_steps):
            yield inputs, targets
        return
    yield from itertools.islice(_shuffled(inputs, targets, training, seed, round, device), training.local_batches)


def local_steps(count: int, training: Training, *, seed: int, round: int, device: int) -> list[LocalStep]:
    """The rows of each step of a device with `count` examples: the same, in the same order, as :func:`batches`."""
    if training.full_batch:
        return [LocalStep(step, torch.arange(count)) for step in range(training.local_steps)]
    steps = (
        LocalStep(epoch, rows)
        for epoch, order in enumerate(_orders(count, training, seed, round, device))
        for rows in torch.split(order, training.batch_size)
        if len(rows)  # splitting nothing gives one empty part
    )
    return list(itertools.islice(steps, training.local_batches))


def _shuffled(
    inputs: Tensor, targets: Tensor, training: Training, seed: int, round: int, device: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for order in _orders(len(targets), training, seed, round, device):
        rows = order.to(inputs.device)
        shuffled, labels = inputs[rows], targets[rows]
        for first in range(0, len(rows), training.batch_size):
            batch = slice(first, first + training.batch_size)
            yield shuffled[batch], labels[batch]


def _orders(count: int, training: Training, seed: int, round: int, device: int) -> Iterator[Tensor]:
    """A permutation of the rows for each epoch; without end where a number of batches ends it."""
    generator = torch_generator(seed, "batches", round, device)
    by_epochs = training.local_batches is None or count == 0
    for _ in range(training.local_epochs) if by_epochs else itertools.count():
        yield torch.randperm(count, generator=generator)
