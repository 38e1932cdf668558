"""Softmax regressions trained side by side, each over an uplink of its own, as `fedmac run` would one after the other.

The devices' gradients of all models are one product of matrices, which takes a fifth of the time. Uplinks, their plans
and their random draws are those of `fedmac run`, and so are the figures, to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from channel.codes import Code
from channel.uplinks import MeanUplink, symbol_scale
from clients.data import Split
from fedmac.build import build_uplink
from fedmac.build_devices import build_data
from fedmac.scenario import Scenario


@dataclass
class Senders:
    """What all devices send of one model; implements :class:`channel.uplinks.Cohort`."""

    rows: Tensor
    size: int
    total: int

    def __post_init__(self) -> None:
        self.devices = np.arange(self.total)
        self.weights = np.full(self.total, 1.0 / self.total)
        self.norms: NDArray[np.float64] = self.rows.norm(dim=1).double().numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor:
        """Sums of updates."""
        return torch.from_numpy(gains) @ self.rows.double()

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        """Sums of coded updates: those of a linear code are the code of the sums, so that nobody asks for them here."""
        raise AssertionError("plain updates are at hand, and the code is linear")

    def symbols(self, code: Code, seed: int) -> Tensor:
        """Each device's."""
        return code.encode(self.rows, seed) * (symbol_scale(code, self.size) / self.rows.norm(dim=1, keepdim=True))


class Models:
    """Softmax regressions of the same devices' data, trained side by side, each over an uplink of its own.

    Parameters
    ----------
    scenarios : list of Scenario
        One for each model; they may differ in all but data and model.
    seed : int
        Hands out the rows, and is that of the uplinks.
    """

    def __init__(self, scenarios: list[Scenario], seed: int) -> None:
        self.scenarios, self.seed = scenarios, seed
        self.data = build_data(scenarios[0], seed)
        parts = [self.data.device(device) for device in range(len(self.data.parts))]
        self.inputs = torch.stack([with_ones(part) for part in parts])
        self.targets = torch.stack([part.targets for part in parts])
        self.features, self.classes, count = self.inputs.shape[2], self.data.num_classes, len(scenarios)
        self.wanted = one_hot(self.targets, self.classes)[:, :, None, :].float()
        self.weights = torch.zeros(self.features, count, self.classes)
        self.velocity = torch.zeros(self.features, count, self.classes)
        arrays = self.classes * (self.features - 1), self.classes
        self.uplinks = [build_uplink(one, seed, arrays) for one in scenarios]
        self.uses, self.energy = np.zeros(count), np.zeros((count, len(parts)))
        self.gradient_norms: list[float] = []
        self.energies: list[float] = []

    def train(self) -> pd.DataFrame:
        """All rounds; a row of figures for each model."""
        for round in range(1, self.scenarios[0].rounds + 1):
            gradients = self._gradients()
            self._note(gradients[:, 0].flatten(1))
            for place, (scenario, uplink) in enumerate(zip(self.scenarios, self.uplinks, strict=True)):
                self._step(place, scenario, uplink, gradients[:, place], round)
        held_out = {"validation_accuracy": self.data.validation, "test_accuracy": self.data.test}
        figures: dict[str, Any] = {name: self._accuracies(split) for name, split in held_out.items()}
        figures |= {"objective": self._objectives(), "uses": self.uses, "energy": self.energy.max(axis=1)}
        rates = [scenario.training.learning_rate for scenario in self.scenarios]
        return pd.DataFrame({"seed": self.seed, "rate": rates} | figures)

    def pilot(self) -> dict[str, list[float]]:
        """Norms of the first model's rounds: of the mean gradient, and the largest w_i^2 ||x_i||^2 of a device.

        A device takes one step, so that updates are in the ratios of gradients. What fades says nothing of another run.
        """
        return {"mean_norms": self.gradient_norms, "largest_energies": self.energies}

    def _gradients(self) -> Tensor:
        """Of every device and model, in the order of a model's state: weights by class, then biases; (K, J, d)."""
        scores = (self.inputs @ self.weights.flatten(1)).unflatten(2, (-1, self.classes))
        excess = (torch.softmax(scores, dim=3) - self.wanted).flatten(2)
        slopes = (self.inputs.mT @ excess / self.inputs.shape[1]).unflatten(2, (-1, self.classes))
        by_class = slopes.permute(0, 2, 3, 1)
        return torch.cat([by_class[..., :-1].flatten(2), by_class[..., -1]], dim=2)

    def _note(self, gradients: Tensor) -> None:
        self.gradient_norms.append(float(gradients.mean(dim=0).norm()))
        self.energies.append(float(gradients.square().sum(dim=1).max()) / len(gradients) ** 2)

    def _step(self, place: int, scenario: Scenario, uplink: MeanUplink, gradients: Tensor, round: int) -> None:
        training, momentum = scenario.training, float(scenario.strategy.parameters["server_momentum"])
        assert training.learning_rate is not None
        rise = min(1.0, round / training.warm_up) if training.warm_up else 1.0
        sent = Senders(-training.learning_rate * rise * gradients, gradients.shape[1], len(gradients))
        reception = uplink.receive(sent, round, self.seed)
        self.uses[place] += reception.cost.uses
        self.energy[place] += reception.cost.energy
        if reception.update is not None:
            update = reception.update.float()
            by_class = update[: -self.classes].view(self.classes, -1)
            step = torch.cat([by_class.T, update[None, -self.classes :]])
            self.velocity[:, place] = momentum * self.velocity[:, place] + step
            self.weights[:, place] += self.velocity[:, place]

    def _objectives(self) -> list[float]:
        scores = (self.inputs @ self.weights.flatten(1)).unflatten(2, (-1, self.classes)).flatten(0, 1)
        return [float(cross_entropy(scores[:, j], self.targets.flatten())) for j in range(scores.shape[1])]

    def _accuracies(self, split: Split) -> list[float]:
        scores = (with_ones(split) @ self.weights.flatten(1)).unflatten(1, (-1, self.classes))
        right = scores.argmax(dim=2) == split.targets[:, None]
        return right.double().mean(dim=0).tolist()


def with_ones(split: Split) -> Tensor:
    """Its inputs, flattened, and a one for the bias."""
    flat = split.inputs.flatten(1)
    return torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
