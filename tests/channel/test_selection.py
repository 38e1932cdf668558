"""Device selection: the threshold of one antenna, the promise kept, near the best of all subsets."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel.power import ChannelInversion, MinimumMSE
from channel.power.combining import CombiningProblem
from channel.power.power_control import Real
from channel.power.selection import LargestSet
from channel.power.zero_forcing import ZeroForcing

CLOSED_FORM = MinimumMSE("closed-form")


def instance(
    seed: int, devices: int, antennas: int, snr_db: float = 8.0
) -> tuple[NDArray[np.complex128], Real, Real, float]:
    rng = np.random.default_rng(seed)
    shape = (devices, antennas)
    gains = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)
    return gains, np.full(devices, 1 / devices), np.ones(devices), 10 ** (-snr_db / 10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), devices=st.integers(1, 8), mse=st.floats(0.001, 0.9))
def test_with_one_antenna_the_set_is_a_threshold(seed: int, devices: int, mse: float) -> None:
    gains, _, limits, noise = instance(seed, devices, 1)
    weights = np.random.default_rng(seed).dirichlet(np.full(devices, 3.0))
    combined = LargestSet(mse).combine(gains, weights, limits, noise, ChannelInversion())
    expected = noise * weights**2 / (limits * np.abs(gains[:, 0]) ** 2) <= mse * weights @ weights
    np.testing.assert_array_equal(combined.selected, expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), antennas=st.integers(1, 4), mse=st.floats(0.01, 0.3))
def test_the_selected_devices_keep_the_promise_and_the_others_are_silent(seed: int, antennas: int, mse: float) -> None:
    given_ = instance(seed, 6, antennas)
    bound = mse * float(given_[1] @ given_[1])
    for policy in (ChannelInversion(), CLOSED_FORM):
        combined = LargestSet(mse).combine(*given_, policy)
        assert combined.selected is not None
        assert combined.allocation.mse <= bound * (1 + 1e-8)
        np.testing.assert_array_equal(combined.allocation.amplitudes > 0, combined.selected)
        assert (combined.allocation.warning == "") == combined.selected.any()


def largest_of_all_subsets(problem: CombiningProblem, mse: float) -> int:
    """Sizes downward, each subset with zero-forcing from many starts."""
    devices = len(problem.weights)
    needed = problem.noise_power / (mse * float(problem.weights @ problem.weights))
    for size in range(devices, 0, -1):
        for members in combinations(range(devices), size):
            chosen = np.isin(np.arange(devices), members)
            best = ZeroForcing(devices, tolerance=1e-4).candidates(problem.only(chosen))[0]
            if np.linalg.norm(best) ** 2 * needed <= 1.0 + 1e-9:  # ||f||^2 with min |f^H g| = 1
                return size
    return 0


def test_leaving_out_one_by_one_is_within_one_device_of_the_best_subset() -> None:
    sizes = []
    for seed in range(8):
        problem = CombiningProblem(*instance(seed, 5, 2, snr_db=6.0))
        _, chosen = LargestSet(0.04).select(problem)
        sizes.append((int(chosen.sum()), largest_of_all_subsets(problem, 0.04)))
    short = [best - found for found, best in sizes]
    assert min(short) >= 0
    assert max(short) <= 1
    assert sum(short) <= 2
    assert 0 < sum(found for found, _ in sizes) < 5 * 8  # the cases are neither hopeless nor trivial


def test_a_looser_target_hears_at_least_as_many() -> None:
    given_ = instance(3, 8, 3, snr_db=4.0)
    heard = [int(np.sum(LargestSet(mse).select(CombiningProblem(*given_))[1])) for mse in (0.002, 0.01, 0.05, 0.5)]
    assert heard == sorted(heard)
    assert heard[0] < 8
    assert heard[-1] == 8


def test_more_antennas_hear_more_devices() -> None:
    heard = [
        sum(int(LargestSet(0.03).select(CombiningProblem(*instance(seed, 8, m)))[1].sum()) for seed in range(5))
        for m in (2, 4, 8)
    ]
    assert heard[0] < heard[1] <= heard[2]


def test_rescaled_by_their_weight_the_estimate_is_the_mean_of_those_selected() -> None:
    gains, _, limits, noise = instance(5, 6, 2, snr_db=6.0)
    weights = np.random.default_rng(0).dirichlet(np.full(6, 3.0))
    combined = LargestSet(0.05).combine(gains, weights, limits, noise, ChannelInversion())
    assert combined.selected is not None
    assert 0 < combined.selected.sum() < 6
    share = float(weights[combined.selected].sum())
    mean = combined.rescaled(1 / share)
    strength = mean.allocation.receive_scale * np.abs(gains @ mean.combiner.conj()) * mean.allocation.amplitudes
    np.testing.assert_allclose(strength, np.where(combined.selected, weights / share, 0.0), rtol=1e-9)
    assert strength.sum() == pytest.approx(1.0, rel=1e-9)
    assert mean.allocation.mse == pytest.approx(noise * mean.allocation.receive_scale**2, rel=1e-9)


@pytest.mark.parametrize("antennas", [1, 3])
def test_a_target_out_of_reach_leaves_everybody_silent_and_says_so(antennas: int) -> None:
    combined = LargestSet(1e-6).combine(*instance(6, 4, antennas, snr_db=-10.0), CLOSED_FORM)
    assert combined.selected is not None
    assert not combined.selected.any()
    assert combined.allocation.receive_scale == 0.0
    np.testing.assert_array_equal(combined.allocation.amplitudes, 0.0)
    assert "nobody sends" in combined.allocation.warning


@pytest.mark.parametrize("mse", [0.0, 1.0, -0.5, float("nan")])
def test_a_target_outside_zero_to_one_is_refused(mse: Any) -> None:
    with pytest.raises(ValueError, match="mse is"):
        LargestSet(mse)
