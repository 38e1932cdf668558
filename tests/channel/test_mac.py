"""The channel of a scenario, the superposition in it, and the ledger of what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from channel.channel import Channel, ChannelState
from channel.fading import Rayleigh
from channel.ledger import Cost, Ledger
from channel.mac import effective_real, pack, receive, superpose, unpack
from channel.power import MinimumMSE


def test_a_device_has_the_same_channel_whoever_else_takes_part() -> None:
    channel = Channel(fading=Rayleigh(), power_gain=np.linspace(0.1, 1.0, 10))
    everyone = channel.state(3, np.arange(10), 10, seed=1)
    some = channel.state(3, [7, 2], 10, seed=1)
    np.testing.assert_array_equal(some.gains, everyone.gains[[7, 2]])


def test_gains_are_fading_over_path_loss() -> None:
    gains = Channel(power_gain=np.array([0.25, 4.0])).state(0, [0, 1], 2, 0).gains
    np.testing.assert_allclose(gains, [0.5, 2.0])


def test_energy_and_time_follow_the_units() -> None:
    physical = Channel(bandwidth=1e6, physical=True, noise_power=1e-13)
    assert physical.seconds(2000) == pytest.approx(1e-3)  # 1000 complex uses at one a microsecond
    np.testing.assert_allclose(physical.energy([np.sqrt(0.2)], 2000), [2e-4])  # .2 W for a millisecond
    np.testing.assert_allclose(Channel().energy([2.0], 785), [4.0 * 785])


def test_packing_keeps_energy_and_comes_back() -> None:
    symbols = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    packed = pack(symbols)
    assert packed.shape == (3, 4)
    assert float(packed.abs().square().sum()) == pytest.approx(float(symbols.square().sum()) / 2)
    torch.testing.assert_close(unpack(packed, 7), symbols)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_noise_complex_and_real_models_are_the_same_sum(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    state = ChannelState(rng.standard_normal(4) + 1j * rng.standard_normal(4), 0.0)
    symbols = torch.from_numpy(rng.standard_normal((4, 9))).to(dtype)
    amplitudes = rng.uniform(0.1, 1.0, 4)
    real = effective_real(symbols, state, amplitudes, rng)
    assert real.dtype == dtype
    complex_ = superpose(symbols, state, amplitudes, rng)
    assert complex_.shape == (5,)
    torch.testing.assert_close(unpack(complex_, 9), real)


def test_complex_and_real_models_have_the_error_that_power_control_predicts() -> None:
    rng, uses, noise = np.random.default_rng(1), 100_000, 0.5
    state = ChannelState(rng.standard_normal(3) + 1j * rng.standard_normal(3), noise)
    weights = np.array([0.5, 0.3, 0.2])
    allocation = MinimumMSE("closed-form").allocate(state.gains, weights, 1.0, noise)
    symbols = torch.from_numpy(rng.standard_normal((3, uses)))
    wanted = torch.from_numpy(weights) @ symbols
    a = allocation.receive_scale
    for received in (
        unpack(superpose(symbols, state, allocation.amplitudes, rng), uses),
        effective_real(symbols, state, allocation.amplitudes, rng),
    ):
        error = (a * received - wanted).square().mean()
        assert float(error) == pytest.approx(allocation.mse, rel=0.02)  # sd of a variance of 1e5 draws: .0045
    sent = pack(symbols) * torch.from_numpy(allocation.amplitudes)[:, None]
    np.testing.assert_allclose(sent.abs().square().mean(1), allocation.amplitudes**2, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_has_the_power_and_dtype_asked_for(dtype: torch.dtype) -> None:
    received = receive(torch.full((100_000,), 3.0, dtype=dtype), 0.25, np.random.default_rng(2))
    assert received.dtype == dtype
    assert float(received.mean()) == pytest.approx(3.0, abs=0.01)
    assert float(received.var()) == pytest.approx(0.25, rel=0.02)


def test_the_ledger_adds_up_per_device() -> None:
    ledger = Ledger(3)
    ledger.charge(0, [2, 0], Cost(uses=785, energy=np.array([1.0, 2.0]), air_time=1e-3, bits=32))
    ledger.charge(1, [2], Cost(uses=10, energy=np.array([5.0]), air_time=2e-3, compute_time=0.5))
    assert (ledger.uses, ledger.complex_uses, ledger.bits) == (795, 393 + 5, 32)
    assert ledger.air_time == pytest.approx(3e-3)
    assert (ledger.compute_time, ledger.clock) == (0.5, pytest.approx(0.503))
    assert ledger.bits_mean == pytest.approx(32 / 3)
    np.testing.assert_allclose(ledger.energy, [2.0, 0.0, 6.0])
    assert ledger.energy_mean == pytest.approx(8 / 3)
    assert ledger.energy_max == 6.0
    ledger.grow(5)
    np.testing.assert_allclose(ledger.energy, [2.0, 0.0, 6.0, 0.0, 0.0])
    assert ledger.totals()["channel_uses"] == 795
    assert [round_ for round_, _ in ledger.exchanges] == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Channel(noise_power=-1.0), "noise_power is -1.0"),
        (lambda: Channel(bandwidth=0.0), "bandwidth is 0.0"),
        (lambda: Channel(power_gain=np.array([1.0, np.nan])), "power_gain is"),
        (lambda: Channel(power_gain=np.ones(3)).state(0, [0], 2, 0), r"power_gain has shape \(3,\)"),
        (lambda: Channel().state(0, [2], 2, 0), "devices is"),
        (lambda: receive(torch.zeros(2), -1.0, np.random.default_rng(0)), "noise_power is -1.0"),
        (lambda: unpack(torch.zeros(3, dtype=torch.complex64), 9), "9 real uses take 5"),
        (
            lambda: effective_real(
                torch.zeros(2, 4), ChannelState(np.ones(3) + 0j, 0.0), [1, 1], np.random.default_rng(0)
            ),
            "symbols has shape",
        ),
        (lambda: Cost(uses=-1, energy=np.ones(1), air_time=0.0), "uses is -1"),
        (lambda: Cost(uses=1, energy=np.array([-1.0]), air_time=0.0), "energy is"),
        (lambda: Ledger(-1), "devices is -1"),
        (lambda: Ledger(2).charge(0, [0, 0], Cost(1, np.ones(2), 0.0)), "devices is"),
        (lambda: Ledger(2).charge(0, [2], Cost(1, np.ones(1), 0.0)), "devices is"),
    ],
)
def test_bad_values_are_refused_by_name(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
