"""Over the air with several resource blocks and antennas, and with radios that are not perfect."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel import (
    AnalogUplink,
    Channel,
    ChannelInversion,
    FullPower,
    MinimumMSE,
    RandomLinearCode,
    Rayleigh,
    Uncoded,
    generator,
)
from channel.channel import ChannelState, link_gains
from channel.codes import Code
from channel.fading import Complex, Fading
from channel.impairments import (
    ADC,
    Ageing,
    Amplifier,
    ChannelEstimation,
    FrequencyOffset,
    Impairments,
    Interference,
    PhaseError,
    TimingError,
)
from channel.mac import pack, unpack
from channel.power import COMBININGS
from channel.uplinks import symbol_scale
from channel.uplinks.superposition import block_of_use, rotated, superpose_symbols

torch.set_num_threads(1)
SEED = 3


@dataclass
class Updates:
    """A cohort with all its updates at hand, rows of X."""

    X: Tensor
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.total, self.size = self.X.shape
        if not len(self.weights):
            self.weights = np.full(self.total, 1.0 / self.total)
        self.devices = np.arange(self.total)
        self.norms = torch.linalg.vector_norm(self.X, dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return torch.from_numpy(gains) @ self.X

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        raise AssertionError("plain updates are at hand")

    def symbols(self, code: Code, seed: int) -> Tensor:
        norms = torch.from_numpy(np.where(self.norms > 0, self.norms, 1.0))
        return code.encode(self.X, seed) * (symbol_scale(code, self.size) / norms[:, None])


class Sent(Updates):
    """The same, of which only the symbols are there."""

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return None

    def __init__(self, X: Tensor, code: Code, seed: int) -> None:
        super().__init__(X)
        self.coded = code.encode(X, seed)

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(gains) @ self.coded


def updates(devices: int = 5, size: int = 240, common: float = 1.0) -> Updates:
    """Updates with something in common, as gradients have."""
    rng = np.random.default_rng(SEED)
    mean = common * rng.standard_normal(size)
    return Updates(torch.from_numpy(mean + rng.standard_normal((devices, size))))


class Fixed(Fading):
    """The same response in every round."""

    def __init__(self, response: Complex) -> None:
        self.held = response

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        return self.held[0, :, 0]

    def response(self, round: int, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        return self.held


def complex_normal(*shape: int, seed: int = 0) -> Complex:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / math.sqrt(2.0)


def mean_errors(
    uplink: AnalogUplink, cohort: Updates, exchanges: int, figure: str = "mse"
) -> tuple[float, float, float]:
    """Mean of the measured and of the predicted error, and the standard error of their difference."""
    pairs = []
    for exchange in range(1, exchanges + 1):
        record = uplink.receive(cohort, exchange, SEED).record
        pairs.append((record[f"{figure}_measured"], record[f"{figure}_predicted"]))
    measured, predicted = np.array(pairs, dtype=float).T
    difference = measured - predicted
    return measured.mean(), predicted.mean(), difference.std() / math.sqrt(exchanges)


def test_the_sum_over_blocks_is_that_of_complex_baseband() -> None:
    # Every complex use is y = sum c x with the gain of its block: the definition, use by use.
    rng = np.random.default_rng(1)
    for uses in (11, 12):
        symbols = torch.from_numpy(rng.standard_normal((4, uses)))
        gains = complex_normal(3, 4, seed=2)
        of_use = block_of_use(uses, 3)[::2]
        packed = pack(symbols).numpy()
        sums = np.array([gains[block] @ packed[:, use] for use, block in enumerate(of_use)])
        # An odd last use carries one entry: its imaginary part is not read.
        expected = unpack(torch.from_numpy(sums), uses)
        torch.testing.assert_close(superpose_symbols(symbols, gains), expected)


def test_turning_by_a_right_angle_twice_is_a_change_of_sign() -> None:
    symbols = torch.arange(1.0, 9.0)
    torch.testing.assert_close(rotated(rotated(symbols)), -symbols)
    torch.testing.assert_close(pack(rotated(symbols)), 1j * pack(symbols))


@pytest.mark.parametrize("code", [RandomLinearCode(ratio=0.4), Uncoded()], ids=["random-linear", "uncoded"])
@pytest.mark.parametrize(
    ("subbands", "antennas", "impairments"),
    [
        (1, 1, Impairments()),
        (4, 1, Impairments()),
        (1, 3, Impairments()),
        (2, 2, Impairments(estimation=ChannelEstimation(pilots=1, pilot_power=3.0))),
        (1, 1, Impairments(rotations=(PhaseError(0.4),))),
        (2, 2, Impairments(ageing=Ageing(0.9), rotations=(PhaseError(0.2), TimingError(1e-7)))),
    ],
    ids=["flat", "subbands", "antennas", "estimated", "phase", "all"],
)
def test_the_error_of_the_mean_is_its_closed_form(
    code: Code, subbands: int, antennas: int, impairments: Impairments
) -> None:
    channel = Channel(Rayleigh(), noise_power=0.05, subbands=subbands, antennas=antennas, impairments=impairments)
    uplink = AnalogUplink(code, MinimumMSE(solver="closed-form"), channel, combining=COMBININGS["mrc"]())
    measured, predicted, spread = mean_errors(uplink, updates(), 150)
    # Three standard errors of 150 paired differences; an uncoded update is predicted as if its entries were put on
    # uses at random, which the comb of blocks is as good as for Gaussian entries.
    assert measured == pytest.approx(predicted, abs=3.5 * spread)


def test_messages_and_plain_updates_give_the_same_reception() -> None:
    code = RandomLinearCode(ratio=0.5)
    impairments = Impairments(estimation=ChannelEstimation(2, 1.0), rotations=(PhaseError(0.3),))
    uplink = AnalogUplink(
        code, MinimumMSE(), Channel(Rayleigh(), noise_power=0.1, subbands=3, antennas=2, impairments=impairments)
    )
    cohort = updates()
    order = uplink.order(1, SEED)
    plain, coded = uplink.receive(cohort, 1, SEED), uplink.receive(Sent(cohort.X, code, order.seed), 1, SEED)
    assert plain.update is not None
    torch.testing.assert_close(plain.update, coded.update)
    assert plain.record["signal_mse_measured"] == pytest.approx(coded.record["signal_mse_measured"])


def test_a_phase_error_costs_what_its_formula_says() -> None:
    # R9: (1 - e^(-s^2/2))^2 ||xbar||^2 + v sum w^2 ||x||^2 of the real part; what it turns into the other entry of a
    # complex use adds sum_i w_i^2 E sin^2 ||x_i||^2 with independent phases.
    std, cohort = 0.5, updates(8, 400)
    error = PhaseError(std)
    channel = Channel(impairments=Impairments(rotations=(error,)), noise_power=0.0)
    uplink = AnalogUplink(Uncoded(), ChannelInversion(), channel)
    mean, apart = (
        float((torch.from_numpy(cohort.weights) @ cohort.X).square().sum()),
        float(np.sum(cohort.weights**2 * cohort.norms**2)),
    )
    sin_squared = (1.0 - math.exp(-2.0 * std**2)) / 2.0
    expected = (1.0 - error.bias()) ** 2 * mean + (error.variance() + sin_squared) * apart
    values = np.array([uplink.receive(cohort, e, SEED).record["mse_measured"] for e in range(1, 401)])
    assert values.mean() == pytest.approx(expected, abs=4 * values.std() / 20)


def test_with_perfect_knowledge_blocks_of_one_channel_are_that_channel() -> None:
    cohort, gains = updates(), complex_normal(1, 5, 1)
    flat = Channel(Fixed(gains), noise_power=0.0)
    tiled = Channel(Fixed(np.tile(gains, (4, 1, 1))), noise_power=0.0, subbands=4)
    one, four = (
        AnalogUplink(RandomLinearCode(ratio=0.3), ChannelInversion(), c).receive(cohort, 1, SEED) for c in (flat, tiled)
    )
    torch.testing.assert_close(one.update, four.update)
    np.testing.assert_allclose(one.cost.energy, four.cost.energy)


@pytest.mark.parametrize("name", ["optimised", "zero-forcing", "mrc"])
def test_more_antennas_let_the_error_fall(name: str) -> None:
    cohort = updates(6, 60)
    errors = []
    for antennas in (1, 4, 16):
        channel = Channel(Rayleigh(), noise_power=1.0, antennas=antennas)
        uplink = AnalogUplink(Uncoded(), MinimumMSE(solver="closed-form"), channel, combining=COMBININGS[name]())
        errors.append(np.mean([uplink.receive(cohort, e, SEED).record["signal_mse_predicted"] for e in range(1, 21)]))
    assert errors[0] > errors[1] > errors[2]


def test_devices_left_out_leave_the_mean_of_the_others() -> None:
    # Without noise the selected are aligned exactly: what arrives is the mean over them, not the sum over all.
    cohort = updates(5, 80)
    gains = complex_normal(1, 5, 1)
    gains[0, 2] *= 1e-4
    channel = Channel(Fixed(gains), noise_power=1e-4)
    uplink = AnalogUplink(Uncoded(), ChannelInversion(), channel, combining=COMBININGS["largest-set"](mse=1e-3))
    reception = uplink.receive(cohort, 1, SEED)
    assert reception.record["amplitudes"][2] == 0.0
    expected = cohort.X[[0, 1, 3, 4]].mean(dim=0)
    assert reception.update is not None
    error = float((reception.update - expected).square().mean())
    assert error < 0.05 * float(expected.square().mean())


def test_estimates_from_many_pilots_are_the_channel() -> None:
    cohort = updates()
    perfect = AnalogUplink(RandomLinearCode(ratio=0.3), MinimumMSE(), Channel(Rayleigh(), noise_power=0.1))
    pilots = Impairments(estimation=ChannelEstimation(pilots=1, pilot_power=1e14))
    near = AnalogUplink(
        RandomLinearCode(ratio=0.3), MinimumMSE(), Channel(Rayleigh(), noise_power=0.1, impairments=pilots)
    )
    one, other = perfect.receive(cohort, 1, SEED).update, near.receive(cohort, 1, SEED).update
    # Errors of 1e-7 in the gains, and cvxpy's own tolerance.
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_pilots_are_charged_and_sent_again_in_every_frame() -> None:
    cohort = updates(5, 200)
    for physical in (False, True):
        pilots = Impairments(estimation=ChannelEstimation(pilots=2, pilot_power=3.0), frame_seconds=30e-6)
        given: dict[str, Any] = {"noise_power": 0.1, "bandwidth": 1e6, "physical": physical}
        with_pilots = AnalogUplink(Uncoded(), MinimumMSE(), Channel(impairments=pilots, **given))
        cost = with_pilots.receive(cohort, 1, SEED).cost
        # 200 entries are 100 complex uses; a frame of 30 holds 5 x 2 pilots and 20 of them: 5 frames.
        assert cost.uses == 200 + 2 * 5 * 10
        assert cost.air_time == pytest.approx(150e-6)
        radiated = with_pilots.receive(cohort, 1, SEED).record["amplitudes"]
        per_pilot = 3.0 * (1e-6 if physical else 2.0)
        data = np.square(radiated) * (100e-6 if physical else 200)
        np.testing.assert_allclose(cost.energy, data + 5 * 2 * per_pilot)


def test_more_pilots_than_a_frame_holds_are_refused() -> None:
    pilots = Impairments(estimation=ChannelEstimation(pilots=10), frame_seconds=30e-6)
    uplink = AnalogUplink(Uncoded(), MinimumMSE(), Channel(impairments=pilots))
    with pytest.raises(ValueError, match=r"more pilots than the frame holds: 5 devices with pilots = 10"):
        uplink.receive(updates(), 1, SEED)


def test_frequency_offsets_cost_by_the_slot() -> None:
    # One device alone, inverted: what comes is sinc(df T) turned by the middle of the slot, the same in every slot.
    cohort, offset = updates(1, 100), FrequencyOffset(std_hz=200.0, pilot_slots=1)
    channel = Channel(noise_power=0.0, slots=4, slot_seconds=1e-3, impairments=Impairments(rotations=(offset,)))
    received = AnalogUplink(Uncoded(), ChannelInversion(), channel).receive(cohort, 1, SEED).update
    hertz = float(offset.offsets(1, SEED)[0])
    factor = np.sinc(hertz * 1e-3) * np.exp(1j * math.pi * hertz * 1e-3)
    assert received is not None
    torch.testing.assert_close(pack(received), pack(cohort.X[0]) * complex(factor))


def test_interference_is_noise_that_power_control_knows_the_mean_of() -> None:
    interference = Interference(mean_power=0.5, interferers=2)
    channel = Channel(noise_power=0.1, impairments=Impairments(interference=interference))
    state = channel.state(1, [0, 1], 2, SEED)
    assert state.believed_noise == pytest.approx(0.6)
    assert state.noise_power == pytest.approx(0.1 + interference.power(1, SEED))
    uplink = AnalogUplink(Uncoded(), FullPower(receive="unbiased"), channel)
    measured, predicted, spread = mean_errors(uplink, updates(), 200, "signal_mse")
    assert measured == pytest.approx(predicted, abs=4 * spread)


def test_an_amplifier_that_never_clips_changes_nothing_and_one_that_does_bends_the_sum() -> None:
    cohort, channel = updates(), Channel(noise_power=0.01)
    plain = AnalogUplink(RandomLinearCode(ratio=0.5), ChannelInversion(), channel).receive(cohort, 1, SEED)
    high, low = (
        AnalogUplink(RandomLinearCode(ratio=0.5), ChannelInversion(), channel, amplifier=Amplifier(db)).receive(
            cohort, 1, SEED
        )
        for db in (40.0, 0.0)
    )
    torch.testing.assert_close(high.update, plain.update)
    np.testing.assert_allclose(high.cost.energy, plain.cost.energy, rtol=0.2)  # a code's energy moves with the draw
    assert low.record["signal_mse_measured"] > 2 * plain.record["signal_mse_measured"]
    assert low.cost.energy.max() < plain.cost.energy.max()
    assert low.record["mse_predicted"] is None


def test_converters_of_many_bits_change_nothing_and_of_few_cost_their_formula() -> None:
    cohort = updates(6, 4000)
    channel = Channel(Fixed(complex_normal(1, 6, 2, seed=5)), noise_power=0.2, antennas=2)
    errors = {
        bits: AnalogUplink(
            Uncoded(), MinimumMSE(solver="closed-form"), channel, adc=None if bits == 0 else ADC(bits)
        ).receive(cohort, 1, SEED)
        for bits in (0, 3, 16)
    }
    assert errors[16].update is not None
    # Noise is drawn antenna by antenna where each has a converter: the same in distribution, not draw by draw.
    exact, fine, coarse = (float(errors[bits].record["signal_mse_measured"]) for bits in (0, 16, 3))
    assert fine == pytest.approx(exact, rel=0.15)
    assert fine < coarse


def test_a_link_of_its_own_gets_the_matched_filter() -> None:
    blocks = complex_normal(3, 4, 2)
    expected = np.sqrt((np.abs(blocks) ** 2).sum(axis=2).mean(axis=0))
    np.testing.assert_allclose(link_gains(blocks), expected)
    state = ChannelState(blocks[0, :, 0], 1.0)
    np.testing.assert_array_equal(state.believed_gains, blocks[0, :, 0])


def test_statistics_are_learnt_from_other_draws_of_the_same_channel() -> None:
    samples = Channel(Rayleigh(), power_gain=np.array([1.0, 4.0])).sample(4000, 2, SEED)
    # |h|^2 is exponential: its mean over 4,000 draws is off by 1.6 % (one standard deviation).
    np.testing.assert_allclose((samples**2).mean(axis=0), [1.0, 4.0], rtol=0.07)
    run = np.abs(Channel(Rayleigh()).state(1, [0, 1], 2, SEED).gains)
    assert not np.any(np.isclose(samples[1], run * [1.0, 2.0]))
    assert generator(SEED, "statistics") is not None
