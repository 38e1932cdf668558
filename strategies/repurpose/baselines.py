"""What a plan is compared with: units dealt out in their order, with all, none, or the largest weights across.

None of them chooses owners or refits weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from strategies.repurpose.assignment import owners_in_order
from strategies.repurpose.calibration import Calibration
from strategies.repurpose.network import Network, Step, Weights
from strategies.repurpose.owners import Owners, at_home
from strategies.repurpose.ownership import ownership
from strategies.repurpose.places import places_of_layers
from strategies.repurpose.plan import LayerPlan, Plan, sends_of
from strategies.repurpose.workers import Worker

Choice = Callable[[Step, Owners, Owners], Tensor]
"""From a weighted step and the owners before and after it to the units kept, shape (rows, units)."""


def naive(calibration: Calibration, workers: int | Sequence[Worker]) -> Plan:
    """Every activation that another worker needs is sent; outputs are the model's."""
    return _in_order(calibration, workers, lambda step, _, __: _all(calibration.network, step))


def direct(calibration: Calibration, workers: int | Sequence[Worker], layers: Collection[str] | None = None) -> Plan:
    """Edges between workers are dropped, in these layers (default: in all that do not take the model's input)."""
    count = workers if isinstance(workers, int) else len(workers)

    def choose(step: Step, before: Owners, after: Owners) -> Tensor:
        if layers is not None and step.name not in layers:
            return _all(calibration.network, step)
        return torch.from_numpy(at_home(before, count)[:, after].T.copy())

    return _in_order(calibration, workers, choose)


def sparse(calibration: Calibration, workers: int | Sequence[Worker], kept: Mapping[str, int]) -> Plan:
    """The largest weights of each layer are kept (of convolutions, the largest kernels), wherever they lie.

    Parameters
    ----------
    calibration : Calibration
    workers : int or sequence of Worker
    kept : mapping of str to int
        By layer, how many pairs of a row and a unit of its input; all where it is not named.
    """

    def choose(step: Step, before: Owners, after: Owners) -> Tensor:
        size = calibration.network.matrix(step).square().sum(2)
        if step.name not in kept:
            return _all(calibration.network, step)
        found = torch.zeros(size.numel(), dtype=torch.bool)
        found[size.flatten().argsort(descending=True, stable=True)[: kept[step.name]]] = True
        return found.reshape(size.shape)

    return _in_order(calibration, workers, choose)


def _all(network: Network, step: Step) -> Tensor:
    return torch.ones(network.matrix(step).shape[:2], dtype=torch.bool)


def _in_order(calibration: Calibration, workers: int | Sequence[Worker], choose: Choice) -> Plan:
    network, shared = calibration.network, ownership(calibration.network)
    team = [Worker()] * workers if isinstance(workers, int) else list(workers)
    slots = places_of_layers(network, shared, team)
    owners = tuple(owners_in_order(shared, slots))
    layers, weights = {}, {}
    arrived: dict[int, np.ndarray] = {}
    for number, step in enumerate(network.steps, start=1):
        if not step.weighted:
            continue
        before, after, old = owners[shared.before(step)], owners[shared.of_value[number]], network.weights[step.name]
        kept = choose(step, before, after)
        there = arrived.setdefault(step.sources[0], np.zeros((len(before), len(team)), dtype=bool))
        sends = sends_of(kept, before, after, len(team), there)
        arrived[step.sources[0]] = there | sends
        new = network.matrix(step) * kept[:, :, None]
        weights[step.name] = Weights(new.reshape(old.weight.shape).to(old.weight.dtype), old.bias)
        layers[step.name] = LayerPlan(kept, sends, float("nan"), ())
    return Plan(network.with_weights(weights), owners, layers, len(team), calibration.model_hash)
