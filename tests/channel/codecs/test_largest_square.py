"""The expected largest square, in closed form and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from channel.codecs.hadamard import RandomizedHadamard
from channel.codecs.largest_square import (
    largest_square,
    largest_square_of_projections,
    largest_square_of_signed_sums,
)

torch.set_num_threads(1)

N = 256


def spread(kind: str) -> torch.Tensor:
    """256 entries, of which some matter more than others."""
    rng = np.random.default_rng(1)
    entries = {
        "t3": rng.standard_t(3, N),
        "one large": np.where(np.arange(N) == 9, 20, rng.standard_normal(N)),
        "twenty": rng.permutation(N) < 20.0,
        "one": np.arange(N) == 9.0,
    }
    return torch.from_numpy(entries[kind].astype(float))


@pytest.mark.parametrize(
    ("k", "expected"), [(1, 1.0), (16, 4.549), (64, 6.914), (128, 8.148), (512, 10.675), (4096, 14.552)]
)
def test_largest_square_of_normals(k: int, expected: float) -> None:
    assert largest_square(k) == pytest.approx(expected, rel=2e-4)  # the table's rounding


@pytest.mark.parametrize("k", [1, 16, 512, 4096])
def test_sums_of_many_equal_entries_are_normal(k: int) -> None:
    many = torch.ones(1, 2**18, dtype=torch.float64)
    assert float(largest_square_of_signed_sums(many, k)) == pytest.approx(largest_square(k), rel=1e-3)


@pytest.mark.parametrize("kind", ["t3", "one large", "twenty", "one"])
@pytest.mark.parametrize("k", [16, 256])
def test_largest_square_of_projections_of_entries_of_which_few_dominate(kind: str, k: int) -> None:
    x = spread(kind)
    x /= x.norm()
    draws = 1500
    v = RandomizedHadamard(draws, N, k, seed=2).forward(x.float().expand(draws, N)) * k**0.5
    # The largest of 16 varies by a half: a standard error of 1.3 %. The approximation is good to 3 %.
    expected = float(v.square().amax(dim=1).mean())
    result = float(largest_square_of_projections(x[None] * 7, k))
    assert result == pytest.approx(expected, rel=0.04)
    assert result < 1.02 * largest_square(k)


def test_zeros_have_no_largest_square_but_zero() -> None:
    assert not largest_square_of_projections(torch.zeros(2, 8, dtype=torch.float64), 4).any()
