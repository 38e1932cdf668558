"""Reads a trained torch model as a :class:`~strategies.repurpose.network.Network`; refuses what cannot be split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from strategies.repurpose.network import Network, Step, Weights
from strategies.repurpose.readable_layers import (
    ACCEPTED,
    ADDING,
    FUNCTIONS,
    MODULES,
    PASSING,
    RESHAPING,
    UnsupportedLayer,
    arguments_of,
    check_convolution,
    check_pooling,
    path_of,
    plain,
    shape_of,
    units_of,
)


def read_model(model: nn.Module, example: Tensor) -> Network:
    """Read a model in evaluation mode, batch norm folded into the layer before it.

    Parameters
    ----------
    model : torch.nn.Module
        Feed-forward, with one input and one output; it stays as it is.
    example : Tensor
        A batch of inputs, shape (N, ...), N >= 1.

    Raises
    ------
    UnsupportedLayer
        If a layer couples units and is neither linear nor a convolution, or mixes them in another way.
    ValueError
        If the model does not take inputs of this shape.
    """
    was_training = model.training
    model.eval()
    try:
        return _read(model, example[:1].expand(2, *example.shape[1:]))
    finally:
        model.train(was_training)


def _read(model: nn.Module, example: Tensor) -> Network:
    try:
        graph = fx.symbolic_trace(model)
    except Exception as error:
        raise UnsupportedLayer(f"model {type(model).__name__}: its steps depend on the data ({error})") from error
    with torch.no_grad():
        _try(model, example)
        ShapeProp(graph).propagate(example)
    reader = _Reader(graph, tuple(example.shape[1:]))
    for node in graph.graph.nodes:
        reader.read(node)
    return reader.network()


def _try(model: nn.Module, example: Tensor) -> None:
    """Refuse inputs that the model does not take, before any step is traced."""
    try:
        model(example)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"calibration_inputs of shape (N, {', '.join(map(str, example.shape[1:]))}) and type {example.dtype}: the "
            f"model does not take them ({said}){_taken(model)}"
        ) from error


def _taken(model: nn.Module) -> str:
    """What the first layer with weights takes."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            name = "in_features" if isinstance(layer, nn.Linear) else "in_channels"
            return f"; accepted: what {path or 'the model'} takes, {name} = {getattr(layer, name)} {layer.weight.dtype}"
    return ""


@dataclass
class _Reader:
    """Steps read so far, and which value each node of the graph stands for."""

    graph: fx.GraphModule
    input_shape: tuple[int, ...]
    steps: list[Step] = field(default_factory=list)
    weights: dict[str, Weights] = field(default_factory=dict)
    values: dict[fx.Node, int] = field(default_factory=dict)
    output: int | None = None

    def read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.values:
                raise UnsupportedLayer(f"{node.name}: a second input; accepted: a model with one")
            self.values[node] = 0
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or result not in self.values:
                raise UnsupportedLayer("output: the model gives more than one tensor; accepted: one")
            self.output = self.values[result]
        elif "tensor_meta" in node.meta and isinstance(node.target, str) and node.op == "call_module":
            self._module(node, self.graph.get_submodule(node.target))
        elif "tensor_meta" in node.meta:
            self._function(node)

    def network(self) -> Network:
        layers = [number for number, step in enumerate(self.steps) if step.weighted]
        if not layers:
            raise UnsupportedLayer(f"model: no layer with weights; accepted: {ACCEPTED}")
        if self.output != len(self.steps) or layers[-1] != len(self.steps) - 1:
            last = self.steps[-1]
            raise UnsupportedLayer(
                f"{last.name}: {last.kind} after the last layer with weights; accepted: a model that ends with a "
                "Linear or Conv2d layer, its outputs taken as they are"
            )
        return Network(tuple(self.steps), self.weights, self.input_shape)

    def _module(self, node: fx.Node, module: nn.Module) -> None:
        path = str(node.target)
        if isinstance(module, nn.Linear):
            self._weighted(node, path, "linear", module.weight, module.bias, {})
        elif isinstance(module, nn.Conv2d):
            check_convolution(path, module)
            options = {"stride": list(module.stride), "dilation": list(module.dilation)}
            padding = module.padding if isinstance(module.padding, str) else list(module.padding)
            self._weighted(node, path, "conv2d", module.weight, module.bias, {**options, "padding": padding})
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            self._fold(node, path, module)
        elif isinstance(module, PASSING):
            self.values[node] = self._source(node)
        elif isinstance(module, nn.Flatten | nn.Unflatten):
            self._reshape(node, path)
        elif type(module) in MODULES:
            check_pooling(path, module)
            kind, attributes = MODULES[type(module)]
            self._add_step(node, path, kind, {name: plain(getattr(module, name)) for name in attributes})
        else:
            raise UnsupportedLayer(f"{path}: {type(module).__name__} cannot be split; accepted: {ACCEPTED}")

    def _function(self, node: fx.Node) -> None:
        path = path_of(node)
        if node.target in ADDING and len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args):
            self._addition(node, path)
        elif node.target in RESHAPING:
            self._reshape(node, path)
        elif node.target in (functional.dropout, "contiguous"):
            self.values[node] = self._source(node)
        elif node.target in FUNCTIONS:
            self._add_step(node, path, FUNCTIONS[node.target], arguments_of(node))
        else:
            named = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
            raise UnsupportedLayer(f"{path}: {named} cannot be split; accepted: {ACCEPTED}")

    def _weighted(
        self, node: fx.Node, path: str, kind: str, weight: Tensor, bias: Tensor | None, options: Mapping[str, Any]
    ) -> None:
        if path in self.weights:
            raise UnsupportedLayer(f"{path}: used twice; accepted: each layer once")
        if kind == "linear" and len(shape_of(node)) != 2:
            raise UnsupportedLayer(f"{path}: Linear on inputs of shape {shape_of(node)}; accepted: (N, features)")
        bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        self.weights[path] = Weights(weight.detach().clone(), bias.detach().clone())
        self._add_step(node, path, kind, options)

    def _fold(self, node: fx.Node, path: str, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        source = self._source(node)
        step = self.steps[source - 1] if source else None
        before = node.args[0]
        if step is None or not step.weighted or not isinstance(before, fx.Node) or len(before.users) > 1:
            raise UnsupportedLayer(
                f"{path}: {type(norm).__name__} cannot be folded; accepted: right after a Linear or Conv2d layer "
                "whose output nothing else takes"
            )
        if norm.running_mean is None or norm.running_var is None:
            raise UnsupportedLayer(f"{path}: {type(norm).__name__} without running statistics; accepted: with them")
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach()
        old = self.weights[step.name]
        weight = old.weight * scale.reshape(-1, *[1] * (old.weight.dim() - 1))
        self.weights[step.name] = Weights(weight, (old.bias - norm.running_mean) * scale + shift)
        self.values[node] = source

    def _reshape(self, node: fx.Node, path: str) -> None:
        source, shape = self._source(node), shape_of(node)[1:]
        before = self._shape_of(node)
        if shape_of(node)[0] != 2 or not shape:
            raise UnsupportedLayer(f"{path}: mixes inputs with each other; accepted: reshaping within each")
        if not any(step.weighted for step in self.steps[:source]):
            self._add_step(node, path, "reshape", {"shape": list(shape)})
        elif shape == before:
            self.values[node] = source
        elif len(shape) == 1:
            step = self.steps[source - 1]
            self._append(node, Step("flatten", path, (source,), step.units, step.elements))
        else:
            raise UnsupportedLayer(f"{path}: from {before} to {shape} inside the network; accepted: to one dimension")

    def _addition(self, node: fx.Node, path: str) -> None:
        if node.kwargs:
            raise UnsupportedLayer(f"{path}: an addition with {dict(node.kwargs)}; accepted: without further arguments")
        first, second = (self.values[a] for a in node.args if isinstance(a, fx.Node))
        shapes = [shape_of(a) for a in node.args if isinstance(a, fx.Node)]
        if shapes[0] != shapes[1]:
            raise UnsupportedLayer(f"{path}: adds {shapes[0]} to {shapes[1]}; accepted: equal shapes")
        taken = [self.steps[number - 1] for number in (first, second) if number]
        if len({step.units for step in taken}) > 1:
            raise UnsupportedLayer(f"{path}: adds features of maps to neurons; accepted: values of equal units")
        units, elements = (taken[0].units, taken[0].elements) if taken else units_of(shapes[0][1:])
        self._append(node, Step("add", path, (first, second), units, elements))

    def _add_step(self, node: fx.Node, path: str, kind: str, options: Mapping[str, Any]) -> None:
        source, shape = self._source(node), shape_of(node)[1:]
        units, elements = units_of(shape)
        if source and len(shape) == 1 and kind not in ("linear", "reshape"):
            units, elements = self.steps[source - 1].units, self.steps[source - 1].elements  # flat maps stay maps
        self._append(node, Step(kind, path, (source,), units, elements, dict(options)))

    def _append(self, node: fx.Node, step: Step) -> None:
        taken = {other.name for other in self.steps}
        self.steps.append(step if step.name not in taken else replace(step, name=f"{step.name}#{len(self.steps)}"))
        self.values[node] = len(self.steps)

    def _source(self, node: fx.Node) -> int:
        before = node.args[0]
        if not isinstance(before, fx.Node) or before not in self.values:
            raise UnsupportedLayer(f"{path_of(node)}: takes a constant; accepted: what the layers before it give")
        return self.values[before]

    def _shape_of(self, node: fx.Node) -> tuple[int, ...]:
        before = node.args[0]
        assert isinstance(before, fx.Node)
        return shape_of(before)[1:]
