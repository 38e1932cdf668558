"""What one worker holds of a plan, and how it runs it: its rows, and only the activations that it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from strategies.repurpose.network import Step, Weights, apply
from strategies.repurpose.owners import EVERYWHERE
from strategies.repurpose.plan import COLLECTOR, Plan, at_home
from strategies.repurpose.plan_file import hash_of_plan

Mail = dict[int, Tensor]
"""Activations by worker, to whom or from whom: shape (N, units, elements) each."""


class MissingActivations(RuntimeError):
    """A worker was not sent what its plan says."""


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


@dataclass
class PartRun:
    """How far a worker is with a batch.

    Attributes
    ----------
    values : dict of int to Tensor
        Values that later steps take: its own units of them.
    held : dict of int to Tensor
        Of values that were sent between workers, its own units and those it was sent.
    step : int
        The next step.
    posted : bool
        Whether it has sent what others need before that step, and waits for what it is sent.
    outputs : Tensor, optional
        At the collector, when it is through: in the model's order.
    finished : bool
    """

    values: dict[int, Tensor]
    held: dict[int, Tensor] = field(default_factory=dict)
    step: int = 0
    posted: bool = False
    outputs: Tensor | None = None
    finished: bool = False

    def advance(self, part: Part, mail: Mail) -> Mail:
        """Go on with what the worker was sent, up to the next exchange; what it sends in it, or nothing at the end.

        Exchanges are those of the layers that talk, in order, and a last one in which the collector gathers the
        outputs. Every worker takes part in each, if only with nothing.

        Raises
        ------
        MissingActivations
            If what it is sent is not what the plan says.
        """
        while self.step < len(part.steps):
            step = part.steps[self.step]
            layer = part.layers.get(step.name)
            if layer is not None and layer.talks and not self.posted:
                self.posted = True
                return _mail(self.values[step.sources[0]], layer.sends, part, step.sources[0])
            self._take(part, step, layer, mail)
        own = self.values[self.step]
        if not self.posted:
            self.posted = True
            return {} if part.worker == COLLECTOR or not own.shape[1] else {COLLECTOR: own.reshape(*own.shape[:2], -1)}
        self.outputs = _gather(part, own, mail) if part.worker == COLLECTOR else None
        self.finished = True
        return {}

    def _take(self, part: Part, step: Step, layer: PartLayer | None, mail: Mail) -> None:
        if layer is None:
            done = _of_units(step, [_own(part, source, self.values[source], step) for source in step.sources])
        else:
            source = step.sources[0]
            known = self.held.get(source, self.values[source])
            if self.posted:
                known, self.posted = _joined(known, mail, layer, part, step), False
            self.held[source] = known
            done = _rows(step, known, layer.weights)
        self.step += 1
        self.values[self.step] = done
        wanted = {source for later in part.steps[self.step :] for source in later.sources} | {self.step}
        self.values = {number: value for number, value in self.values.items() if number in wanted}
        self.held = {number: value for number, value in self.held.items() if number in wanted}


def run_together(parts: Sequence[Part], inputs: Tensor) -> tuple[Tensor, int]:
    """Run all parts in this process, exchange by exchange; outputs, and the bytes sent."""
    runs, sent = [PartRun({0: inputs}) for _ in parts], 0
    incoming: list[Mail] = [{} for _ in parts]
    with torch.no_grad():
        while not runs[COLLECTOR].finished:
            outgoing = [run.advance(part, mail) for run, part, mail in zip(runs, parts, incoming, strict=True)]
            sent += sum(bytes_of(tensor) for mail in outgoing for tensor in mail.values())
            incoming = [{q: mail[p] for q, mail in enumerate(outgoing) if p in mail} for p in range(len(parts))]
    outputs = runs[COLLECTOR].outputs
    assert outputs is not None
    return outputs, sent


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


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


def _own(part: Part, source: int, value: Tensor, step: Step) -> Tensor:
    """Of a value that every worker holds, what goes with the worker's units of the other operand of an addition."""
    owned = part.owned[part.steps.index(step) + 1]
    if step.kind != "add" or part.owned[source] is not None or owned is None:
        return value
    return value[:, owned]


def _mail(value: Tensor, sends: Mapping[int, Tensor], part: Part, source: int) -> Mail:
    units = part.owned[source]
    if units is None or not sends:
        return {}
    split = value.reshape(len(value), len(units), -1)
    return {q: split[:, places].contiguous() for q, places in sends.items()}


def _joined(known: Tensor, mail: Mail, layer: PartLayer, part: Part, step: Step) -> Tensor:
    if {q: tensor.shape[1] for q, tensor in mail.items()} != dict(layer.receives):
        got = {q: tensor.shape[1] for q, tensor in sorted(mail.items())}
        raise MissingActivations(
            f"worker {part.worker}: before {step.name} it was sent units {got} by worker; accepted: "
            f"{dict(layer.receives)}"
        )
    if not mail:
        return known
    arrived = torch.cat([mail[q] for q in sorted(mail)], dim=1)
    shape = (len(known), -1) if known.dim() == 2 else (len(known), -1, *known.shape[2:])
    return torch.cat([known, arrived.reshape(shape)], dim=1)


def _of_units(step: Step, values: list[Tensor]) -> Tensor:
    """What a step without weights makes of the worker's units; of none, the shape that it would have."""
    if values[0].shape[1]:
        return apply(step, values, None)
    return apply(step, [value.new_zeros(len(value), 1, *value.shape[2:]) for value in values], None)[:, :0]


def _rows(step: Step, known: Tensor, weights: Weights) -> Tensor:
    weight, bias = weights.weight, weights.bias
    if step.kind == "conv2d" and not known.shape[1]:  # torch has no convolution of no maps
        known = known.new_zeros(len(known), 1, *known.shape[2:])
        weight = weight.new_zeros(len(weight), 1, *weight.shape[2:])
    if len(bias):
        return apply(step, [known], Weights(weight, bias))
    one = Weights(weight.new_zeros(1, *weight.shape[1:]), bias.new_zeros(1))
    return apply(step, [known], one)[:, :0]


def _gather(part: Part, own: Tensor, mail: Mail) -> Tensor:
    shares = {part.worker: own, **mail}
    expected = {q for q, units in enumerate(part.gathered) if len(units)} | {part.worker}
    if set(shares) != expected:
        raise MissingActivations(f"outputs came from workers {sorted(shares)}; accepted: {sorted(expected)}")
    outputs = own.new_empty(len(own), sum(map(len, part.gathered)), *own.shape[2:])
    for q, share in shares.items():
        outputs[:, part.gathered[q]] = share.reshape(len(own), -1, *own.shape[2:])
    return outputs
