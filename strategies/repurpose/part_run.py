"""How a worker runs its part of a plan: exchange by exchange, with only the activations that it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from strategies.repurpose.network import Step, Weights, apply
from strategies.repurpose.part import Part, PartLayer
from strategies.repurpose.plan import COLLECTOR

Mail = dict[int, Tensor]
"""Activations by worker, to whom or from whom: shape (N, units, elements) each."""


class MissingActivations(RuntimeError):
    """A worker was not sent what its plan says."""


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
    done = apply(step, [_at_least_one(value) for value in values], None)
    return done if values[0].shape[1] else done[:, :0]


def _at_least_one(value: Tensor) -> Tensor:
    """A value of no units with one of zeros in its place: torch has no operations on no maps."""
    return value if value.shape[1] else value.new_zeros(len(value), 1, *value.shape[2:])


def _rows(step: Step, known: Tensor, weights: Weights) -> Tensor:
    weight, bias = weights.weight, weights.bias
    if step.kind == "conv2d" and not known.shape[1]:
        known = _at_least_one(known)
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
