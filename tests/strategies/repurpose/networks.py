"""Small models with their inputs, for the tests of restructuring: weights and data that no test draws anew."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from channel.randomness import torch_generator

torch.set_num_threads(1)


def dense(sizes: tuple[int, ...] = (12, 16, 8, 6), seed: int = 0) -> nn.Module:
    """A fully connected network with ReLU between its layers."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return _drawn(nn.Sequential(*layers[:-1]), seed)


def convolutional(seed: int = 0) -> nn.Module:
    """Two convolutions (the first with batch norm), pooling, two dense layers, on 64 pixels."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5),
    )  # fmt: skip
    return _with_statistics(_drawn(model, seed), seed)


class Residual(nn.Module):
    """Convolutions with two skips (one by a 1 x 1 convolution) and a dense layer with a skip, on 1 x 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.third, self.skip = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Conv2d(8, 12, 1, stride=2)
        self.pool, self.dense = nn.AdaptiveAvgPool2d(2), nn.Linear(48, 12)
        self.inner, self.output = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = functional.relu(x + self.second(x))
        x = torch.relu(self.skip(x) + self.third(x))
        x = torch.tanh(self.dense(self.pool(x).flatten(1)))
        outputs: Tensor = self.output(x + self.inner(x))
        return outputs


def residual(seed: int = 0) -> nn.Module:
    """A :class:`Residual` network."""
    return _with_statistics(_drawn(Residual(), seed), seed)


def inputs(model: nn.Module, rows: int = 200, seed: int = 0) -> Tensor:
    """Inputs with a few strong directions, as data have them."""
    generator = torch_generator(seed, "inputs")
    shape: tuple[int, ...] = (1, 8, 8)
    if isinstance(model, nn.Sequential):
        shape = (12,) if isinstance(model[0], nn.Linear) else (64,)
    size = int(torch.Size(shape).numel())
    factors = torch.randn(rows, 5, generator=generator) @ torch.randn(5, size, generator=generator)
    return (factors + 0.3 * torch.randn(rows, size, generator=generator)).reshape(rows, *shape)


def _drawn(model: nn.Module, seed: int) -> nn.Module:
    generator = torch_generator(seed, "weights")
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def _with_statistics(model: nn.Module, seed: int) -> nn.Module:
    """Batch norm with statistics and scales that are not those of the start."""
    generator = torch_generator(seed, "statistics")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
                module.weight.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model
