"""What pilots tell of a channel, what age leaves of it, and what the pilots cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import j0

from channel.channel import Channel
from channel.impairments import Ageing, ChannelEstimation
from channel.propagation import SPEED_OF_LIGHT

DRAWS = 60_000  # mean squares of complex Gaussians are off by 1/sqrt(60,000) = .4 % of themselves (one sd)
BETA = np.array([0.2, 1.0, 5.0])


def rayleigh(rng: np.random.Generator) -> NDArray[np.complex128]:
    drawn = rng.standard_normal((DRAWS, 3, 1)) + 1j * rng.standard_normal((DRAWS, 3, 1))
    return np.asarray(drawn * np.sqrt(BETA / 2)[:, None])


def mean_square(values: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.asarray(np.mean(np.abs(values) ** 2, axis=(0, 2)))


@pytest.mark.parametrize("pilots", [1, 4])
def test_lmmse_estimate_and_its_error_have_the_powers_of_theory_and_nothing_in_common(pilots: int) -> None:
    rng, noise, power = np.random.default_rng(0), 0.7, 0.5
    estimation = ChannelEstimation(pilots, power)
    h = rayleigh(rng)
    known = estimation.estimate(h, BETA, noise, rng)
    energy = BETA * pilots * power
    np.testing.assert_allclose(mean_square(known), BETA * energy / (energy + noise), rtol=0.02)  # 5 sd
    np.testing.assert_allclose(mean_square(h - known), BETA * noise / (energy + noise), rtol=0.02)
    np.testing.assert_allclose(estimation.estimate_power(BETA, noise), BETA * energy / (energy + noise))
    np.testing.assert_allclose(estimation.error_power(BETA, noise), BETA * noise / (energy + noise))
    # jointly Gaussian: uncorrelated is independent; the sample correlation has an sd of .004
    common = np.mean((h - known) * known.conj(), axis=(0, 2)) / np.sqrt(mean_square(h - known) * mean_square(known))
    assert np.abs(common).max() < 0.02
    both = np.corrcoef(np.abs((h - known)[:, 1, 0]) ** 2, np.abs(known[:, 1, 0]) ** 2)[0, 1]
    assert abs(both) < 0.02


def test_least_squares_is_unbiased_and_errs_by_the_noise_over_the_pilots_energy() -> None:
    rng = np.random.default_rng(1)
    estimation = ChannelEstimation(3, 2.0, "least-squares")
    h = np.full((DRAWS, 3, 1), 0.3 - 0.4j)
    known = estimation.estimate(h, BETA, 1.2, rng)
    np.testing.assert_allclose(known.mean(axis=(0, 2)), 0.3 - 0.4j, atol=0.01)  # sd .0018
    np.testing.assert_allclose(mean_square(known - h), 0.2, rtol=0.02)
    np.testing.assert_allclose(estimation.error_power(BETA, 1.2), 0.2)


@settings(deadline=None)
@given(beta=st.floats(0.0, 1e6), noise=st.floats(0.0, 1e6), pilots=st.integers(1, 1000), power=st.floats(1e-3, 1e3))
def test_lmmse_error_is_never_larger_than_least_squares_or_than_knowing_nothing(
    beta: float, noise: float, pilots: int, power: float
) -> None:
    best = ChannelEstimation(pilots, power).error_power([beta], noise)[0]
    plain = ChannelEstimation(pilots, power, "least-squares").error_power([beta], noise)[0]
    assert best <= min(beta, plain) * (1 + 1e-9) + 1e-300
    split = best + ChannelEstimation(pilots, power).estimate_power([beta], noise)[0]
    assert split == pytest.approx(beta, rel=1e-9, abs=1e-300)  # estimate and error share the channel's power


@pytest.mark.parametrize("estimator", ["lmmse", "least-squares"])
def test_without_noise_or_with_endless_pilots_the_channel_is_known(estimator: Any) -> None:
    rng = np.random.default_rng(2)
    h = rayleigh(rng)[:50]
    exact = ChannelEstimation(1, 1.0, estimator).estimate(h, BETA, 0.0, rng)
    np.testing.assert_allclose(exact, h, rtol=1e-14)
    endless = ChannelEstimation(10**12, 1.0, estimator).estimate(h, BETA, 1.0, rng)
    np.testing.assert_allclose(endless, h, atol=1e-5)  # errors of 1e-6


def test_a_device_out_of_reach_is_believed_to_be_so() -> None:
    h = np.ones((2, 3, 4), dtype=np.complex128)
    h[:, 1] = 0.0
    rng = np.random.default_rng(3)
    for known in (ChannelEstimation().estimate(h, BETA, 1.0, rng), Ageing(0.5).old(h, BETA, rng)):
        assert not known[:, 1].any()
        assert known[:, [0, 2]].all()


def test_pilots_cost_what_their_uses_do_on_the_channel() -> None:
    cost = ChannelEstimation(pilots=3, pilot_power=0.2).cost(devices=10, subbands=4, symbol_time=1e-6)
    assert cost.complex_uses == 120
    assert cost.energy == pytest.approx(3 * 4 * 0.2 * 1e-6, rel=1e-9, abs=0.0)
    for physical, symbol_time in ((True, 1e-6), (False, 2.0)):
        channel = Channel(bandwidth=1e6, physical=physical)
        pilots = ChannelEstimation(3, 0.2).cost(10, 4, symbol_time)
        assert pilots.energy == pytest.approx(float(channel.energy([math.sqrt(0.2)], 2 * 3 * 4)[0]), rel=1e-9, abs=0.0)


@settings(deadline=None)
@given(
    payload=st.integers(0, 10**7),
    frame=st.integers(1, 10**4),
    devices=st.integers(1, 100),
    pilots=st.integers(1, 5),
    subbands=st.integers(1, 4),
)
def test_frames_are_just_enough_for_payload_and_pilots(
    payload: int, frame: int, devices: int, pilots: int, subbands: int
) -> None:
    estimation, overhead = ChannelEstimation(pilots), devices * pilots * subbands
    if overhead >= frame:
        with pytest.raises(ValueError, match="more pilots than the frame holds") as refused:
            estimation.frames(payload, frame, devices, subbands)
        for number in (devices, pilots, frame, overhead):
            assert str(number) in str(refused.value)
        return
    frames = estimation.frames(payload, frame, devices, subbands)
    assert frames * (frame - overhead) >= payload > (frames - 1) * (frame - overhead)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"pilots": 0}, "pilots is 0"),
        ({"pilot_power": 0.0}, "pilot_power is 0.0"),
        ({"pilot_power": math.nan}, "pilot_power is nan"),
        ({"estimator": "best"}, "estimator is 'best'; accepted: 'lmmse', 'least-squares'"),
    ],
)
def test_estimation_says_what_it_does_not_accept(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ChannelEstimation(**arguments)


def test_mean_powers_that_do_not_fit_are_refused() -> None:
    h, rng = np.ones((1, 3, 1), dtype=np.complex128), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"mean_power has shape \(2,\); accepted: \(3,\)"):
        ChannelEstimation().estimate(h, [1.0, 1.0], 1.0, rng)
    with pytest.raises(ValueError, match="noise_power is -1"):
        ChannelEstimation().estimate(h, BETA, -1.0, rng)
    with pytest.raises(ValueError, match="mean_power is"):
        Ageing(0.5).old(h, [1.0, -1.0, 1.0], rng)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.99])
def test_the_old_channel_is_as_strong_as_the_new_and_as_far_from_it_as_its_correlation_says(rho: float) -> None:
    rng = np.random.default_rng(4)
    h, ageing = rayleigh(rng), Ageing(rho)
    old = ageing.old(h, BETA, rng)
    np.testing.assert_allclose(mean_square(old), BETA, rtol=0.025)  # 6 sd
    np.testing.assert_allclose(mean_square(h - old), 2 * (1 - rho) * BETA, rtol=0.025)
    np.testing.assert_allclose(ageing.error_power(BETA), 2 * (1 - rho) * BETA)
    np.testing.assert_allclose(np.mean(old * h.conj(), axis=(0, 2)) / BETA, rho, atol=0.025)


def test_fresh_knowledge_is_exact() -> None:
    h = rayleigh(np.random.default_rng(5))[:10]
    np.testing.assert_array_equal(Ageing(1.0).old(h, BETA, np.random.default_rng(6)), h)


def test_ageing_by_doppler_is_bessels_and_ends_at_its_first_zero() -> None:
    doppler = 3.0 * 3.5e9 / SPEED_OF_LIGHT
    ageing = Ageing.from_doppler(3.0, 3.5e9, 4e-3)
    assert ageing.correlation == pytest.approx(float(j0(2 * math.pi * doppler * 4e-3)))
    assert Ageing.from_doppler(0.0, 3.5e9, 1.0).correlation == 1.0
    with pytest.raises(ValueError, match=r"delay_s is 0\.02"):
        Ageing.from_doppler(3.0, 3.5e9, 0.02)
    with pytest.raises(ValueError, match="speed_mps is -1"):
        Ageing.from_doppler(-1.0, 3.5e9, 1e-3)
    with pytest.raises(ValueError, match=r"correlation is 1\.5"):
        Ageing(1.5)
