"""Fading has the moments it claims, and a device's channel depends on nothing but its name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import j0

from channel.fading import AWGN, FADINGS, Fading, GaussMarkov, Rayleigh, Rician
from channel.propagation import SPEED_OF_LIGHT

DEVICES = 40_000  # a mean of |g|^2 over them has a standard deviation of .005 at most


@pytest.mark.parametrize("fading", [AWGN(), Rayleigh(), Rician(3.0), GaussMarkov(0.7), GaussMarkov(1.0)], ids=repr)
def test_fading_has_unit_mean_power(fading: Fading) -> None:
    for block in (0, 3):
        drawn = fading.coefficients(block, DEVICES, seed=1)
        assert drawn.shape == (DEVICES,)
        assert drawn.dtype == np.complex128
        assert np.mean(np.abs(drawn) ** 2) == pytest.approx(1.0, abs=0.02)  # 4 standard deviations


def test_rayleigh_powers_are_exponential_and_phases_uniform() -> None:
    drawn = Rayleigh().coefficients(0, DEVICES, seed=2)
    for level in (0.1, 1.0, 2.0):
        assert np.mean(np.abs(drawn) ** 2 > level) == pytest.approx(np.exp(-level), abs=0.01)  # sd .0025
    assert abs(np.mean(drawn**2)) < 0.03  # circular: no preferred direction; sd .007


@pytest.mark.parametrize("k_factor_db", [-5.0, 0.0, 10.0])
def test_rician_power_varies_as_its_k_factor_says(k_factor_db: float) -> None:
    k = 10 ** (k_factor_db / 10)
    power = np.abs(Rician(k_factor_db).coefficients(0, DEVICES, seed=3)) ** 2
    assert np.var(power) == pytest.approx((1 + 2 * k) / (1 + k) ** 2, rel=0.06)  # the sample variance: sd .014


def test_gauss_markov_forgets_geometrically() -> None:
    rho, fading = 0.8, GaussMarkov(0.8)
    blocks = [fading.coefficients(t, DEVICES, seed=4) for t in range(4)]
    for lag in range(4):
        correlation = np.mean(blocks[lag] * np.conj(blocks[0]))
        assert correlation == pytest.approx(rho**lag, abs=0.02)  # sd .005


def test_gauss_markov_is_constant_or_fresh_at_its_ends() -> None:
    frozen = GaussMarkov(1.0)
    np.testing.assert_allclose(frozen.coefficients(5, 10, 0), frozen.coefficients(0, 10, 0))
    fresh = GaussMarkov(0.0)
    correlation = np.mean(fresh.coefficients(1, DEVICES, 0) * np.conj(fresh.coefficients(0, DEVICES, 0)))
    assert abs(correlation) < 0.02


def test_gauss_markov_does_not_depend_on_what_was_asked_before() -> None:
    wanted = {t: GaussMarkov(0.9).coefficients(t, 7, seed=5) for t in range(6)}
    fading = GaussMarkov(0.9)
    for block in (3, 5, 0, 4, 4, 1, 2):
        np.testing.assert_array_equal(fading.coefficients(block, 7, seed=5), wanted[block])
        fading.coefficients(2, 9, seed=6)[:] = 0.0  # another run in between, and its result overwritten
    spoiled = fading.coefficients(3, 7, seed=5)
    spoiled[:] = 0.0
    np.testing.assert_array_equal(fading.coefficients(3, 7, seed=5), wanted[3])


def test_doppler_gives_the_correlation_of_jakes() -> None:
    fading = GaussMarkov.from_doppler(speed_mps=1.0, carrier_hz=2.4e9, interval_s=0.01)
    assert fading.correlation == pytest.approx(j0(2 * np.pi * 2.4e9 / SPEED_OF_LIGHT * 0.01))
    assert GaussMarkov.from_doppler(0.0, 2.4e9, 1.0).correlation == 1.0
    with pytest.raises(ValueError, match=r"use Rayleigh\(\)"):
        GaussMarkov.from_doppler(speed_mps=1.0, carrier_hz=2.4e9, interval_s=0.06)


@pytest.mark.parametrize("fading", [Rayleigh(), Rician(), GaussMarkov()], ids=repr)
def test_draws_are_named_by_seed_and_block(fading: Fading) -> None:
    first = fading.coefficients(1, 5, seed=0)
    np.testing.assert_array_equal(first, fading.coefficients(1, 5, seed=0))
    assert not np.allclose(first, fading.coefficients(2, 5, seed=0))
    assert not np.allclose(first, fading.coefficients(1, 5, seed=1))


def test_bad_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"correlation is 1\.5"):
        GaussMarkov(1.5)
    with pytest.raises(ValueError, match="k_factor_db is nan"):
        Rician(float("nan"))
    assert list(FADINGS) == ["none", "rayleigh", "rician", "gauss-markov"]
