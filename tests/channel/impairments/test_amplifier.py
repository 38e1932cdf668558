"""Clipping takes from a Gaussian signal what Bussgang's theorem says, and OFDM has the peaks of theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from channel.impairments import Amplifier, papr_exceeds
from channel.mac import pack

torch.set_num_threads(1)


def gaussian(devices: int, uses: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((devices, uses)))


@pytest.mark.parametrize("subcarriers", [None, 64])
@pytest.mark.parametrize("clip_db", [-3.0, 0.0, 4.0])
def test_clipped_gaussian_symbols_keep_bussgangs_gain_and_get_its_distortion(
    clip_db: float, subcarriers: int | None
) -> None:
    amplifier, symbols = Amplifier(clip_db, subcarriers), gaussian(2, 200_000, 1)
    sent = amplifier.transmit(symbols)
    assert sent.shape == symbols.shape
    power = float(symbols.square().mean())
    gain = float((sent * symbols).mean()) / power
    assert gain == pytest.approx(amplifier.gain(), abs=0.005)  # sd below .001
    distortion = float((sent - amplifier.gain() * symbols).square().mean())
    assert distortion == pytest.approx(amplifier.distortion_power(power), rel=0.03, abs=1e-4)


@settings(deadline=None)
@given(clip_db=st.floats(-30.0, 15.0))
def test_gain_and_distortion_are_the_moments_of_a_limiter_of_rayleigh_magnitudes(clip_db: float) -> None:
    level = 10 ** (clip_db / 20)
    # magnitude r of CN(0, 1) has density 2 r exp(-r^2)
    kept = quad(lambda r: r * min(r, level) * 2 * r * math.exp(-r * r), 0, 12, points=[min(level, 11)])[0]
    power = quad(lambda r: min(r, level) ** 2 * 2 * r * math.exp(-r * r), 0, 12, points=[min(level, 11)])[0]
    amplifier = Amplifier(clip_db)
    assert amplifier.gain() == pytest.approx(kept, rel=1e-6)
    assert amplifier.distortion_power(3.0) == pytest.approx(3 * (power - kept**2), abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("subcarriers", [None, 1, 7, 64])
def test_an_amplifier_that_never_saturates_changes_nothing(subcarriers: int | None, dtype: torch.dtype) -> None:
    symbols = gaussian(3, 101, 2).to(dtype)
    sent = Amplifier(40.0, subcarriers).transmit(symbols)
    assert sent.dtype == dtype
    torch.testing.assert_close(sent, symbols)


@settings(deadline=None, max_examples=40)
@given(
    uses=st.integers(1, 60),
    clip_db=st.floats(-10.0, 10.0),
    subcarriers=st.one_of(st.none(), st.integers(1, 20)),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
def test_no_sample_leaves_above_the_level_and_the_scale_does_not_matter(
    uses: int, clip_db: float, subcarriers: int | None, scale: float, seed: int
) -> None:
    amplifier, symbols = Amplifier(clip_db, subcarriers), gaussian(2, uses, seed)
    sent = amplifier.transmit(symbols)
    torch.testing.assert_close(amplifier.transmit(scale * symbols) / scale, sent, rtol=1e-9, atol=1e-12)
    if subcarriers is None:
        peak = pack(sent).abs().square().amax(dim=1)
        mean = pack(symbols).abs().square().mean(dim=1)
        assert bool((peak <= mean * 10 ** (clip_db / 10) * (1 + 1e-9)).all())
    assert bool((sent.square().sum(dim=1) <= symbols.square().sum(dim=1) * (1 + 1e-9)).all())


def test_clipping_keeps_phases() -> None:
    symbols = gaussian(1, 1000, 3)
    before, after = pack(symbols), pack(Amplifier(-6.0).transmit(symbols))
    torch.testing.assert_close(after.angle(), before.angle())


def test_a_silent_device_stays_silent() -> None:
    symbols = gaussian(3, 30, 4)
    symbols[1] = 0.0
    sent = Amplifier(0.0, subcarriers=8).transmit(symbols)
    assert bool(torch.isfinite(sent).all())
    assert not bool(sent[1].any())
    torch.testing.assert_close(sent[[0, 2]], Amplifier(0.0, subcarriers=8).transmit(symbols[[0, 2]]))


def test_ofdm_has_the_peaks_of_independent_gaussian_samples() -> None:
    subcarriers, symbols = 64, 20_000
    samples = Amplifier(0.0, subcarriers).samples(pack(gaussian(1, 2 * subcarriers * symbols, 5)))
    power = samples.reshape(symbols, subcarriers).abs().square()
    for level_db in (4.0, 6.0, 8.0, 10.0):
        ratio = 10 ** (level_db / 10)
        share = float((power.amax(dim=1) > ratio).double().mean())
        expected = float(papr_exceeds(ratio, subcarriers))
        sd = math.sqrt(expected * (1 - expected) / symbols)
        assert share == pytest.approx(expected, abs=5 * sd + 1e-12)


def test_papr_of_one_carrier_is_exponential_and_grows_with_carriers() -> None:
    g = np.array([0.0, 0.5, 3.0])
    np.testing.assert_allclose(papr_exceeds(g, 1), np.exp(-g))
    assert float(papr_exceeds(40.0, 1024)) == pytest.approx(
        1024 * math.exp(-40.0), rel=1e-9, abs=0.0
    )  # digits kept far out
    assert papr_exceeds(5.0, 64) > papr_exceeds(5.0, 16)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Amplifier(math.inf), "clip_db is inf"),
        (lambda: Amplifier(3.0, 0), "subcarriers is 0"),
        (lambda: Amplifier(3.0).transmit(torch.ones(4)), r"symbols has shape \(4,\); accepted: \(K, m\)"),
        (lambda: papr_exceeds(-1.0, 4), "ratio is -1.0"),
        (lambda: papr_exceeds(1.0, 0), "subcarriers is 0"),
    ],
)
def test_what_is_not_accepted_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
