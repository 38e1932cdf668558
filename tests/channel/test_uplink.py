"""Uplinks: what the server hears of known updates, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    UPLINKS,
    AnalogUplink,
    Channel,
    ChannelInversion,
    DigitalUplink,
    FullPower,
    IdealUplink,
    MinimumMSE,
    NonCoherentUplink,
    RandomLinearCode,
    RandomMask,
    Rayleigh,
    SparseAMP,
    TruncatedInversion,
    Uncoded,
    generator,
    key,
)
from channel.codes import Code
from channel.impairments import Amplifier
from channel.power import PowerControl
from channel.uplinks import symbol_scale

# Small products: threads would only wait for each other, and pytest may run beside other work.
torch.set_num_threads(1)


@dataclass
class Updates:
    """A cohort with all its updates at hand, rows of X."""

    X: Tensor
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        self.size = self.X.shape[1]
        self.total = self.X.shape[0]
        self.devices = np.arange(self.total)
        self.norms = torch.linalg.vector_norm(self.X, dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return torch.from_numpy(gains) @ self.X

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        raise AssertionError("plain updates are at hand")

    def symbols(self, code: Code, seed: int) -> Tensor:
        scales = symbol_scale(code, self.size) / self.norms
        return code.encode(self.X, seed) * torch.from_numpy(scales)[:, None]

    @property
    def mean(self) -> Tensor:
        return torch.from_numpy(self.weights) @ self.X


@dataclass
class Symbols(Updates):
    """The same cohort as a receiver of messages has it: only symbols."""

    code: Code
    seed: int

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return None

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(gains) @ self.code.encode(self.X, self.seed)


def cohort(devices: int = 6, size: int = 600, *, orthogonal: bool = False) -> Updates:
    """Updates that point roughly the same way, of unequal norms and weights."""
    rng = generator(7, "updates", devices, size)
    X = rng.standard_normal((devices, size)) + rng.standard_normal(size)
    if orthogonal:
        X = np.linalg.qr(X.T)[0].T
    X *= rng.uniform(0.1, 2.0, (devices, 1))
    weights = rng.uniform(0.5, 2.0, devices)
    return Updates(torch.from_numpy(X), weights / weights.sum())


@dataclass
class OneByOne(Updates):
    """A cohort that knows its updates and codes each on its own, as codes that are not linear need."""

    code: Code
    seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.norms = torch.linalg.vector_norm(self.code.sent(self.X), dim=1).numpy()

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(gains) @ self.code.encode(self.X, self.seed)


RAYLEIGH = Channel(Rayleigh(), noise_power=0.1)

CODES: dict[str, Code] = {
    "uncoded": Uncoded(),
    "random-linear": RandomLinearCode(ratio=0.2),
    "random-mask": RandomMask(ratio=0.2),
}


# What is heard.


def test_the_ideal_uplink_hears_the_exact_mean() -> None:
    there = cohort()
    heard = IdealUplink().receive(there, 1, 0).update
    assert heard is not None
    assert torch.equal(heard, (torch.from_numpy(there.weights[None]) @ there.X)[0])


@pytest.mark.parametrize("power_control", [ChannelInversion(), MinimumMSE(), MinimumMSE("closed-form")], ids=repr)
def test_without_noise_and_code_the_mean_is_heard(power_control: PowerControl) -> None:
    there = cohort()
    heard = AnalogUplink(Uncoded(), power_control, Channel(Rayleigh(), noise_power=0.0)).receive(there, 1, 0).update
    assert heard is not None
    # Rounding of float64, and of the products a |h| b = w.
    torch.testing.assert_close(heard, there.mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("code", CODES.values(), ids=repr)
def test_a_full_ratio_without_noise_loses_nothing_that_padding_does_not(code: Code) -> None:
    """600 = 2^3 3 5^2 is a fast length: no padding, so m = d inverts the code."""
    full = code if code.name == "uncoded" else type(code)(ratio=1.0)  # type: ignore[call-arg]
    there = cohort()
    heard = AnalogUplink(full, ChannelInversion(), Channel(noise_power=0.0)).receive(there, 1, 0).update
    assert heard is not None
    torch.testing.assert_close(heard, there.mean, rtol=1e-6, atol=1e-6)  # the code's signs are float32


@pytest.mark.parametrize("code", CODES.values(), ids=repr)
@pytest.mark.parametrize(
    "power_control", [ChannelInversion(), MinimumMSE("closed-form"), TruncatedInversion("best"), FullPower()], ids=repr
)
def test_the_error_is_the_predicted_one(code: Code, power_control: PowerControl) -> None:
    """R1 of the radio notes: misalignment + (d/m - 1)||s||^2 + (d^2/m) se2, over codes, fading and noise."""
    there = cohort()
    uplink = AnalogUplink(code, power_control, RAYLEIGH)
    records = [uplink.receive(there, exchange, 3).record for exchange in range(1, 151)]
    # Ratio of each measured error to its own prediction: the deviation of one is at most about sqrt(2/120) = 0.13
    # (120 coded noise entries) or that of the coordinates a mask draws; of the mean over 150 about 0.01: 4 of those.
    ratios = [record["mse_measured"] / record["mse_predicted"] for record in records]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.04)


def test_the_symbols_error_is_that_of_power_control_where_symbols_are_uncorrelated() -> None:
    """sum (a|h|b - w')^2 + sigma^2 a^2 holds for orthogonal updates."""
    there = cohort(orthogonal=True)
    uplink = AnalogUplink(RandomLinearCode(ratio=0.2), MinimumMSE("closed-form"), RAYLEIGH)
    records = [uplink.receive(there, exchange, 3).record for exchange in range(1, 301)]
    ratios = [record["signal_mse_measured"] / record["signal_mse_predicted"] for record in records]
    # 120 entries an exchange: one ratio deviates by sqrt(2/120) = 0.13, the mean of 300 by 0.0075.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("erasure", [0.0, 0.3])
def test_the_unbiased_decoder_hears_the_mean_on_average_erased_or_not(erasure: float) -> None:
    there = cohort(size=240)
    uplink = AnalogUplink(RandomLinearCode(ratio=0.5), ChannelInversion(), Channel(noise_power=0.01), erasure=erasure)
    heard = torch.stack([u for e in range(1, 601) if (u := uplink.receive(there, e, 0).update) is not None])
    deviation = heard.mean(dim=0) - there.mean
    # Standard errors of 240 entries: their mean square is 1 +- sqrt(2/240) = 0.09.
    standard_error = heard.std(dim=0) / math.sqrt(len(heard))
    assert float((deviation / standard_error).square().mean()) == pytest.approx(1.0, abs=0.35)


@pytest.mark.parametrize("name", CODES)
def test_a_receiver_of_symbols_hears_what_superposing_updates_first_gives(name: str) -> None:
    plain, uplink = cohort(), AnalogUplink(CODES[name], MinimumMSE("closed-form"), RAYLEIGH, erasure=0.1)
    coded = Symbols(plain.X, plain.weights, CODES[name], uplink.order(4, 9).seed)
    first, second = uplink.receive(plain, 4, 9), uplink.receive(coded, 4, 9)
    assert first.update is not None
    assert second.update is not None
    torch.testing.assert_close(second.update, first.update, rtol=1e-9, atol=1e-12)
    assert second.record["mse_measured"] is None
    assert second.record["signal_mse_measured"] == pytest.approx(first.record["signal_mse_measured"])


SPARSE = SparseAMP(ratio=0.25, sparsity=0.2)


def one_by_one(uplink: AnalogUplink, exchange: int = 1, size: int = 600) -> OneByOne:
    """A cohort of 5 % sparse updates, the same entries for all devices."""
    there = cohort(size=size)
    there.X[:, size // 20 :] = 0.0
    return OneByOne(there.X, there.weights, uplink.code, uplink.order(exchange, 0).seed)


def test_a_code_that_is_not_linear_codes_every_update_on_its_own() -> None:
    """Entries that half of the devices keep would be lost in the sum, and entries of the sum that none keeps sent."""
    uplink = AnalogUplink(SparseAMP(ratio=0.5, sparsity=0.2), ChannelInversion(), Channel(noise_power=0.0))
    plain = cohort()
    there = OneByOne(plain.X, plain.weights, uplink.code, uplink.order(1, 0).seed)
    record = uplink.receive(there, 1, 0).record
    assert record["signal_mse_measured"] < 1e-20, "without noise the symbols arrive as superposed one by one"
    summed_first = uplink.code.encode(there.mean, there.seed)
    wanted = there.signals(there.weights[None])[0]
    assert float((summed_first - wanted).square().mean()) > 1e-3 * float(wanted.square().mean())


def test_sparse_updates_are_heard_and_the_error_is_measured_but_not_predicted() -> None:
    uplink = AnalogUplink(SPARSE, ChannelInversion(), Channel(noise_power=1e-6))
    there = one_by_one(uplink)
    reception = uplink.receive(there, 1, 0)
    assert reception.update is not None
    measured = float((reception.update - there.mean).square().sum())
    # 30 entries all kept, well inside the phase transition: what is left is the noise, some 1e-6 of 600 entries.
    assert measured < 1e-3 * float(there.mean.square().sum())
    assert reception.record["mse_measured"] == pytest.approx(measured)
    assert reception.record["mse_predicted"] is None
    assert reception.noise_variance == math.inf, "how much is left out the receiver cannot know"


def test_the_mean_that_a_sparse_code_is_measured_against_is_that_of_the_whole_updates() -> None:
    uplink = AnalogUplink(SparseAMP(ratio=0.5, sparsity=0.1), ChannelInversion(), Channel(noise_power=0.0))
    plain = cohort()
    there = OneByOne(plain.X, plain.weights, uplink.code, uplink.order(1, 0).seed)
    left_out = torch.from_numpy(plain.weights) @ uplink.code.residual(plain.X, 0)
    assert uplink.receive(there, 1, 0).record["mse_measured"] > 0.5 * float(left_out.square().sum())


@pytest.mark.parametrize("power_control", [FullPower("unbiased"), FullPower(), MinimumMSE("closed-form")], ids=repr)
def test_devices_of_a_sparse_code_send_at_their_full_limit(power_control: PowerControl) -> None:
    """The symbols of what is kept have unit power, so that the strongest amplitude is the limit's."""
    uplink = AnalogUplink(SparseAMP(ratio=0.5, sparsity=0.1), power_control, RAYLEIGH, power_limit=4.0, trace=True)
    powers = []
    for exchange in range(1, 61):
        plain = cohort()
        there = OneByOne(plain.X, plain.weights, uplink.code, uplink.order(exchange, 0).seed)
        record = uplink.receive(there, exchange, 0).record
        assert max(record["amplitudes"]) == pytest.approx(2.0, rel=1e-9)
        powers.append((record["energy_ratio_min"], record["energy_ratio_max"]))
    # 300 symbols: a block's energy deviates by sqrt(2 / 300) = 0.08 at most, and lowest and highest of six lie 1.3
    # deviations from one; over 60 exchanges their middle is one to a hundredth.
    assert np.mean(powers) == pytest.approx(1.0, abs=0.05)


def test_the_ideal_uplink_hears_the_mean_of_symbols_too() -> None:
    plain = cohort()
    heard = IdealUplink().receive(Symbols(plain.X, plain.weights, Uncoded(), 0), 1, 0).update
    assert heard is not None
    torch.testing.assert_close(heard, plain.mean, rtol=1e-12, atol=1e-12)


def test_exchange_and_seed_name_all_draws() -> None:
    there, uplink = cohort(), AnalogUplink(RandomLinearCode(ratio=0.2), MinimumMSE(), RAYLEIGH)
    first = uplink.receive(there, 2, 5)
    again = uplink.receive(there, 2, 5)
    assert first.update is not None
    assert again.update is not None
    assert torch.equal(first.update, again.update)
    assert first.record == again.record
    for exchange, seed in ((3, 5), (2, 6)):
        other = uplink.receive(there, exchange, seed)
        assert other.update is not None
        assert other.record["gains"] != first.record["gains"]
        assert not torch.allclose(other.update, first.update)
    assert uplink.order(2, 5).seed == key(5, "code", 2) != uplink.order(3, 5).seed


@pytest.mark.parametrize("power_gain", [0.0, 1e-300])
def test_gains_of_nothing_or_next_to_nothing_are_no_error(power_gain: float) -> None:
    channel = Channel(power_gain=power_gain, noise_power=1.0)
    reception = AnalogUplink(Uncoded(), MinimumMSE("closed-form"), channel).receive(cohort(), 1, 0)
    assert reception.update is None or torch.isfinite(reception.update).all()
    assert reception.record["heard"] is (power_gain > 0)


def test_if_all_updates_are_zero_the_mean_is_zero_and_was_heard() -> None:
    there = Updates(torch.zeros(3, 50, dtype=torch.float64), np.full(3, 1 / 3))
    for code in (Uncoded(), RandomLinearCode(ratio=0.5), RandomLinearCode(ratio=0.5, decoder="lmmse")):
        reception = AnalogUplink(code, MinimumMSE(), RAYLEIGH).receive(there, 1, 0)
        assert reception.update is not None
        assert not reception.update.any()
        assert reception.record["heard"]
        assert not reception.cost.energy.any()


# What it costs.


@pytest.mark.parametrize(("given", "expected"), [({}, 1.0), ({"power_limit": 4.0}, 4.0)])
def test_no_device_exceeds_the_power_limit(given: dict[str, float], expected: float) -> None:
    uplink = AnalogUplink(RandomLinearCode(ratio=0.2), MinimumMSE("closed-form"), RAYLEIGH, **given)  # type: ignore[arg-type]
    reception = uplink.receive(cohort(), 1, 0)
    power = np.square(reception.record["amplitudes"])
    assert reception.record["power_limit"] == expected
    assert power.max() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("code", CODES.values(), ids=repr)
@pytest.mark.parametrize("physical", [False, True])
def test_an_energy_limit_buys_the_same_energy_whatever_the_code_takes(code: Code, physical: bool) -> None:
    channel = Channel(noise_power=0.1, bandwidth=2e5, physical=physical)
    uplink = AnalogUplink(code, FullPower(), channel, energy_per_round=50.0)
    cost = uplink.receive(cohort(), 1, 0).cost
    np.testing.assert_allclose(cost.energy, 50.0, rtol=1e-12)


@pytest.mark.parametrize("physical", [False, True])
def test_energy_is_power_times_uses_or_seconds(physical: bool) -> None:
    channel = Channel(Rayleigh(), noise_power=0.1, bandwidth=2e5, physical=physical)
    reception = AnalogUplink(RandomMask(uses=90), MinimumMSE("closed-form"), channel).receive(cohort(), 1, 0)
    seconds = 90 / (2 * 2e5)
    assert reception.cost.uses == 90
    assert reception.cost.air_time == pytest.approx(seconds)
    expected = np.square(reception.record["amplitudes"]) * (seconds if physical else 90)
    np.testing.assert_allclose(reception.cost.energy, expected)


def test_the_ideal_uplink_is_charged_the_budget_it_is_granted() -> None:
    cost = IdealUplink(ratio=0.1, energy_per_round=50.0, channel=Channel(bandwidth=1e6)).receive(cohort(), 1, 0).cost
    assert cost.uses == 60
    assert cost.energy.tolist() == [50.0] * 6
    assert cost.air_time == pytest.approx(30e-6)
    assert IdealUplink(ratio=1e-9).receive(cohort(), 1, 0).cost.uses == 1
    by_power = IdealUplink(uses=30, power_limit=2.0).receive(cohort(), 1, 0).cost
    assert (by_power.uses, by_power.energy.tolist()) == (30, [pytest.approx(60.0)] * 6)
    assert IdealUplink().receive(cohort(), 1, 0).cost.energy.tolist() == [0.0] * 6


@pytest.mark.parametrize("limit", [{"energy_per_round": 50.0}, {"power_limit": 2.0}, {}])
@pytest.mark.parametrize("kind", [IdealUplink, AnalogUplink])
def test_no_device_spends_more_than_the_grant_and_one_that_sends_at_its_limit_spends_it(
    kind: type, limit: dict[str, float]
) -> None:
    how = (RandomMask(uses=90), FullPower()) if kind is AnalogUplink else ()
    uses = {"uses": 90} if kind is IdealUplink else {}
    uplink = kind(*how, **uses, **limit, channel=Channel(Rayleigh()))
    grant, cost = uplink.grant(600), uplink.receive(cohort(), 1, 0).cost
    assert grant.uses == cost.uses == 90
    np.testing.assert_allclose(cost.energy, grant.energy)


def test_bits_are_the_control_messages_and_on_an_ideal_link_the_update_itself() -> None:
    analog = AnalogUplink(RandomMask(uses=90), MinimumMSE("closed-form")).receive(cohort(), 1, 0).cost
    assert analog.bits == 6 * 2 * 32
    assert IdealUplink().receive(cohort(), 1, 0).cost.bits == 6 * (2 * 32 + 600 * 32)


# Erasures, peaks, refusals.


def test_an_erased_burst_costs_every_entry_a_little_with_a_linear_code_and_some_entries_all_without() -> None:
    there = cohort()

    def average(code: Code) -> Tensor:
        uplink = AnalogUplink(code, ChannelInversion(), Channel(noise_power=0.0), erasure=0.1)
        return torch.stack([u for e in range(1, 81) if (u := uplink.receive(there, e, 0).update) is not None]).mean(0)

    # The burst is the same in every exchange: uncoded, the same 60 of 600 entries are never heard.
    assert int((average(Uncoded()) == 0).sum()) == 60
    # Coded, an entry's error has variance (1/0.9 - 1) ||x||^2/d an exchange: 0.33 / sqrt(80) = 0.04 of the rms, and
    # the largest of 600 is below six times that.
    error = average(RandomLinearCode(ratio=1.0)) - there.mean
    assert float(error.abs().max()) < 0.25 * float(there.mean.square().mean().sqrt())


def test_erasure_makes_the_closed_form_of_the_error_unknown() -> None:
    record = AnalogUplink(Uncoded(), FullPower(), erasure=0.1).receive(cohort(), 1, 0).record
    assert record["mse_measured"] > 0
    assert record["mse_predicted"] is None
    assert record["signal_mse_predicted"] is None


def test_a_linear_code_has_gaussian_peaks_and_even_energy_where_a_mask_has_not() -> None:
    """R5 of the radio notes, on heavy-tailed updates: d = 4096, m = d/4, 16 devices."""
    rng = generator(1, "heavy tails")
    X = torch.from_numpy(rng.standard_t(2, (16, 4096)))
    there = Updates(X, np.full(16, 1 / 16))
    records = {
        code.name: AnalogUplink(code, MinimumMSE(), trace=True).receive(there, 1, 0).record
        for code in (RandomLinearCode(ratio=0.25), RandomMask(ratio=0.25))
    }
    gaussian = rng.standard_normal((2000, 1024)) ** 2
    papr_db = float(np.mean(10 * np.log10(gaussian.max(axis=1) / gaussian.mean(axis=1))))
    # The peak of 1,024 Gaussians is 10.3 dB +- 0.7 dB over 16 devices: 0.17 dB for their mean.
    assert records["random-linear"]["papr_db_mean"] == pytest.approx(papr_db, abs=0.6)
    assert records["random-mask"]["papr_db_mean"] > records["random-linear"]["papr_db_mean"] + 5
    # Drawing 1,024 of 4,096 coefficients: variance 2 (1 - r) / m = 0.038^2.
    assert records["random-linear"]["energy_ratio_std"] == pytest.approx(math.sqrt(2 * 0.75 / 1024), rel=0.5)
    assert records["random-mask"]["energy_ratio_std"] > 5 * records["random-linear"]["energy_ratio_std"]
    for record in records.values():
        assert record["energy_ratio_min"] <= 1.0 <= record["energy_ratio_max"]
        assert record["papr_db_max"] >= record["papr_db_mean"]


@pytest.mark.parametrize("subcarriers", [None, 64])
def test_what_leaves_a_clipping_amplifier_has_the_peaks_of_its_limit(subcarriers: int | None) -> None:
    there = Updates(torch.from_numpy(generator(2, "gaussian").standard_normal((8, 4096))), np.full(8, 1 / 8))
    clipped, whole = (
        AnalogUplink(Uncoded(), MinimumMSE(), amplifier=Amplifier(db, subcarriers), trace=True)
        .receive(there, 1, 0)
        .record
        for db in (3.0, 60.0)
    )
    assert clipped["papr_db_mean"] == whole["papr_db_mean"]  # of the code's symbols
    # Samples are Gaussian: the limit is 3 dB over their mean power, of which 1 - exp(-10^.3) is left.
    limited = 3.0 - 10 * math.log10(-math.expm1(-(10**0.3)))
    assert clipped["papr_db_radiated_max"] == pytest.approx(limited, abs=0.1)  # 2,048 samples: 2 % of .6 dB
    # Unclipped, the peak of 2,048 exponential powers: ln 2048 + .577 = 8.2, 9.1 dB, with sd 1.28 / 8.2, .7 dB.
    assert whole["papr_db_radiated_mean"] == pytest.approx(9.1, abs=0.75)  # of eight: .25 dB


@pytest.mark.parametrize("code", [*CODES.values(), RandomLinearCode(uses=50)], ids=repr)
def test_symbols_have_unit_mean_power_in_expectation(code: Code) -> None:
    """Also where the update is padded: 601 is prime."""
    there = cohort(size=601)
    power = torch.stack([there.symbols(code, seed).square().mean(dim=1) for seed in range(400)])
    # A block's power deviates by sqrt(2/m) < 0.2 or, for a mask, as the entries drawn do: 0.01 over 400 seeds.
    assert float((power.mean(dim=0) - 1).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"power_limit": 1.0, "energy_per_round": 1.0}, "power_limit or energy_per_round, not both"),
        ({"erasure": 1.0}, r"erasure must be in \[0, 1\), got 1\.0"),
        ({"erasure": -0.1}, r"erasure must be in \[0, 1\), got -0\.1"),
        ({"erasure": math.nan}, "erasure must be in"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AnalogUplink(Uncoded(), FullPower(), **arguments)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="power_limits"):
        AnalogUplink(Uncoded(), FullPower(), power_limit=-1.0).receive(cohort(), 1, 0)


def test_uplinks_go_by_these_names() -> None:
    assert {
        "ideal": IdealUplink,
        "over-the-air": AnalogUplink,
        "non-coherent": NonCoherentUplink,
        "digital": DigitalUplink,
    } == UPLINKS
