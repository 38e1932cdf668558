"""The quantiser has the error of the least-error uniform one, and none of it is the scale's."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from channel.impairments import ADC, best_loading

torch.set_num_threads(1)

# J. Max, "Quantizing for minimum distortion", 1960, table II: step and mean squared error of 2^bits levels.
MAX_1960 = {1: (1.5960, 0.3634), 2: (0.9957, 0.1188), 3: (0.5860, 0.03744), 4: (0.3352, 0.01154), 5: (0.1881, 0.00349)}


@pytest.mark.parametrize("bits", MAX_1960)
def test_the_best_uniform_quantiser_is_that_of_max(bits: int) -> None:
    step, error = MAX_1960[bits]
    assert ADC(bits).step == pytest.approx(step, abs=3e-4)  # the table's last digit
    assert ADC(bits).mean_squared_error() == pytest.approx(error, rel=2e-3)  # of 5 bits it gives three digits


@pytest.mark.parametrize("bits", [1, 3, 6])
@pytest.mark.parametrize("loading", [None, 2.0])
def test_gaussian_samples_come_out_with_the_error_and_gain_it_says(bits: int, loading: float | None) -> None:
    adc = ADC(bits, loading)
    y = 3.0 * torch.from_numpy(np.random.default_rng(bits).standard_normal(400_000))
    power = float(y.square().mean())
    converted = adc.receive(y)
    error = float((converted - y).square().mean()) / power
    assert error == pytest.approx(adc.mean_squared_error(), rel=0.03)  # overload is rare and heavy: sd below 1 %
    assert float((converted * y).mean()) / power == pytest.approx(adc.gain(), rel=0.002)
    assert len(torch.unique(converted)) == 2**bits


@pytest.mark.parametrize("bits", range(1, 13))
def test_at_the_best_loading_what_is_lost_of_the_signal_is_the_error(bits: int) -> None:
    assert 1.0 - ADC(bits).gain() == pytest.approx(ADC(bits).mean_squared_error(), rel=1e-3)
    best, around = ADC(bits).mean_squared_error(), best_loading(bits)
    assert best <= min(ADC(bits, around * f).mean_squared_error() for f in (0.9, 0.99, 1.01, 1.1))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_many_levels_inside_the_range_err_by_a_twelfth_of_the_squared_step(bits: int) -> None:
    adc = ADC(bits, loading=6.5)  # beyond which there is one sample in 10^10
    assert adc.mean_squared_error() == pytest.approx(adc.step**2 / 12, rel=1e-5)


def test_error_vanishes_with_bits() -> None:
    errors = [ADC(bits).mean_squared_error() for bits in range(1, 13)]
    assert all(finer < coarser for coarser, finer in pairwise(errors))
    y = torch.from_numpy(np.random.default_rng(0).standard_normal(10_000))
    torch.testing.assert_close(ADC(16, loading=6.0).receive(y), y, rtol=0, atol=1e-4)  # half a step


@settings(deadline=None, max_examples=50)
@given(bits=st.integers(1, 10), power_of_two=st.integers(-30, 30), seed=st.integers(0, 1000))
def test_gain_control_makes_the_scale_irrelevant_and_samples_near_their_levels(
    bits: int, power_of_two: int, seed: int
) -> None:
    adc, y = ADC(bits), torch.from_numpy(np.random.default_rng(seed).standard_normal(64))
    converted = adc.receive(y)
    torch.testing.assert_close(adc.receive(y * 2.0**power_of_two), converted * 2.0**power_of_two)
    step = adc.step * float(y.square().mean().sqrt())
    inside = y.abs() <= step * 2 ** (bits - 1)
    assert bool(((converted - y).abs()[inside] <= step / 2 * (1 + 1e-9)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silence_stays_silence_and_the_type_stays(dtype: torch.dtype) -> None:
    assert not bool(ADC(4).receive(torch.zeros(5, dtype=dtype)).any())
    assert ADC(4).receive(torch.ones(5, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ADC(0), "bits is 0; accepted: a whole number from 1 to 16"),
        (lambda: ADC(17), "bits is 17"),
        (lambda: ADC(4, -1.0), r"loading is -1\.0"),
        (lambda: ADC(4, math.nan), "loading is nan"),
    ],
)
def test_what_is_not_accepted_is_named(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()
