"""The steps of several fully connected networks at once are those of each."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clients.batched_dense import batched_dense_step
from clients.dense import DenseNetwork

torch.set_num_threads(1)  # small products: threads would only wait for each other


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=2, max_size=5),
    bias=st.booleans(),
    devices=st.integers(1, 5),
    rows=st.integers(1, 12),
    l2=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_a_step_of_several_networks_is_that_of_each(
    sizes: list[int], bias: bool, devices: int, rows: int, l2: float, seed: int
) -> None:
    """In float64 both are exact to rounding; weights are of order one."""
    draws = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draws, dtype=torch.float64)

    layers = list(pairwise(sizes))
    weights = [normal(devices, narrow, wide) for wide, narrow in layers]
    biases = [normal(devices, narrow) if bias else None for _, narrow in layers]
    x, y = normal(devices, rows, sizes[0]), torch.randint(0, sizes[-1], (devices, rows), generator=draws)
    each = [
        DenseNetwork(tuple(w[i].clone() for w in weights), tuple(None if b is None else b[i].clone() for b in biases))
        for i in range(devices)
    ]
    expected = [network.step(x[i], y[i], 0.1, l2) for i, network in enumerate(each)]
    losses = batched_dense_step(weights, biases, x, y, 0.1, l2)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-12, atol=1e-12)
    for i, network in enumerate(each):
        for mine, theirs in zip(weights + biases, network.weights + network.biases, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                torch.testing.assert_close(mine[i], theirs, rtol=1e-10, atol=1e-12)
