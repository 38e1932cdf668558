"""Inputs and errors of dense layers against automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.factors import dense_factors

torch.set_num_threads(1)


class Twice(nn.Module):
    """A layer called twice, the second time by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.shared(input=torch.tanh(self.shared(x)))))
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu in place": (
        lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(inplace=True), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
        (9, 12),
    ),
    "one row": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (1, 3, 4)),
    "convolution below": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (7, 1, 6, 6),
    ),
    "called twice": (Twice, (5, 6)),
    "dropout": (lambda: nn.Sequential(nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3)), (9, 12)),
}


def made(name: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    build, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build().double()
        inputs = torch.randn(shape, dtype=torch.float64)
        targets = torch.randint(3, (shape[0],))

    def loss() -> Tensor:
        with torch.random.fork_rng():  # one dropout mask for all calls
            torch.manual_seed(2)
            return functional.cross_entropy(model(inputs), targets)

    return model, loss


@pytest.mark.parametrize("name", MODELS)
def test_product_of_the_factors_is_the_gradient_of_the_weight_and_row_sum_that_of_the_bias(name: str) -> None:
    model, loss = made(name)
    factors = dense_factors(model, loss)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert list(factors) == list(layers)
    loss().backward()
    for layer, module in layers.items():
        # float64: rounding is 1e-16 of entries near 1.
        torch.testing.assert_close(factors[layer].gradient, module.weight.grad.T, rtol=1e-12, atol=1e-14)
        if module.bias is not None:
            torch.testing.assert_close(factors[layer].errors.sum(dim=0), module.bias.grad, rtol=1e-12, atol=1e-14)


def test_product_is_the_gradient_in_float32() -> None:
    model, _ = made("relu in place")
    model.float()
    inputs, targets = torch.randn((9, 12), generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    factors = dense_factors(model, lambda: functional.cross_entropy(model(inputs), targets))
    functional.cross_entropy(model(inputs), targets).backward()
    for layer, found in factors.items():
        expected = model.get_submodule(layer).weight.grad
        torch.testing.assert_close(found.gradient.T, expected, rtol=1e-6, atol=1e-7)


def test_inputs_are_what_the_layer_saw_with_a_row_for_each_call_and_position() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    sequences = torch.arange(24.0).view(2, 3, 4)
    factors = dense_factors(model, lambda: model(sequences).square().mean())
    assert torch.equal(factors["0"].inputs, sequences.view(6, 4))
    assert factors["0"].errors.shape == (6, 3)
    twice, loss = made("called twice")
    assert dense_factors(twice, loss)["shared"].inputs.shape == (10, 6)


def test_gradients_parameters_and_hooks_of_the_model_are_left_as_they_were() -> None:
    model, loss = made("relu in place")
    loss().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    with torch.no_grad():  # a caller's mode does not matter
        dense_factors(model, loss)
    assert all(torch.equal(p.grad, kept) for p, kept in zip(model.parameters(), before, strict=True))
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_removed_if_the_loss_fails() -> None:
    model, _ = made("relu in place")
    with pytest.raises(RuntimeError):
        dense_factors(model, lambda: model(torch.zeros(2, 99)).sum())
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_and_uncalled_layers_are_left_out_and_those_without_effect_have_zero_errors() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(4, 5)])
    model[0].requires_grad_(requires_grad=False)

    def loss() -> Tensor:
        hidden = model[0](torch.ones(6, 4))
        model[3](hidden)
        return model[1](hidden).square().sum()

    factors = dense_factors(model, loss)
    assert list(factors) == ["1", "3"]
    assert factors["3"].errors.shape == (6, 5)
    assert not factors["3"].errors.any()
    assert factors["1"].errors.any()


def test_a_loss_without_layers_or_of_many_numbers_is_refused() -> None:
    model, _ = made("relu in place")
    inputs = torch.zeros(2, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"loss: returned shape \(2, 3\); expected \(\)"):
        dense_factors(model, lambda: model(inputs))
    with pytest.raises(ValueError, match="loss: depends on none of the model's linear layers"):
        dense_factors(model, lambda: inputs.sum())
