"""Written-out gradient steps are those of automatic differentiation."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from clients.dense import DenseNetwork
from clients.models import build


def network(sizes: list[int], bias: bool, seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for wide, narrow in pairwise(sizes):
            layers += [nn.Linear(wide, narrow, bias=bias, dtype=torch.float64), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    bias=st.booleans(),
    rows=st.integers(1, 12),
    l2=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_a_step_equals_that_of_automatic_differentiation(
    sizes: list[int], bias: bool, rows: int, l2: float, seed: int
) -> None:
    """In float64 both are exact to rounding; weights are of order one."""
    stepped, reference = network(sizes, bias, seed), network(sizes, bias, seed)
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, sizes[0], generator=draws, dtype=torch.float64)
    y = torch.randint(0, sizes[-1], (rows,), generator=draws)
    dense = DenseNetwork.of(stepped)
    assert dense is not None
    loss = dense.step(x, y, learning_rate=0.1, l2=l2)

    expected = functional.cross_entropy(reference(x), y)
    penalty = sum((p.square().sum() for p in reference.parameters()), torch.zeros(()))
    (expected + l2 / 2 * penalty).backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(stepped.parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(mine.detach(), theirs.detach() - 0.1 * theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_named_dense_models_are_recognised(name: str) -> None:
    assert DenseNetwork.of(build(name, (784,), 10)) is not None


@pytest.mark.parametrize(
    "model",
    [
        build("cnn", (64,), 10),
        nn.Sequential(),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.Linear(4, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2)),
        nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(3, 2)),
        nn.Linear(4, 3),
    ],
)
def test_other_models_are_left_to_automatic_differentiation(model: nn.Module) -> None:
    assert DenseNetwork.of(model) is None


def test_a_frozen_layer_is_left_to_automatic_differentiation() -> None:
    model = build("mlp", (16,), 3)
    next(model.parameters()).requires_grad_(False)
    assert DenseNetwork.of(model) is None
