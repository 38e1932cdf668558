"""What one worker holds of a plan: its rows of the weights, on its own units and those that it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strategies.repurpose.network import Step, Weights
from strategies.repurpose.owners import EVERYWHERE, at_home
from strategies.repurpose.plan import Plan
from strategies.repurpose.plan_file import hash_of_plan


@dataclass(frozen=True)
class PartLayer:
    """A worker's share of a weighted step.

    Attributes
    ----------
    weights : Weights
        Of its rows on the units that it holds then: its own in order, then those sent, in the order of their sending.
    sends : mapping of int to Tensor
        By worker, which of its own units it sends before the step: positions among its own.
    receives : mapping of int to int
        By worker, how many units it is sent.
    talks : bool
        Whether any worker sends anything before the step: then all take part in an exchange.
    """

    weights: Weights
    sends: Mapping[int, Tensor]
    receives: Mapping[int, int]
    talks: bool


@dataclass(frozen=True)
class Part:
    """A worker's part of a plan.

    Attributes
    ----------
    worker, workers : int
        Which of how many.
    plan_hash : str
        Of the plan; see :func:`~strategies.repurpose.plan_file.hash_of_plan`.
    steps : tuple of Step
        Of the whole network.
    layers : mapping of str to PartLayer
        By the name of the weighted step.
    owned : tuple of Tensor
        For each value the worker's own units, where every worker holds them all None stands.
    gathered : tuple of Tensor
        Of each worker the output units, by which the collector puts outputs in order.
    input_shape : tuple of int
    """

    worker: int
    workers: int
    plan_hash: str
    steps: tuple[Step, ...]
    layers: Mapping[str, PartLayer]
    owned: tuple[Tensor | None, ...]
    gathered: tuple[Tensor, ...]
    input_shape: tuple[int, ...]


def part_of(plan: Plan, worker: int) -> Part:
    """Cut a worker's part out of a plan."""
    if not 0 <= worker < plan.workers:
        raise ValueError(f"worker = {worker}; accepted: 0 to {plan.workers - 1}")
    shared = plan.ownership
    owned = [None if (o == EVERYWHERE).all() else torch.from_numpy(np.flatnonzero(o == worker)) for o in plan.owners]
    order: dict[int, list[int]] = {}
    layers = {}
    for step in plan.network.layers:
        before, source = plan.owner_before(step), step.sources[0]
        held = order.setdefault(source, [int(i) for i in np.flatnonzero(at_home(before, plan.workers)[:, worker])])
        place = {unit: number for number, unit in enumerate(held)}
        sent = plan.layers[step.name].sends
        mine = before == worker
        sends = {
            q: torch.tensor([place[int(unit)] for unit in np.flatnonzero(mine & sent[:, q])])
            for q in range(plan.workers)
            if (mine & sent[:, q]).any()
        }
        received = {q: np.flatnonzero((before == q) & sent[:, worker]) for q in range(plan.workers)}
        receives = {q: len(units) for q, units in received.items() if len(units)}
        held.extend(int(unit) for units in received.values() for unit in units)
        rows = torch.from_numpy(np.flatnonzero(plan.owner_after(step) == worker))
        layers[step.name] = PartLayer(_cut(plan, step, rows, held), sends, receives, bool(sent.any()))
    outputs = plan.owners[shared.of_value[-1]]
    gathered = tuple(torch.from_numpy(np.flatnonzero(outputs == q)) for q in range(plan.workers))
    of_values = tuple(owned[number] for number in shared.of_value)
    network, own_hash = plan.network, hash_of_plan(plan)
    return Part(worker, plan.workers, own_hash, network.steps, layers, of_values, gathered, network.input_shape)


def _cut(plan: Plan, step: Step, rows: Tensor, held: list[int]) -> Weights:
    own = plan.network.weights[step.name]
    matrix = own.weight.reshape(own.weight.shape[0], -1, plan.network.columns(step))
    cut = matrix[rows][:, held]
    shape = (
        (len(rows), len(held) * cut.shape[2])
        if step.kind == "linear"
        else (len(rows), len(held), *own.weight.shape[2:])
    )
    return Weights(cut.reshape(shape).contiguous(), own.bias[rows].contiguous())
