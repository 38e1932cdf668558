"""Which modules and functions of torch a model may be made of, and what their nodes in its graph say."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from strategies.repurpose.network import ACTIVATIONS, POOLS


class UnsupportedLayer(ValueError):
    """A layer that cannot be split between workers; the message names its module path."""


MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.ReLU: ("relu", ()),
    nn.ReLU6: ("relu6", ()),
    nn.LeakyReLU: ("leaky_relu", ("negative_slope",)),
    nn.ELU: ("elu", ("alpha",)),
    nn.SELU: ("selu", ()),
    nn.CELU: ("celu", ("alpha",)),
    nn.GELU: ("gelu", ("approximate",)),
    nn.SiLU: ("silu", ()),
    nn.Mish: ("mish", ()),
    nn.Softplus: ("softplus", ("beta", "threshold")),
    nn.Softsign: ("softsign", ()),
    nn.Hardtanh: ("hardtanh", ("min_val", "max_val")),
    nn.Hardswish: ("hardswish", ()),
    nn.Hardsigmoid: ("hardsigmoid", ()),
    nn.LogSigmoid: ("logsigmoid", ()),
    nn.Tanh: ("tanh", ()),
    nn.Sigmoid: ("sigmoid", ()),
    nn.MaxPool2d: ("max_pool2d", ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    nn.AvgPool2d: ("avg_pool2d", ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", ("output_size",)),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", ("output_size",)),
}
"""Modules that act on each unit alone: the function's name, and the attributes that are its arguments."""

PASSING = (nn.Dropout, nn.Dropout2d, nn.Identity)
RESHAPING: tuple[Any, ...] = (nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, "flatten", "reshape", "view")
ADDING: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
FUNCTIONS: dict[Any, str] = {
    found: name
    for name in (*ACTIVATIONS, *POOLS)
    for found in (getattr(functional, name, None), getattr(torch, name, None), name)
    if found is not None
}
ACCEPTED = (
    "Linear, Conv2d (groups 1, zero padding), BatchNorm right after one of them, element-wise activations, "
    "2-d pooling, Flatten, Dropout, additions"
)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node gives, the batch first."""
    return tuple(node.meta["tensor_meta"].shape)


def units_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """Units and elements of a shape without the batch."""
    return shape[0], int(torch.Size(shape[1:]).numel())


def path_of(node: fx.Node) -> str:
    """Where in the model a node stands: the module it is called in, and its own name."""
    stack = node.meta.get("nn_module_stack") or {}
    inside = [str(value[0]) for value in stack.values() if value[0]]
    return ".".join([*inside[-1:], node.name])


def plain(value: Any) -> Any:
    """A value as TOML can hold it."""
    return list(value) if isinstance(value, tuple) else value


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """A function's arguments but the first, by their names."""
    options = {name: plain(value) for name, value in node.kwargs.items() if name not in ("inplace", "input")}
    rest = node.args[1:]
    if rest:
        target: Callable[..., Any] | str = node.target
        if target not in (functional.max_pool2d, functional.avg_pool2d, functional.adaptive_avg_pool2d):
            raise UnsupportedLayer(f"{path_of(node)}: arguments without names; accepted: by name, or a module")
        names = ("output_size",) if target is functional.adaptive_avg_pool2d else ("kernel_size", "stride", "padding")
        if len(rest) > len(names):
            raise UnsupportedLayer(
                f"{path_of(node)}: {1 + len(rest)} arguments without names; accepted: the input, {', '.join(names)} "
                "without, others by name"
            )
        options |= {name: plain(value) for name, value in zip(names, rest, strict=False)}
    return {name: value for name, value in options.items() if value is not None}


def check_pooling(path: str, layer: nn.Module) -> None:
    """Refuse a pooling module with an argument that is not read."""
    if getattr(layer, "divisor_override", None) is not None:
        raise UnsupportedLayer(f"{path}: divisor_override = {layer.divisor_override}; accepted: None")


def check_convolution(path: str, layer: nn.Conv2d) -> None:
    """Refuse a convolution that mixes channels in another way than all with all."""
    if layer.groups != 1:
        raise UnsupportedLayer(f"{path}: Conv2d with groups = {layer.groups}; accepted: 1")
    if layer.padding_mode != "zeros":
        raise UnsupportedLayer(f"{path}: Conv2d with padding_mode = {layer.padding_mode!r}; accepted: 'zeros'")
