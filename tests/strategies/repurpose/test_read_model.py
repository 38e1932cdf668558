"""What can be read and split, and what is refused by its module path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from strategies.repurpose import UnsupportedLayer, read_model
from tests.strategies.repurpose.networks import convolutional, dense, inputs, residual

MODELS = [dense, convolutional, residual]


@pytest.mark.parametrize("build", MODELS)
def test_a_network_read_is_the_model(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = inputs(model)
    # batch norm is folded in float32: a few roundings of numbers of order one
    assert torch.allclose(read_model(model, x).run(x), model(x), atol=2e-6)


def test_reading_leaves_the_model_as_it_was() -> None:
    model = convolutional().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    read_model(model, inputs(model))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "path", "said"),
    [
        (nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 4)), "0", "LayerNorm"),
        (nn.Sequential(nn.Linear(12, 4), nn.Softmax(1)), "1", "Softmax"),
        (nn.Sequential(nn.Linear(12, 4), nn.PReLU(4), nn.Linear(4, 4)), "1", "PReLU"),
        (nn.Sequential(nn.Linear(12, 4), nn.ReLU()), "1", "after the last layer"),
        (nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 4)), "2", "folded"),
        (nn.Sequential(nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 4, 1))), "0.1", "Conv1d"),
        (nn.Sequential(nn.Unflatten(1, (2, 2, 3)), nn.Conv2d(2, 4, 1, groups=2)), "1", "groups = 2"),
        (nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Linear(3, 4)), "1", "accepted: (N, features)"),
        (nn.Sequential(nn.Flatten(0), nn.Linear(24, 4)), "0", "mixes inputs"),
        (nn.Sequential(nn.ReLU()), "model", "no layer with weights"),
    ],
)
def test_what_cannot_be_split_is_named(layer: nn.Module, path: str, said: str) -> None:
    with pytest.raises(UnsupportedLayer, match=rf"^{path}: ") as refused:
        read_model(layer, torch.zeros(3, 12))
    assert said in str(refused.value)


class Joined(nn.Module):
    """Two branches one beside the other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        joined: Tensor = self.two(torch.cat([y, y], dim=1))
        return joined


class Branching(nn.Module):
    """Steps that depend on the data."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else functional.relu(x)


def test_concatenation_and_branches_are_refused() -> None:
    with pytest.raises(UnsupportedLayer, match="cat"):
        read_model(Joined(), torch.zeros(3, 12))
    with pytest.raises(UnsupportedLayer, match="depend on the data"):
        read_model(Branching(), torch.zeros(3, 12))


def test_inputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"calibration_inputs of shape \(N, 7\)"):
        read_model(dense(), torch.zeros(3, 7))


def test_a_layer_used_twice_is_refused() -> None:
    layer = nn.Linear(12, 12)
    with pytest.raises(UnsupportedLayer, match="used twice"):
        read_model(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(3, 12))
