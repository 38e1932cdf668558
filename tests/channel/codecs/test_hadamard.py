"""The randomised Hadamard transform, and buckets of powers of two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard as sylvester
from torch import Tensor

from channel.codecs.hadamard import RandomizedHadamard, blocks, check_power_of_two, hadamard, joined

torch.set_num_threads(1)


def matrix(transform: RandomizedHadamard) -> Tensor:
    """T of a transform of one bucket, shape (k, n)."""
    return torch.cat([transform.adjoint(row[None]) for row in torch.eye(transform.k)])


@pytest.mark.parametrize("n", [1, 2, 64, 128, 512, 1024])
def test_fast_transform_is_the_hadamard_matrix(n: int) -> None:
    rows = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    exact = rows.double().numpy() @ sylvester(n) / np.sqrt(n)
    # float32 sums of n numbers.
    np.testing.assert_allclose(hadamard(rows).numpy(), exact, atol=1e-5)


@pytest.mark.parametrize("n", [4096, 2**13, 2**19])  # products of two, three and four matrices
def test_large_transform_is_the_kronecker_product(n: int) -> None:
    place = n - 7
    one = torch.zeros(1, n)
    one[0, place] = 1
    signs = 1 - 2 * (np.bitwise_count(np.arange(n) & place) % 2.0)
    np.testing.assert_allclose(hadamard(one)[0].numpy(), signs / np.sqrt(n), rtol=1e-6)


def test_length_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="n = 48"):
        hadamard(torch.ones(1, 48))


@pytest.mark.parametrize(("n", "k"), [(64, 64), (64, 16), (64, 5), (128, 1), (4096, 3)])
def test_rows_are_orthogonal_and_of_squared_length_n_over_k(n: int, k: int) -> None:
    t = matrix(RandomizedHadamard(1, n, k, seed=3))
    torch.testing.assert_close(t @ t.T, n / k * torch.eye(k), atol=1e-4 * n / k, rtol=0)


@pytest.mark.parametrize(("n", "k"), [(64, 64), (64, 16), (4096, 7)])
def test_adjoint_is_the_adjoint(n: int, k: int) -> None:
    transform = RandomizedHadamard(2, n, k, seed=5)
    x, v = torch.randn(2, n), torch.randn(2, k)
    torch.testing.assert_close((transform.forward(x) * v).sum(1), (x * transform.adjoint(v)).sum(1), atol=1e-3, rtol=0)


def test_projection_is_the_identity_on_average() -> None:
    n, k, buckets, seeds = 32, 8, 1000, 20
    one = torch.zeros(buckets, n)
    one[:, 5] = 1
    draws = [RandomizedHadamard(buckets, n, k, seed) for seed in range(seeds)]
    projected = torch.stack([t.adjoint(t.forward(one)) for t in draws]).double()
    others = torch.arange(n) != 5
    # T'T has the diagonal 1 exactly; the others have the variance (n/k - 1)/(n - 1) = 0.097: over 20,000 signs the
    # mean of each is 0 within 5 standard errors, and over 20 choices of rows their mean square is right within 5.
    torch.testing.assert_close(projected[..., 5], torch.ones(seeds, buckets).double(), atol=1e-5, rtol=0)
    assert projected[..., others].mean(dim=(0, 1)).abs().max() < 5 * (0.097 / (buckets * seeds)) ** 0.5
    spread = projected[:, 0, others].square().mean(dim=0)
    assert float(spread.mean()) == pytest.approx((n / k - 1) / (n - 1), rel=1e-4)
    assert spread.std() < 0.06


def test_transforms_of_other_seeds_and_turns_differ() -> None:
    x = torch.ones(1, 256)
    results = [RandomizedHadamard(1, 256, 64, seed, turn).forward(x) for seed in (1, 2) for turn in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    assert torch.equal(results[0], RandomizedHadamard(1, 256, 64, 1).forward(x))


@given(size=st.integers(1, 5000), exponent=st.integers(0, 9))
def test_blocks_hold_every_entry_once(size: int, exponent: int) -> None:
    bucket = 2**exponent
    places = blocks(size, bucket)
    update = torch.arange(1.0, size + 1, dtype=torch.float64)
    cut = [place.cut(update) for place in places]
    assert torch.equal(joined(cut, places), update)
    assert sum(int(rows.sum()) for rows in cut) == size * (size + 1) // 2  # and zeros
    assert sum(int(place.entries.sum()) for place in places) == size
    filled = sum(place.rows * place.width for place in places)
    assert filled - size < (size % bucket or 1)  # less than what is left after the whole buckets
    assert [place.width for place in places[:-1]] == [bucket] * (len(places) - 1)


@pytest.mark.parametrize("bucket", [0, -4, 3, 96, 4.0, True])
def test_bucket_that_is_no_power_of_two_is_refused(bucket: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        check_power_of_two(bucket)
