"""What can be read and split, and what is refused by its module path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from channel.randomness import torch_generator
from strategies.repurpose import UnsupportedLayer, calibrate, read_model
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
        (
            nn.Sequential(nn.Unflatten(1, (1, 2, 6)), nn.AvgPool2d(2, divisor_override=1), nn.Flatten()),
            "1",
            "divisor_override = 1; accepted: None",
        ),
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


class Written(nn.Module):
    """A layer, a function of its outputs, and a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Conv2d(1, 2, 3, padding=1), function, nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.function(self.first(x)).flatten(1))
        return outputs


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: functional.avg_pool2d(x, 3, 1, 1, False, False), "6 arguments without names; accepted: the input, "),
        (lambda x: torch.add(x, torch.relu(x), alpha=2), "an addition with {'alpha': 2}; accepted: without"),
    ],
)
def test_arguments_that_are_not_read_are_refused(function: Callable[[Tensor], Tensor], said: str) -> None:
    with pytest.raises(UnsupportedLayer) as refused:
        read_model(Written(function), torch.zeros(3, 1, 8, 8))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
        lambda x: functional.max_pool2d(x, 3, 1, 1),
        lambda x: torch.add(x, torch.relu(x)),
    ],
)
def test_arguments_that_are_read_are_meant(function: Callable[[Tensor], Tensor]) -> None:
    model, x = Written(function), torch.randn(5, 1, 8, 8, generator=torch_generator(0, "inputs"))
    assert torch.allclose(calibrate(model, x).network.run(x), model(x), atol=1e-5)


def test_a_model_that_is_read_as_another_is_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].register_forward_hook(lambda _, __, outputs: 2.0 * outputs)  # hooks are not in a module's graph
    with pytest.raises(UnsupportedLayer, match="model Sequential: as it is read it gives other outputs"):
        calibrate(model, inputs(dense()))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (
            torch.zeros(3, 7),
            r"shape \(N, 7\) and type torch.float32: .* \(mat1 .*accepted: what 0 takes, in_features = 12",
        ),
        (torch.zeros(3, 12, dtype=torch.float64), r"type torch.float64: .*accepted: .* in_features = 12 torch.float32"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_refused_without_a_traceback(
    x: Tensor, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=said):
        read_model(dense(), x)
    assert capfd.readouterr() == ("", "")


def test_maps_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"accepted: what first takes, in_channels = 1 torch\.float32"):
        read_model(residual(), torch.zeros(3, 2, 8, 8))


def test_a_layer_used_twice_is_refused() -> None:
    layer = nn.Linear(12, 12)
    with pytest.raises(UnsupportedLayer, match="used twice"):
        read_model(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(3, 12))
