"""Uses and energy over the blocks of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel.power.block_plan import block_energies, block_gain, block_uses

BLOCKS = st.lists(st.tuples(st.integers(1, 300), st.floats(1e-3, 1e3)), min_size=1, max_size=8)


def compression(sizes: Any, norms: Any, uses: Any) -> float:
    d, x, m = np.array(sizes, float), np.array(norms), np.array(uses, float)
    return float(((d / m - 1) * x**2).sum())


def test_uses_follow_the_root_of_the_size_times_the_norm() -> None:
    np.testing.assert_array_equal(block_uses([400, 100, 900], [1.0, 4.0, 2.0], 240), [40, 80, 120])


def test_a_block_gets_one_use_at_least_and_its_size_at_most() -> None:
    np.testing.assert_array_equal(block_uses([10, 1000, 5], [50.0, 1.0, 0.0], 30), [10, 19, 1])
    np.testing.assert_array_equal(block_uses([10, 20], [1.0, 2.0], 99), [10, 20])
    np.testing.assert_array_equal(block_uses([10, 20], [0.0, 0.0], 2), [1, 1])


@given(BLOCKS, st.floats(0, 1))
def test_all_uses_are_spent_and_no_transfer_of_one_use_lowers_the_error(
    blocks: list[tuple[int, float]], fraction: float
) -> None:
    sizes, norms = np.array(blocks).T
    total = len(sizes) + int(fraction * (sizes.sum() - len(sizes)))
    uses = block_uses(sizes, norms, total)
    assert uses.sum() == total
    best = compression(sizes, norms, uses)
    for source, to in np.ndindex(len(sizes), len(sizes)):
        moved = uses.copy()
        moved[source] -= 1
        moved[to] += 1
        if source != to and moved[source] >= 1 and moved[to] <= sizes[to]:
            # errors are differences of terms of up to 300 of the largest norm squared
            assert compression(sizes, norms, moved) >= best - 1e-12 * 300 * (norms**2).sum()


def test_the_error_of_one_code_over_everything_falls_by_the_gain() -> None:
    sizes, norms, total = np.array([50_000, 640, 200]), np.array([1.0, 0.8, 0.3]), 2_000
    one_code = sizes.sum() / total * (norms**2).sum()
    planned = compression(sizes, norms, block_uses(sizes, norms, total)) + (norms**2).sum()
    # whole uses: at most (1/24)/m^2 of each block's term above the real optimum
    assert planned / one_code == pytest.approx(block_gain(sizes, norms), rel=1e-4)


@given(BLOCKS)
def test_the_gain_is_at_most_one_and_is_one_where_energy_is_spread_evenly(blocks: list[tuple[int, float]]) -> None:
    sizes, norms = np.array(blocks).T
    assert block_gain(sizes, norms) <= 1 + 1e-12
    assert block_gain(sizes, 3.0 * np.sqrt(sizes)) == pytest.approx(1, rel=1e-12)


@given(BLOCKS, st.floats(1e-13, 1e3), st.integers(0, 1000))
def test_no_other_energies_of_that_sum_make_less_noise(
    blocks: list[tuple[int, float]], energy: float, seed: int
) -> None:
    sizes, largest = np.array(blocks).T
    energies = block_energies(sizes, largest, energy)
    assert energies.sum() == pytest.approx(energy, rel=1e-12)
    other = np.random.default_rng(seed).dirichlet(np.ones(len(sizes))) * energy
    noise = sizes * largest
    with np.errstate(divide="ignore"):
        assert (noise / energies).sum() <= (noise / other).sum() * (1 + 1e-12)


def test_blocks_that_need_no_energy_get_none_unless_none_needs_any() -> None:
    np.testing.assert_allclose(block_energies([100, 25], [4.0, 0.0], 6.0), [6, 0], rtol=1e-15)
    np.testing.assert_allclose(block_energies([100, 25], [0.0, 0.0], 5.0), [4, 1], rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([10, 0], [1.0, 1.0], 5), "sizes"),
        (([10.5, 3], [1.0, 1.0], 5), "sizes"),
        (([], [], 5), "sizes"),
        (([10, 10], [1.0], 5), "norms has shape"),
        (([10, 10], [1.0, np.nan], 5), "norms"),
        (([10, 10], [1.0, -1.0], 5), "norms"),
        (([10, 10], [1.0, 1.0], 1), "uses is 1"),
        (([10, 10], [1.0, 1.0], 2.5), "uses is 2.5"),
    ],
)
def test_bad_blocks_are_named(arguments: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        block_uses(*arguments)


def test_bad_energies_and_norms_that_are_all_zero_are_named() -> None:
    with pytest.raises(ValueError, match="largest_energies"):
        block_energies([10, 10], [1.0, np.inf], 5.0)
    with pytest.raises(ValueError, match="energy is -1"):
        block_energies([10, 10], [1.0, 1.0], -1.0)
    with pytest.raises(ValueError, match="all zero"):
        block_gain([10, 10], [0.0, 0.0])
