"""Neighbouring cells add power as so many Rayleigh-faded signals do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import gamma, kstest

from channel.impairments import Interference


@pytest.mark.parametrize("interferers", [1, 6])
def test_power_is_gamma_with_the_mean_and_variance_it_says(interferers: int) -> None:
    powers = np.array([Interference(2.5, interferers).power(t, seed=1) for t in range(5_000)])
    assert powers.mean() == pytest.approx(2.5, rel=0.06)  # sd at most 1.4 %
    assert powers.var() == pytest.approx(2.5**2 / interferers, rel=0.2)  # sd at most 4 %
    # One test of fixed draws: a false alarm would have been seen once and for all.
    assert kstest(powers, gamma(interferers, scale=2.5 / interferers).cdf).pvalue > 0.001


def test_power_is_that_of_its_exchange_and_seed() -> None:
    neighbours = Interference(1.0, 3)
    assert neighbours.power(4, seed=0) == Interference(1.0, 3).power(4, seed=0)
    assert len({neighbours.power(t, seed) for t in range(3) for seed in range(3)}) == 9
    assert neighbours.power(4, 0) == pytest.approx(Interference(10.0, 3).power(4, 0) / 10)


def test_ratio_to_noise_sets_the_mean_and_many_neighbours_make_it_steady() -> None:
    assert Interference.over_noise(3.0, 1e-13).mean_power == pytest.approx(1e-13 * 10**0.3, rel=1e-9, abs=0.0)
    assert Interference(1.0, 10**8).power(1, 0) == pytest.approx(1.0, abs=1e-3)  # sd 1e-4
    assert Interference(0.0).power(1, 0) == 0.0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Interference(-1.0), r"mean_power is -1\.0"),
        (lambda: Interference(math.nan), "mean_power is nan"),
        (lambda: Interference(1.0, 0), "interferers is 0"),
        (lambda: Interference.over_noise(math.inf, 1.0), "inr_db is inf"),
        (lambda: Interference.over_noise(0.0, 0.0), r"noise_power is 0\.0"),
    ],
)
def test_what_is_not_accepted_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
