"""Models by name or by import path, with an initialisation that depends on the seed alone."""

from __future__ import annotations

import importlib
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from channel.randomness import key

_INITS = ("default", "zeros")

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "softplus": nn.Softplus}
"""What stands between the layers of a fully connected network: max(z, 0), tanh z, log(1 + exp z)."""


def softmax(input_shape: Sequence[int], num_classes: int, *, bias: bool = True) -> nn.Module:
    """Softmax (multinomial logistic) regression: logits W x + b of the flattened input; starts at zero.

    784 inputs and 10 classes make 7,850 parameters with bias. The loss is convex: zero is as good a start
    as any.
    """
    linear = nn.Linear(math.prod(input_shape), num_classes, bias=bias)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=linear))


def mlp(
    input_shape: Sequence[int], num_classes: int, *, hidden: Sequence[int] = (128,), activation: str = "relu"
) -> nn.Module:
    """Fully connected network with layers of ``hidden`` units; 784-128-10 has 101,770 parameters.

    Each hidden layer is followed by ``activation``, a name in :data:`ACTIVATIONS`; tanh and softplus are smooth, as
    second-order methods assume.
    """
    _check_sizes("hidden", hidden)
    sizes = [math.prod(input_shape), *hidden]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    _add_layers(layers, "hidden", sizes, activation)
    layers["output"] = nn.Linear(sizes[-1], num_classes)
    return nn.Sequential(layers)


def cnn(
    input_shape: Sequence[int], num_classes: int, *, channels: Sequence[int] = (16, 32), hidden: int = 64
) -> nn.Module:
    """Small convolutional network.

    Per entry of ``channels`` a 3 x 3 convolution, ReLU and 2 x 2 max-pooling; then a ReLU layer of ``hidden``
    units and the logits.

    Takes (C, H, W), (H, W), or flat square images (784 is 1 x 28 x 28).
    """
    _check_sizes("channels", channels)
    _check_sizes("hidden", [hidden])
    shape = _image_shape(input_shape)
    height, width = (side >> len(channels) for side in shape[1:])
    if min(height, width) < 1:
        raise ValueError(
            f"channels = {list(channels)} halves the image {shape[1]} x {shape[2]} {len(channels)} times, "
            f"which leaves nothing; use at most {int(math.log2(min(shape[1:])))} entries"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict(image=_AsImage(shape))
    for number, (before, after) in enumerate(zip([shape[0], *channels], channels, strict=False), start=1):
        layers[f"convolution{number}"] = nn.Conv2d(before, after, kernel_size=3, padding=1)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(([shape[0], *channels])[-1] * height * width, hidden)
    layers["relu"] = nn.ReLU()
    layers["output"] = nn.Linear(hidden, num_classes)
    return nn.Sequential(layers)


def autoencoder(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (128, 32),
    activation: str = "tanh",
) -> nn.Module:
    """Fully connected autoencoder: gives back its flattened input, through layers of ``hidden`` units and back.

    The last of ``hidden`` is the code and stands in the middle once; the others come again in reverse order:
    784-128-32-128-784 has 209,968 parameters, and ``hidden = [400, 200, 100, 50, 25, 6]`` on 784 inputs, the network
    of Hinton and Salakhutdinov for curves, 842,340. ``activation``, a name in :data:`ACTIVATIONS`, follows every
    hidden layer, the code too; the output is linear.

    For ``training.loss = "reconstruction"``. Classes play no part: ``num_classes`` is not used.

    References
    ----------
    G. Hinton, R. Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006.
    """
    _check_sizes("hidden", hidden)
    if not hidden:
        raise ValueError(f"hidden = {hidden!r} leaves no code; accepted: at least one whole number >= 1")
    sizes = [math.prod(input_shape), *hidden]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    _add_layers(layers, "encoder", sizes, activation)
    _add_layers(layers, "decoder", sizes[:0:-1], activation)
    layers["output"] = nn.Linear(sizes[1], sizes[0])
    return nn.Sequential(layers)


MODELS: dict[str, Callable[..., nn.Module]] = {"softmax": softmax, "mlp": mlp, "cnn": cnn, "autoencoder": autoencoder}


def build(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    seed: int = 0,
    init: str = "default",
    dtype: torch.dtype = torch.float32,
    **parameters: Any,
) -> nn.Module:
    """Make a model; the global random state stays as it was.

    Parameters
    ----------
    name : str
        A name in :data:`MODELS`, or ``"package.module:factory"``: a callable that is called as
        ``factory(input_shape=..., num_classes=..., **parameters)`` and returns a ``torch.nn.Module``.
    input_shape : sequence of int
        Shape of one input.
    num_classes : int
        Number of logits, >= 2.
    seed : int
        Fixes the initial parameters, >= 0.
    init : {"default", "zeros"}
        ``"default"`` is zero for softmax and PyTorch's own initialisation for all others. ``"zeros"`` sets
        every parameter to zero; a network with hidden layers can't learn from there.
    dtype : torch.dtype
        Type of the parameters. They are drawn in float32, so that all types start at the same point.
    **parameters
        Passed on to the model.

    Raises
    ------
    ValueError
        If a name or value is not accepted, or the import path leads nowhere.
    TypeError
        If the factory is not callable or returns something other than a module.
    """
    shape = tuple(input_shape)
    _check_sizes("input_shape", shape)
    if not shape:
        raise ValueError("input_shape = () must have at least one dimension")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes = {num_classes!r} must be a whole number >= 2")
    if init not in _INITS:
        raise ValueError(f"init = {init!r} is not known; accepted: {', '.join(_INITS)}")
    factory = _find(name)
    _check_parameters(name, factory, parameters)
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would also reseed the accelerators
        torch.default_generator.manual_seed(key(seed, "model"))
        model = factory(input_shape=shape, num_classes=num_classes, **parameters)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model {name!r} returned {type(model).__name__}; accepted: torch.nn.Module")
    if init == "zeros" or factory is softmax:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    return model.to(dtype)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable scalars, the d of the channel's formulas."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class _AsImage(nn.Module):
    """View a batch of flat inputs as images of shape (C, H, W)."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(inputs.shape[0], *self.shape)


def _add_layers(layers: OrderedDict[str, nn.Module], name: str, sizes: Sequence[int], activation: str) -> None:
    """Linear layers from each size to the next, called ``name`` and a number, each with its activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation = {activation!r} is not known; accepted: {', '.join(ACTIVATIONS)}")
    for number, (before, after) in enumerate(pairwise(sizes), start=1):
        layers[f"{name}{number}"] = nn.Linear(before, after)
        layers[f"{name}{number}_{activation}"] = ACTIVATIONS[activation]()


def _image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(input_shape) == 3:
        channels, height, width = input_shape
        return channels, height, width
    if len(input_shape) == 2:
        return 1, input_shape[0], input_shape[1]
    side = math.isqrt(input_shape[0])
    if len(input_shape) == 1 and side * side == input_shape[0]:
        return 1, side, side
    raise ValueError(
        f"input_shape = {tuple(input_shape)} is no image; cnn accepts (C, H, W), (H, W) or (n,), n a square"
    )


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    wrong = isinstance(sizes, str) or not isinstance(sizes, Sequence)
    if wrong or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(f"{name} = {sizes!r} must be whole numbers >= 1")


def _find(name: str) -> Callable[..., Any]:
    if name in MODELS:
        return MODELS[name]
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute) or module_name.startswith("."):
        raise ValueError(f"model = {name!r} is not known; accepted: {', '.join(MODELS)}, or 'package.module:factory'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module was found; something that it imports itself was not
        raise ValueError(
            f"model = {name!r}: no module {error.name!r}; install it or add its folder to PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        raise ValueError(f"model = {name!r}: module {module_name!r} has no {attribute!r}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise TypeError(f"model = {name!r} is of type {type(factory).__name__}, which can't be called")
    return factory  # type: ignore[no-any-return]


def _check_parameters(name: str, factory: Callable[..., Any], parameters: dict[str, Any]) -> None:
    """Name a parameter that the model lacks before calling it, so that its own TypeErrors pass unchanged."""
    signature = inspect.signature(factory)
    try:
        signature.bind(input_shape=(), num_classes=2, **parameters)
    except TypeError as error:
        given = {"input_shape", "num_classes"}
        accepted = [parameter for parameter in signature.parameters if parameter not in given]
        raise ValueError(f"model {name!r}: {error}; accepted: {', '.join(accepted) or 'no parameters'}") from error
