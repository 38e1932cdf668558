"""What devices compute in scenarios/scaling.py: the steps of `fedmac run`, to the bit, with little around them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from clients.batch_order import batches
from clients.parameters import model_arrays
from fedmac.build_devices import build_workplace
from fedmac.clock.build_clock import training_flops
from fedmac.scenario import Scenario
from strategies.peers.peer import Vector


class Learning:
    """Steps of SGD of any device, and the losses of a model.

    Parameters
    ----------
    scenario : Scenario
        With one mini-batch step a message, and a fully connected model.
    seed : int
        Of the run.

    Attributes
    ----------
    rate : float
        Learning rate of the steps.
    flops : callable
        FLOPs of a step of a device, by its number.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.work = build_workplace(scenario, seed)
        self.seed, self.rate = seed, self.work.training.learning_rate
        self.flops = training_flops(self.work)
        self.arrays = model_arrays(self.work.trainer.model)
        self.initial = np.concatenate([array.reshape(-1) for array in self.arrays.values()])
        self._drawn: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def step(self, device: int, step: int, x: Vector) -> Vector:
        """The model after the step of this number, from 1, of a device at x."""
        trainer = self.work.trainer
        assert trainer.dense is not None
        trainer.state.copy_(torch.from_numpy(x))
        trainer.dense.step(*self._batch(device, step), self.rate)
        return np.array(trainer.state.numpy())

    def mean_step(self, devices: int, step: int, x: Vector) -> Vector:
        """The mean of the models after that step of devices 0 to `devices` - 1, whose mini-batches are of one size."""
        trainer, drawn = self.work.trainer, [self._batch(device, step) for device in range(devices)]
        assert trainer.dense is not None
        trainer.state.copy_(torch.from_numpy(x))
        trainer.dense.step(torch.cat([rows for rows, _ in drawn]), torch.cat([to for _, to in drawn]), self.rate)
        return np.array(trainer.state.numpy())

    def _batch(self, device: int, step: int) -> tuple[Tensor, Tensor]:
        if (device, step) not in self._drawn:
            rows, named = self.work.data.device(device), {"seed": self.seed, "round": step, "device": device}
            self._drawn[device, step] = next(batches(rows.inputs, rows.targets, self.work.training, **named))
        return self._drawn[device, step]

    def loss(self, x: Vector, rows: str) -> float:
        """Mean loss on the validation or test rows; infinite where it is not a number."""
        found = self.work.trainer.evaluate(torch.from_numpy(x), getattr(self.work.data, rows)).loss
        return found if math.isfinite(found) else math.inf
