"""A plan: who owns which unit, what is sent to whom, and with which weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strategies.repurpose.network import Network, Step, Weights
from strategies.repurpose.owners import Owners, at_home
from strategies.repurpose.ownership import Ownership, ownership

COLLECTOR = 0
"""The worker that gathers the outputs."""


@dataclass(frozen=True)
class LayerPlan:
    """A weighted step, split.

    Attributes
    ----------
    kept : Tensor
        Shape (rows, units of its input), bool: which units each row uses.
    sends : ndarray, shape (units, P), bool
        Which unit of its input is sent to whom for this layer; what arrived for an earlier one is not sent again.
    error : float
        Half the mean squared change of its outputs before the activation, by the calibration set.
    objectives : tuple of float
        Of sweep to sweep; they never rise.
    """

    kept: Tensor
    sends: NDArray[np.bool_]
    error: float
    objectives: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """A network split between P workers.

    Attributes
    ----------
    network : Network
        With the weights as restructured, 0 where a row does not use a unit; units in the model's own order.
    owners : tuple of ndarray
        For each of :class:`~strategies.repurpose.ownership.Ownership` the worker of each unit.
    layers : mapping of str to LayerPlan
        By the name of the weighted step.
    workers : int
        P.
    model_hash : str
        Of the model that was restructured; see :func:`strategies.repurpose.plan_file.hash_of_model`.
    """

    network: Network
    owners: tuple[Owners, ...]
    layers: Mapping[str, LayerPlan]
    workers: int
    model_hash: str

    @property
    def ownership(self) -> Ownership:
        """Which values share owners."""
        return ownership(self.network)

    def owner_before(self, step: Step) -> Owners:
        """Who owns the units that a step takes."""
        return self.owners[self.ownership.before(step)]

    def owner_after(self, step: Step) -> Owners:
        """Who owns the rows of a weighted step."""
        return self.owners[self.ownership.of_value[self.network.steps.index(step) + 1]]

    @property
    def permutations(self) -> tuple[NDArray[np.int64], ...]:
        """For each of the owners the order of units that puts each worker's together, its first units first."""
        return tuple(np.argsort(owners, kind="stable") for owners in self.owners)

    def restructured(self) -> Network:
        """The same function with the units of every layer permuted: weights become P x P blocks.

        Outputs come in the permuted order; :meth:`run` puts them back.
        """
        order, values = self.permutations, self.ownership.of_value
        found: dict[str, Weights] = {}
        steps = []
        for number, step in enumerate(self.network.steps, start=1):
            steps.append(step)
            if not step.weighted:
                continue
            rows, units = order[values[number]], order[values[step.sources[0]]]
            own = self.network.weights[step.name]
            matrix = own.weight.reshape(own.weight.shape[0], -1, self.network.columns(step))
            permuted = matrix[torch.from_numpy(rows)][:, torch.from_numpy(units)].reshape(own.weight.shape)
            found[step.name] = Weights(permuted, own.bias[torch.from_numpy(rows)])
        return Network(tuple(steps), found, self.network.input_shape)

    def run(self, inputs: Tensor) -> Tensor:
        """Outputs of the permuted network in the model's order, shape (N, outputs, ...)."""
        permuted = self.restructured().run(inputs)
        outputs = torch.empty_like(permuted)
        outputs[:, torch.from_numpy(self.permutations[self.ownership.of_value[-1]])] = permuted
        return outputs

    def replaced(self, **changes: object) -> Plan:
        """The same plan with some attributes exchanged."""
        return replace(self, **changes)  # type: ignore[arg-type]


def sends_of(
    kept: Tensor, before: Owners, after: Owners, workers: int, arrived: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which unit must be sent to whom so that every row has what it uses, shape (units, P).

    Parameters
    ----------
    kept : Tensor, shape (rows, units)
    before, after : ndarray
        Owners of units and of rows.
    workers : int
    arrived : ndarray, shape (units, P)
        What is there already.
    """
    at_hand = arrived | at_home(before, workers)
    used = np.stack([kept[torch.from_numpy(after == q)].any(dim=0).numpy() for q in range(workers)], axis=1)
    return np.asarray(used & ~at_hand)
