"""Errors of phase, timing and frequency: their moments, and that fine grids and coarse ones agree."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from channel.impairments import FrequencyOffset, PhaseError, ResourceGrid, TimingError, frequency_offset_loss

DEVICES = 100_000  # a mean of values of at most 1 has an sd of at most .0032
ONE = ResourceGrid(1e6)


@pytest.mark.parametrize("std", [0.1, 0.5, 1.0])
def test_phase_error_has_the_bias_and_variance_of_r9(std: float) -> None:
    error = PhaseError(std)
    factors = error.rotation(3, DEVICES, ONE, seed=1)[0]
    np.testing.assert_allclose(np.abs(factors), 1.0)
    assert factors.real.mean() == pytest.approx(error.bias(), abs=0.01)
    assert factors.real.var() == pytest.approx(error.variance(), abs=0.01)
    assert abs(factors.imag.mean()) < 0.01

    def density(phase: float) -> float:
        return math.exp(-(phase**2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))

    mean = quad(lambda x: math.cos(x) * density(x), -12 * std, 12 * std)[0]
    square = quad(lambda x: math.cos(x) ** 2 * density(x), -12 * std, 12 * std)[0]
    assert error.bias() == pytest.approx(mean, rel=1e-7)
    assert error.variance() == pytest.approx(square - mean**2, rel=1e-6)


def test_mean_of_devices_with_phase_errors_is_off_by_r9() -> None:
    rng, error = np.random.default_rng(0), PhaseError(0.6)
    weights, updates = np.array([0.5, 0.3, 0.2]), rng.standard_normal((3, 20))
    mean = weights @ updates
    received = [(weights * error.rotation(t, 3, ONE, 2)[0].real) @ updates for t in range(4000)]
    measured = np.mean([np.sum((one - mean) ** 2) for one in received])
    energies = np.sum(updates**2, axis=1)
    predicted = (1 - error.bias()) ** 2 * mean @ mean + error.variance() * weights**2 @ energies
    assert measured == pytest.approx(predicted, rel=0.1)  # sd of the measured is some 2 %


@pytest.mark.parametrize("wrong", [PhaseError(0.3), TimingError(1e-7), FrequencyOffset(30.0)], ids=repr)
def test_factors_are_of_a_device_and_an_exchange_whoever_else_there_is(wrong: Any) -> None:
    grid = ResourceGrid(1e6, subbands=4, slots=3)
    all_of_them = wrong.rotation(5, 10, grid, seed=1)
    assert all_of_them.shape == (12, 10)
    assert all_of_them.dtype == np.complex128
    np.testing.assert_array_equal(wrong.rotation(5, 6, grid, seed=1), all_of_them[:, :6])
    assert not np.allclose(wrong.rotation(5, 10, grid, seed=2), all_of_them)
    oscillator = isinstance(wrong, FrequencyOffset)  # which a device keeps
    assert np.allclose(wrong.rotation(6, 10, grid, seed=1), all_of_them) == oscillator


@pytest.mark.parametrize("wrong", [PhaseError(0.0), TimingError(0.0), FrequencyOffset(0.0)], ids=repr)
def test_no_error_is_no_rotation(wrong: Any) -> None:
    np.testing.assert_array_equal(wrong.rotation(1, 5, ResourceGrid(1e6, 3, 2), seed=0), np.ones((6, 5)))


def test_timing_error_is_a_slope_of_phase_over_frequency() -> None:
    grid, error = ResourceGrid(10e6, subbands=50), TimingError(2e-8)
    offsets, factors = error.offsets(1, 20, 3), error.rotation(1, 20, grid, 3)
    between = factors[1:] * factors[:-1].conj()
    np.testing.assert_allclose(np.angle(between), np.broadcast_to(-2 * math.pi * 2e5 * offsets, (49, 20)), atol=1e-12)
    np.testing.assert_allclose(np.abs(factors), np.broadcast_to(np.sinc(2e5 * offsets), (50, 20)))


def test_timing_error_averages_as_a_characteristic_function() -> None:
    grid, error = ResourceGrid(20e6, subbands=20), TimingError(3e-8)
    mean = error.rotation(1, 20_000, grid, 4).mean(axis=1)
    expected = np.exp(-((2 * math.pi * grid.frequencies * 3e-8) ** 2) / 2)  # the subbands' width takes .0015 off that
    np.testing.assert_allclose(mean, expected, atol=0.03)  # sd .007


@settings(deadline=None, max_examples=30)
@given(subbands=st.integers(2, 16), slots=st.integers(2, 16), std=st.floats(1e-3, 2.0), seed=st.integers(0, 1000))
def test_a_coarse_block_is_the_mean_of_its_fine_ones(subbands: int, slots: int, std: float, seed: int) -> None:
    fine_band, one_band = ResourceGrid(1e6, subbands), ResourceGrid(1e6)
    timing = TimingError(std / 1e6)
    np.testing.assert_allclose(
        timing.rotation(1, 7, fine_band, seed).mean(axis=0), timing.rotation(1, 7, one_band, seed)[0], atol=1e-12
    )
    fine_time = ResourceGrid(1e6, slots=slots, slot_seconds=1e-3 / slots)
    offset = FrequencyOffset(std * 1e3, pilot_slots=None)
    np.testing.assert_allclose(
        offset.rotation(1, 7, fine_time, seed).mean(axis=0), offset.rotation(1, 7, one_band, seed)[0], atol=1e-12
    )


def test_devices_beyond_the_cyclic_prefix_are_lost() -> None:
    error = TimingError(1e-6, cyclic_prefix_s=3e-6)
    factors = error.rotation(1, DEVICES, ResourceGrid(1e5), 5)[0]
    lost = factors == 0
    np.testing.assert_array_equal(lost, np.abs(error.offsets(1, DEVICES, 5)) > 1.5e-6)
    assert lost.mean() == pytest.approx(error.lost_share(), abs=0.005)  # sd .0011
    assert TimingError(1e-6).lost_share() == TimingError(0.0, 1e-6).lost_share() == 0.0


def test_frequency_offset_is_a_ramp_of_phase_that_pilots_reset() -> None:
    grid = ResourceGrid(1e6, subbands=2, slots=6, slot_seconds=1e-3)
    held = FrequencyOffset(20.0, pilot_slots=3)
    offsets, factors = held.offsets(9, 0), held.rotation(1, 9, grid, 0).reshape(6, 2, 9)
    np.testing.assert_array_equal(factors[:, 0], factors[:, 1])  # all subbands of a slot alike
    np.testing.assert_array_equal(factors[:3], factors[3:])
    np.testing.assert_allclose(np.angle(factors[1, 0] * factors[0, 0].conj()), 2 * math.pi * offsets * 1e-3)
    np.testing.assert_allclose(np.abs(factors) ** 2, np.broadcast_to(frequency_offset_loss(offsets, 1e-3), (6, 2, 9)))
    free = FrequencyOffset(20.0, pilot_slots=None).rotation(1, 9, grid, 0).reshape(6, 2, 9)
    np.testing.assert_allclose(np.angle(free[5, 0] * free[3, 0].conj()), np.angle(np.exp(4e-3j * math.pi * offsets)))


def test_loss_within_a_slot_is_the_squared_sinc() -> None:
    offset, slot = 130.0, 2e-3
    real = quad(lambda t: math.cos(2 * math.pi * offset * t) / slot, 0, slot)[0]
    imag = quad(lambda t: math.sin(2 * math.pi * offset * t) / slot, 0, slot)[0]
    assert float(frequency_offset_loss(offset, slot)) == pytest.approx(real**2 + imag**2)
    assert float(frequency_offset_loss(1 / slot, slot)) == pytest.approx(0.0, abs=1e-30)


def test_clocks_in_parts_per_million_are_offsets_in_hertz() -> None:
    assert FrequencyOffset.from_clock(0.1, 3.5e9) == FrequencyOffset(350.0)


def test_grid_has_its_subbands_around_the_carrier_and_its_slots_in_order() -> None:
    grid = ResourceGrid(6e6, subbands=3, slots=2)
    np.testing.assert_allclose(grid.frequencies, [-2e6, 0, 2e6, -2e6, 0, 2e6])
    np.testing.assert_array_equal(grid.slot_of_block, [0, 0, 0, 1, 1, 1])
    assert grid.blocks == 6


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: PhaseError(-1.0), "std is -1.0"),
        (lambda: TimingError(math.nan), "std_s is nan"),
        (lambda: TimingError(1e-6, 0.0), "cyclic_prefix_s is 0.0"),
        (lambda: FrequencyOffset(math.inf), "std_hz is inf"),
        (lambda: FrequencyOffset(1.0, 0), "pilot_slots is 0"),
        (lambda: FrequencyOffset.from_clock(-1.0, 1e9), "std_ppm is -1.0"),
        (lambda: ResourceGrid(0.0), "bandwidth is 0.0"),
        (lambda: ResourceGrid(1e6, 0), "subbands is 0"),
        (lambda: ResourceGrid(1e6, slot_seconds=-1.0), "slot_seconds is -1.0"),
    ],
)
def test_what_is_not_accepted_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
