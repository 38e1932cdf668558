"""A feed-forward network as steps between units: what a plan permutes, splits and runs.

A *unit* is what a worker owns whole: a neuron of a dense layer, a channel (feature map) of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

WEIGHTED = ("linear", "conv2d")
"""Kinds of steps that mix units; all others act on each unit alone."""

ACTIVATIONS = (
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "selu",
    "celu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "logsigmoid",
    "tanh",
    "sigmoid",
    "square",
)
"""Element-wise functions, by their names in ``torch.nn.functional`` (tanh, sigmoid, square: in ``torch``)."""

POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
"""Pooling of each feature map alone, by their names in ``torch.nn.functional``."""


@dataclass(frozen=True)
class Step:
    """One step; it makes value number k + 1 if it is number k (value 0 is the network's input).

    Attributes
    ----------
    kind : str
        ``linear``, ``conv2d``, ``reshape``, ``flatten``, ``add``, or a name in :data:`ACTIVATIONS` or :data:`POOLS`.
    name : str
        Path of the module in the model it was read from; of weighted steps unique.
    sources : tuple of int
        Numbers of the values that it takes: two for ``add``, else one.
    units : int
        Units of the value that it makes.
    elements : int
        Numbers in a unit of that value: 1, or height times width.
    options : mapping
        Arguments of the function, such as ``kernel_size``.
    """

    kind: str
    name: str
    sources: tuple[int, ...]
    units: int
    elements: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weighted(self) -> bool:
        """Whether it mixes units: a linear or convolutional layer."""
        return self.kind in WEIGHTED


@dataclass(frozen=True)
class Weights:
    """Of a weighted step: weight (n_out, n_in) or (n_out, n_in, kh, kw), and bias (n_out,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Network:
    """Steps in the order in which they run, with their weights.

    Attributes
    ----------
    steps : tuple of Step
        The last one is weighted: its units are the outputs.
    weights : mapping of str to Weights
        By the name of the step.
    input_shape : tuple of int
        Of one input, as the model takes it.
    """

    steps: tuple[Step, ...]
    weights: Mapping[str, Weights]
    input_shape: tuple[int, ...]

    @property
    def layers(self) -> tuple[Step, ...]:
        """The weighted steps, in order."""
        return tuple(step for step in self.steps if step.weighted)

    def columns(self, step: Step) -> int:
        """Columns of a weighted step's matrix that belong to one unit of its input: elements, or kernel offsets."""
        weight = self.weights[step.name].weight
        return weight[0, 0].numel() if step.kind == "conv2d" else weight.shape[1] // self.units(step.sources[0])

    def units(self, value: int) -> int:
        """Units of a value; of the input, the first dimension of its shape."""
        return self.steps[value - 1].units if value else self.input_shape[0]

    def elements(self, value: int) -> int:
        """Numbers in a unit of a value."""
        return self.steps[value - 1].elements if value else int(torch.Size(self.input_shape[1:]).numel())

    def matrix(self, step: Step) -> Tensor:
        """Weights of a step as (n_out, units of its input, columns of each), in float64."""
        weight = self.weights[step.name].weight
        return weight.detach().to(torch.float64).reshape(weight.shape[0], -1, self.columns(step))

    def positions(self, step: Step) -> int:
        """How often a weight of the step is used for one input: positions of a convolution, else 1."""
        return step.elements if step.kind == "conv2d" else 1

    def with_weights(self, weights: Mapping[str, Weights]) -> Network:
        """The same steps with some weights exchanged."""
        return Network(self.steps, {**self.weights, **weights}, self.input_shape)

    def run(self, inputs: Tensor, upto: int | None = None) -> Tensor:
        """Value number `upto` (default: the output) for a batch of inputs (N, *input_shape)."""
        return self.values(inputs, len(self.steps) if upto is None else upto)[-1]

    def values(self, inputs: Tensor, upto: int) -> list[Tensor]:
        """Values 0 to `upto` for a batch of inputs."""
        values = [inputs]
        for step in self.steps[:upto]:
            own = self.weights[step.name] if step.weighted else None
            values.append(apply(step, [values[source] for source in step.sources], own))
        return values


def apply(step: Step, values: list[Tensor], weights: Weights | None) -> Tensor:
    """What a step makes of a batch of its sources; for all units or for those that a worker has.

    Parameters
    ----------
    step : Step
    values : list of Tensor
        Shape (N, units, ...) each, or (N, units * elements) where flat.
    weights : Weights, optional
        Of weighted steps.
    """
    x = values[0]
    match step.kind:
        case "linear":
            assert weights is not None
            return functional.linear(x, weights.weight, weights.bias)
        case "conv2d":
            assert weights is not None
            return functional.conv2d(x, weights.weight, weights.bias, **step.options)
        case "add":
            return x + values[1]
        case "flatten":
            return x.flatten(1)
        case "reshape":
            return x.reshape(x.shape[0], *step.options["shape"])
        case "tanh" | "sigmoid" | "square":
            done: Tensor = getattr(torch, step.kind)(x)
            return done
        case _:
            of_units: Tensor = getattr(functional, step.kind)(x, **step.options)
            return of_units
