"""Non-coherent aggregation: unbiased, with the variance of its formula, from mean gains alone and within its power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from channel import AWGN, Channel, Rayleigh, Rician, TransmitOrder
from channel.codes import Code
from channel.codes.energy_chips import EnergyChips
from channel.fading import Fading
from channel.uplinks import Reception, symbol_scale
from channel.uplinks.chip_energies import fading_by_the_exchange
from channel.uplinks.noncoherent import NonCoherentUplink

torch.set_num_threads(1)

CODE = EnergyChips()
SEED = 11
UNEQUAL = np.array([1.0, 0.5, 2.0, 0.1, 1.0])
"""Mean gains of five devices."""


@dataclass
class Chips:
    """A cohort as a receiver of messages has it: symbols in single precision, and norms."""

    X: Tensor
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        self.total, self.size = self.X.shape
        self.devices = np.arange(self.total)
        self.norms = torch.linalg.vector_norm(CODE.sent(self.X), dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return None

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        raise AssertionError("energies are no linear combination")

    def symbols(self, code: Code, seed: int) -> Tensor:
        with np.errstate(divide="ignore"):
            scales = np.where(self.norms > 0, symbol_scale(code, self.size) / self.norms, 0.0)
        return (code.encode(self.X, seed) * torch.from_numpy(scales)[:, None]).float()

    @property
    def mean(self) -> Tensor:
        return torch.from_numpy(self.weights) @ self.X


class Turned(Fading):
    """Another process, with every device's phase turned by an angle of its own."""

    name = "turned"

    def __init__(self, fading: Fading) -> None:
        self.fading = fading

    def coefficients(self, round: int, devices: int, seed: int) -> NDArray[np.complex128]:
        return self.fading.coefficients(round, devices, seed) * np.exp(2j * np.arange(devices))


def cohort(devices: int = 5, size: int = 8, seed: int = 0) -> Chips:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2.0, devices)
    return Chips(torch.from_numpy(rng.standard_normal((devices, size))), weights / weights.sum())


def repeated(devices: int, copies: int) -> Chips:
    """Four entries of each device, over and over: independent trials of the same four."""
    few = cohort(devices, 4)
    return Chips(few.X.repeat(1, copies), few.weights)


def update_of(reception: Reception) -> Tensor:
    assert reception.update is not None
    return reception.update


def within(measured: Tensor, expected: Tensor, trials: int, spread: Tensor) -> bool:
    """Means of so many trials, within five standard deviations."""
    return bool(((measured - expected).abs() < 5.0 * spread / math.sqrt(trials)).all())


# The code.


@settings(max_examples=40, deadline=None)
@given(entries=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_an_update_is_the_difference_of_its_chips_energies(entries: list[float]) -> None:
    update = torch.tensor(entries, dtype=torch.float64)
    chips = CODE.encode(update, seed=0)
    assert bool((chips >= 0).all())
    assert torch.allclose(CODE.decode(chips.square(), len(entries), seed=0), update, rtol=1e-12, atol=0.0)
    assert float(chips.square().sum()) == pytest.approx(float(update.abs().sum()))
    assert float(CODE.sent(update).square().sum()) == pytest.approx(float(update.abs().sum()))


def test_what_is_no_energy_is_refused() -> None:
    with pytest.raises(ValueError, match="received has an entry of -1"):
        CODE.decode(torch.tensor([1.0, -1.0]), size=1, seed=0)


def test_devices_rebuild_the_code_from_the_order() -> None:
    order = NonCoherentUplink().order(3, SEED)
    assert isinstance(TransmitOrder.from_config(order.to_config()).build_code(), EnergyChips)


# The estimate.


@pytest.mark.parametrize("chips", [1, 4])
def test_under_rayleigh_chips_the_estimate_is_unbiased_with_the_variance_of_the_formula(chips: int) -> None:
    copies, noise = 20_000, 0.3
    senders = repeated(6, copies)
    uplink = NonCoherentUplink(Channel(Rayleigh(), noise_power=noise), chips=chips, fading="chip")
    reception = uplink.receive(senders, 1, SEED)
    errors = (update_of(reception) - senders.mean).reshape(copies, 4)

    # S+ and S- of the four entries, and the noise in their unit.
    own = torch.from_numpy(senders.weights)[:, None] * senders.X[:, :4]
    positive, negative = own.clamp(min=0).sum(0), (-own).clamp(min=0).sum(0)
    floor = noise / reception.record["aggregation_gain"]
    variance = ((positive + floor) ** 2 + (negative + floor) ** 2) / chips

    assert within(errors.mean(0), torch.zeros(4), copies, variance.sqrt())
    # Squares of such errors (differences of exponentials) have at most 3 times their mean as standard deviation.
    assert within(errors.square().mean(0), variance, copies, 3.0 * variance)
    assert reception.record["mse_predicted"] == pytest.approx(float(variance.sum()) * copies, rel=1e-6)
    # The receiver's own figure, from energies alone: over so many entries it is known to a percent or so.
    assert reception.noise_variance == pytest.approx(float(variance.mean()), rel=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.4])
@pytest.mark.parametrize("antennas", [1, 3])
def test_with_the_exchange_known_energies_have_the_moments_over_phases_and_noise(noise: float, antennas: int) -> None:
    copies, chips, rng = 20_000, 2, np.random.default_rng(4)
    powers = torch.from_numpy(rng.uniform(0.1, 1.0, (4, 1)) * np.array([[1.0, 0.0]])).repeat_interleave(copies, dim=1)
    gains = rng.standard_normal((1, 4, antennas)) + 1j * rng.standard_normal((1, 4, antennas))
    heard = fading_by_the_exchange(powers, gains, noise, chips, rng)
    energies = heard.energies.reshape(2, copies)
    expected, variance = heard.expected.reshape(2, copies)[:, 0], heard.variance.reshape(2, copies)[:, 0]
    assert within(energies.mean(1), expected + 1e-12, copies, variance.sqrt() + 1e-9)
    # The fourth moment of a sum of a few phases and Gaussian noise is at most that of an exponential, 9 times.
    assert within(energies.var(1), variance, copies, 3.0 * variance + 1e-9)


def test_one_device_is_heard_exactly_where_there_is_neither_fading_nor_noise() -> None:
    alone = cohort(devices=1, size=50)
    reception = NonCoherentUplink(Channel(power_gain=1e-6, noise_power=0.0)).receive(alone, 1, SEED)
    # Symbols are in single precision.
    assert torch.allclose(update_of(reception), alone.mean, rtol=1e-6, atol=0.0)
    assert reception.record["mse_predicted"] == pytest.approx(0.0, abs=1e-9)
    assert reception.snr == math.inf


CHANNELS = {
    "none": Channel(AWGN(), UNEQUAL, noise_power=0.05),
    "rayleigh": Channel(Rayleigh(), UNEQUAL, noise_power=0.05),
    "rician": Channel(Rician(), UNEQUAL, noise_power=0.05),
    "blocks": Channel(Rayleigh(), UNEQUAL, noise_power=0.05, subbands=3, antennas=2),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_over_exchanges_the_estimate_is_unbiased_whatever_the_fading(name: str) -> None:
    senders, exchanges = cohort(), 150
    uplink = NonCoherentUplink(CHANNELS[name], chips=2)
    heard = [uplink.receive(senders, exchange, SEED) for exchange in range(1, exchanges + 1)]
    updates = torch.stack([update_of(reception) for reception in heard])
    assert within(updates.mean(0), senders.mean, exchanges, updates.std(0))
    measured = np.array([reception.record["mse_measured"] for reception in heard])
    predicted = np.array([reception.record["mse_predicted"] for reception in heard])
    apart = measured - predicted
    assert abs(apart.mean()) < 5.0 * apart.std() / math.sqrt(exchanges)


def test_more_chips_divide_the_variance_and_antennas_do_as_well() -> None:
    def predicted(chips: int, antennas: int) -> float:
        channel = Channel(Rayleigh(), noise_power=0.1, antennas=antennas)  # a limit of power: eta stays as it is
        uplink = NonCoherentUplink(channel, power_limit=1.0, chips=chips, fading="chip")
        return float(uplink.receive(cohort(), 1, SEED).record["mse_predicted"])

    assert predicted(6, 1) == pytest.approx(predicted(1, 1) / 6)
    assert predicted(2, 3) == pytest.approx(predicted(6, 1))


def test_many_devices_of_block_fading_sound_like_rayleigh_chips() -> None:
    # Phases of many devices alone make the sum Gaussian: the variance is mu^2 less the little that no device disturbs.
    powers = torch.full((200, 2), 1.0 / 200, dtype=torch.float64)
    gains = np.ones((1, 200, 1), dtype=np.complex128)
    heard = fading_by_the_exchange(powers, gains, 0.5, 1, np.random.default_rng(0))
    assert torch.allclose(heard.variance, heard.expected.square() - 1 / 200, rtol=1e-12)


def test_uses_of_a_chip_are_spread_over_the_resource_blocks() -> None:
    gains = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.complex128).reshape(4, 1, 1)
    powers = torch.cat([torch.ones(1, 6), torch.zeros(1, 6)], dim=1).double()
    one, two, all_four = (
        fading_by_the_exchange(powers, gains, 0.0, chips, np.random.default_rng(0)).energies[:6].tolist()
        for chips in (1, 2, 4)
    )
    assert one == pytest.approx([1.0, 4.0, 9.0, 16.0, 1.0, 4.0])
    assert two == pytest.approx([5.0, 10.0, 5.0, 10.0, 5.0, 10.0])  # blocks half the band apart
    assert all_four == pytest.approx([7.5] * 6)


# What it needs to know.


@pytest.mark.parametrize("fading", ["exchange", "chip"])
def test_phases_of_the_channel_change_nothing(fading: Any) -> None:
    senders, exchanges = cohort(), 120
    heard = {}
    for channel in (Channel(Rayleigh(), noise_power=0.05), Channel(Turned(Rayleigh()), noise_power=0.05)):
        uplink = NonCoherentUplink(channel, fading=fading)
        receptions = [uplink.receive(senders, exchange, SEED) for exchange in range(1, exchanges + 1)]
        heard[channel.fading.name] = torch.stack([update_of(one) for one in receptions])
        amplitudes = np.array([one.record["amplitudes"] for one in receptions])
        assert bool((amplitudes == amplitudes[0]).all())  # devices do not follow the fading
    plain, turned = heard["rayleigh"], heard["turned"]
    spread = plain.std(0)
    assert within(plain.mean(0), turned.mean(0), exchanges, math.sqrt(2) * spread)
    # A kurtosis of some 10 makes the relative deviation of the difference of two variances sqrt(2 * 10 / exchanges).
    assert torch.allclose(plain.var(0), turned.var(0), rtol=5 * math.sqrt(20 / exchanges))


def test_nobody_needs_the_noise_power_to_be_unbiased() -> None:
    senders = repeated(4, 20_000)
    reception = NonCoherentUplink(Channel(noise_power=5.0), fading="chip").receive(senders, 1, SEED)
    errors = (update_of(reception) - senders.mean).reshape(-1, 4)
    assert within(errors.mean(0), torch.zeros(4), len(errors), errors.std(0))


# Power and cost.


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.1, 4.0),
    physical=st.booleans(),
    chips=st.integers(1, 4),
    spread_db=st.floats(0.0, 40.0),
)
def test_no_device_exceeds_the_energy_and_the_one_that_needs_most_takes_it_all(
    seed: int, share: float, physical: bool, chips: int, spread_db: float
) -> None:
    gains = 10 ** (-np.random.default_rng(seed).uniform(0, spread_db, 5) / 10)
    channel = Channel(Rayleigh(), power_gain=gains, physical=physical)
    uplink = NonCoherentUplink(channel, energy_per_round=3.0, chips=chips)
    cost = uplink.receive(cohort(seed=seed), 1, seed, energy_share=share).cost
    assert float(cost.energy.max()) == pytest.approx(3.0 * share)
    assert cost.uses == uplink.grant(8).uses == 4 * 8 * chips
    assert uplink.grant(8).energy == 3.0
    assert cost.air_time == channel.seconds(cost.uses)


def test_at_a_given_energy_as_many_chips_are_best_as_one_has_signal_to_noise() -> None:
    senders, noise = repeated(4, 50), 0.01

    def exchange(chips: int) -> dict[str, Any]:
        uplink = NonCoherentUplink(Channel(noise_power=noise), energy_per_round=30.0, chips=chips, fading="chip")
        return uplink.receive(senders, 1, SEED).record

    own = torch.from_numpy(senders.weights)[:, None] * senders.X
    sums = torch.cat([own.clamp(min=0).sum(0), (-own).clamp(min=0).sum(0)])
    best = exchange(1)["aggregation_gain"] * float(sums.square().mean().sqrt()) / noise
    errors = {chips: exchange(chips)["mse_predicted"] for chips in range(1, 40)}
    assert 2.0 < best < 38.0
    assert abs(min(errors, key=lambda chips: errors[chips]) - best) <= 1.0


def test_the_power_sent_is_that_of_the_chips() -> None:
    senders = cohort()
    reception = NonCoherentUplink(Channel(power_gain=0.25), power_limit=2.0).receive(senders, 1, SEED)
    gain, amplitudes = reception.record["aggregation_gain"], np.array(reception.record["amplitudes"])
    chips = gain * senders.weights[:, None] * senders.X.abs().numpy() / 0.25  # the energy of an entry's pair
    assert amplitudes**2 == pytest.approx(chips.sum(1) / (2 * senders.size))
    assert float((amplitudes**2).max()) == pytest.approx(2.0)


def test_devices_out_of_reach_are_silent_and_do_not_hold_up_the_others() -> None:
    senders = cohort()
    gains = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    uplink = NonCoherentUplink(Channel(power_gain=gains, noise_power=0.0))
    record = uplink.receive(senders, 1, SEED).record
    assert record["amplitudes"][0] == 0.0
    assert min(record["amplitudes"][1:]) > 0.0
    nobody = NonCoherentUplink(Channel(power_gain=0.0)).receive(senders, 1, SEED)
    assert nobody.update is None
    assert not nobody.record["heard"]


def test_updates_of_zeros_are_heard_as_zeros_and_cost_nothing() -> None:
    reception = NonCoherentUplink().receive(Chips(torch.zeros(3, 6).double(), np.full(3, 1 / 3)), 1, SEED)
    assert update_of(reception).tolist() == [0.0] * 6
    assert reception.cost.energy.tolist() == [0.0] * 3


def test_the_same_seed_gives_the_same_reception_and_blocks_have_draws_of_their_own() -> None:
    uplink, senders = NonCoherentUplink(Channel(Rayleigh())), cohort()
    first, again = (update_of(uplink.receive(senders, 2, SEED)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, update_of(uplink.receive(senders, 2, SEED, block=1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chips": 0}, "chips is 0; accepted: an integer >= 1"),
        ({"fading": "fast"}, "fading is 'fast'; accepted: 'exchange', 'chip'"),
        ({"power_limit": 1.0, "energy_per_round": 1.0}, "not both"),
    ],
)
def test_impossible_uplinks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NonCoherentUplink(**arguments)
