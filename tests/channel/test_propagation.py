"""Propagation in physical units: the numbers an engineer knows by heart."""

from __future__ import annotations

import numpy as np
import pytest

from channel.propagation import (
    FreeSpace,
    LogDistance,
    db_from_linear,
    dbm_from_watts,
    linear_from_db,
    thermal_noise_power,
    uniform_disc,
    watts_from_dbm,
)


def test_thermal_noise_is_minus_174_dbm_per_hz() -> None:
    assert dbm_from_watts(thermal_noise_power(1.0)) == pytest.approx(-174.0)
    assert dbm_from_watts(thermal_noise_power(1e5, noise_figure_db=10 + 40)) == pytest.approx(-74.0)
    assert thermal_noise_power(1e6) == pytest.approx(10**-14.4)


def test_dbm_and_db_go_both_ways() -> None:
    assert watts_from_dbm(30.0) == pytest.approx(1.0)
    assert watts_from_dbm(0.0) == pytest.approx(1e-3)
    assert dbm_from_watts(0.2) == pytest.approx(23.0103, abs=1e-4)
    np.testing.assert_allclose(db_from_linear(linear_from_db([-3.0, 0.0, 20.0])), [-3.0, 0.0, 20.0])


def test_free_space_loses_what_friis_says() -> None:
    # 32.45 + 20 log10 f_GHz + 20 log10 d_m; the constant is rounded to .01 dB
    gain = FreeSpace(2.4e9).power_gain([1.0, 100.0])
    np.testing.assert_allclose(db_from_linear(gain), [-40.05, -80.05], atol=0.01)


def test_log_distance_loses_ten_times_the_exponent_per_decade() -> None:
    gain = LogDistance(exponent=3.5, reference_loss_db=30.0).power_gain([1.0, 10.0, 100.0], seed=0)
    np.testing.assert_allclose(db_from_linear(gain), [-30.0, -65.0, -100.0])


def test_shadowing_is_gaussian_in_db_and_fixed_by_the_seed() -> None:
    model = LogDistance(shadowing_db=8.0)
    loss = db_from_linear(model.power_gain(np.full(20_000, 10.0), seed=1))
    assert np.mean(loss) == pytest.approx(-70.0, abs=0.25)  # 4 standard deviations of .057
    assert np.std(loss) == pytest.approx(8.0, rel=0.02)
    np.testing.assert_array_equal(model.power_gain([10.0], 1), model.power_gain([10.0], 1))


def test_devices_are_spread_evenly_over_the_disc() -> None:
    distances = uniform_disc(20_000, radius=100.0, minimum_distance=10.0, seed=2)
    assert distances.min() >= 10.0
    assert distances.max() <= 100.0
    inside = np.mean(distances <= 50.0)
    assert inside == pytest.approx((50**2 - 10**2) / (100**2 - 10**2), abs=0.012)  # sd .003


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: thermal_noise_power(0.0), "bandwidth_hz is 0.0"),
        (lambda: dbm_from_watts(-1.0), "power is -1.0"),
        (lambda: db_from_linear([0.0]), "ratio is"),
        (lambda: FreeSpace(-1.0), "carrier_hz is -1.0"),
        (lambda: FreeSpace(1e9).power_gain([0.0]), "distances is"),
        (lambda: LogDistance().power_gain([0.5], 0), "distances is"),
        (lambda: LogDistance(shadowing_db=-1.0), "shadowing_db is -1.0"),
        (lambda: LogDistance(reference_distance=0.0), "reference_distance is 0.0"),
        (lambda: uniform_disc(3, 10.0, 20.0, 0), "radius=10.0"),
    ],
)
def test_bad_values_are_refused_by_name(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
