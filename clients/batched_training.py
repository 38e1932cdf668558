"""Several devices' local steps at once, as one computation: what makes a GPU worth while for small models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clients.batch_order import local_steps
from clients.batched_dense import batched_dense_step
from clients.data import Split
from clients.steps_together import steps_together
from clients.training import Trainer, Training

BatchedStep = Callable[[list[Tensor], list[Tensor], Tensor, Tensor], Tensor]
"""Takes a step with the parameters (g, ...) of g devices, their velocities and their batches (inputs (g, n, ...) and
targets (g, n, ...)), in place; returns the mean losses before it, (g,)."""

COPIES = 5
"""Vectors of the model's size that a device of a batch takes at most, beside activations: parameters, velocities, both
once more for those that step together where numbers of examples differ, and the gradient."""


class CannotBatch(ValueError):
    """Devices with this model, or with this precision, have to be trained one after the other."""


@dataclass
class _Stacks:
    """What each device of a batch has of its own, one tensor (n, ...) for each of the model's."""

    parameters: list[Tensor]
    velocities: list[Tensor] = field(default_factory=list)

    def of(self, devices: Tensor) -> _Stacks:
        """Copies of what some devices have."""
        return _Stacks([p[devices] for p in self.parameters], [v[devices] for v in self.velocities])

    def put(self, devices: Tensor, theirs: _Stacks) -> None:
        """Write such copies back."""
        pairs = zip(self.parameters + self.velocities, theirs.parameters + theirs.velocities, strict=True)
        for mine, changed in pairs:
            mine.index_copy_(0, devices, changed)


class BatchedTrainer:
    r"""Trains several devices at once; each gets the update that :class:`clients.training.Trainer` gives it alone.

    The devices' parameters lie in tensors with one more dimension, :math:`W` of shape (g, outputs, inputs). Fully
    connected networks under plain steps are written out (:func:`clients.batched_dense.batched_dense_step`); of others
    the losses :math:`f_1(w_1), \dots, f_g(w_g)` are computed by ``torch.vmap``, and as :math:`f_i` depends on
    :math:`w_i` alone, the gradient of their sum is that of each. Devices may have different numbers of examples and
    steps (:func:`clients.steps_together.steps_together`). Equal to training one by one to rounding: products over a
    batch may add up in another order.

    On the compute device there are, for n devices and a model of d numbers, the devices' examples, the activations of
    n mini-batches, and at most about :data:`COPIES` · n · d numbers.

    Parameters
    ----------
    trainer : Trainer
        Whose model, loss and compute device are used.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.trainable = [(name, p) for name, p in trainer.model.named_parameters() if p.requires_grad]

    def train(
        self,
        received: Tensor,
        splits: Sequence[Split],
        training: Training,
        *,
        seed: int,
        round: int,
        devices: Sequence[int],
    ) -> tuple[Tensor, list[float]]:
        """The devices' work of one round.

        Parameters
        ----------
        received : Tensor of shape (d,)
            The received model, the same for all.
        splits : sequence of Split
            The n devices' examples.
        training : Training
            Steps to take.
        seed, round : int
        devices : sequence of int
            Name, with seed and round, the order of each device's mini-batches.

        Returns
        -------
        states : Tensor of shape (n, d)
            The trained models, on the CPU.
        losses : list of float
            Of each device the mean loss over the examples visited, each before its step.

        Raises
        ------
        CannotBatch
            If the model has buffers (running statistics), or training is in mixed precision.
        ValueError
            If a device has no examples.
        RuntimeError
            If ``torch.vmap`` cannot batch the model: it draws at random (dropout), or depends on its data in a way that
            differs from device to device; or memory does not suffice.
        """
        self._check(splits, devices)
        trainer, there = self.trainer, self.trainer.device
        trainer.state.copy_(received)  # parameters that are not trained are read where they are
        trainer.model.train()
        inputs = torch.cat([split.inputs for split in splits]).to(there)
        targets = torch.cat([split.targets for split in splits]).to(there)
        counts = torch.tensor([len(split) for split in splits])
        firsts = counts.cumsum(0) - counts
        stacks = self._stacks(len(splits), training)
        take_step = self._written_out(training) or self._differentiated(training)
        sums = torch.zeros(len(splits), dtype=torch.float64, device=there)
        visited = torch.zeros(len(splits), dtype=torch.float64)
        of_each = [
            local_steps(len(split), training, seed=seed, round=round, device=device)
            for split, device in zip(splits, devices, strict=True)
        ]
        for step in steps_together(of_each):
            members = torch.tensor(step.devices)
            rows, place = (step.rows + firsts[members, None]).to(there), members.to(there)
            everyone = len(members) == len(splits)
            theirs = stacks if everyone else stacks.of(place)
            losses = take_step(theirs.parameters, theirs.velocities, inputs[rows], targets[rows])
            if not everyone:
                stacks.put(place, theirs)
            sums.index_add_(0, place, losses.double(), alpha=rows.shape[1])
            visited[members] += rows.shape[1]
        return self._states(stacks, len(splits)), (sums.cpu() / visited).tolist()

    def _check(self, splits: Sequence[Split], devices: Sequence[int]) -> None:
        if self.trainer.autocast is not None:
            raise CannotBatch(f"autocast = {self.trainer.autocast}: mixed precision is for one device at a time")
        if (buffer := next(iter(self.trainer.model.named_buffers()), None)) is not None:
            raise CannotBatch(f"model: its buffer {buffer[0]!r} may change as it trains, and there is one for all")
        for split, device in zip(splits, devices, strict=True):
            if len(split) == 0:
                raise ValueError(f"device = {device}: no examples; accepted: at least one")

    def _stacks(self, count: int, training: Training) -> _Stacks:
        parameters = [p.detach().expand(count, *p.shape).clone() for _, p in self.trainable]
        # A velocity of zero makes the first step the gradient itself.
        return _Stacks(parameters, [torch.zeros_like(p) for p in parameters] if training.momentum else [])

    def _states(self, stacks: _Stacks, count: int) -> Tensor:
        trained = {name: stack for (name, _), stack in zip(self.trainable, stacks.parameters, strict=True)}
        # Without buffers the flat state is the parameters in their order.
        parts = [
            trained[name].reshape(count, -1) if name in trained else p.detach().reshape(1, -1).expand(count, -1)
            for name, p in self.trainer.model.named_parameters()
        ]
        return torch.cat(parts, dim=1).cpu()

    def _written_out(self, training: Training) -> BatchedStep | None:
        network = self.trainer.dense
        if network is None or training.momentum or training.proximal_mu:
            return None
        with_bias = [bias is not None for bias in network.biases]

        def take_step(parameters: list[Tensor], velocities: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            own = iter(parameters)
            layers = [(next(own), next(own) if has_bias else None) for has_bias in with_bias]
            weights, biases = zip(*layers, strict=True)
            return batched_dense_step(weights, biases, x, y, training.learning_rate, training.l2)

        return take_step

    def _differentiated(self, training: Training) -> BatchedStep:
        losses_of = torch.vmap(self._loss_of)
        anchors = [p.detach().clone() for _, p in self.trainable] if training.proximal_mu else []

        def take_step(parameters: list[Tensor], velocities: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
            leaves = [p.detach().requires_grad_() for p in parameters]
            losses = losses_of(leaves, x, y)
            step = list(torch.autograd.grad(losses.sum(), leaves))
            with torch.no_grad():
                if training.l2:
                    torch._foreach_add_(step, parameters, alpha=training.l2)
                if anchors:  # one after the other: all differences at once would be one more copy of the model
                    for change, p, anchor in zip(step, parameters, anchors, strict=True):
                        change.add_(p - anchor, alpha=training.proximal_mu)
                if velocities:
                    torch._foreach_mul_(velocities, training.momentum)
                    torch._foreach_add_(velocities, step)
                torch._foreach_add_(parameters, velocities or step, alpha=-training.learning_rate)
            return losses.detach()

        return take_step

    def _loss_of(self, parameters: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of one device on its batch."""
        named = {name: p for (name, _), p in zip(self.trainable, parameters, strict=True)}
        outputs = torch.func.functional_call(self.trainer.model, named, (inputs,))
        return self.trainer.loss.mean(outputs, targets)


def largest_batch(size: int, itemsize: int, memory: int, most: int) -> int:
    """How many devices have their :data:`COPIES` of `size` numbers in `memory` bytes: at least 1, at most `most`."""
    return max(1, min(most, memory // max(1, COPIES * size * itemsize)))
