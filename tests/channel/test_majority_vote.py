"""The majority vote: what is sent, how often the majority is decided wrongly, and that it descends over the air."""

from __future__ import annotations

import json
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

from channel import AnalogUplink, Channel, ChannelInversion, FullPower, Rayleigh, TransmitOrder, TruncatedInversion
from channel.codes import Code
from channel.codes.majority_vote import MajorityVote, vote_error
from channel.mac import pack
from channel.power import PowerControl
from channel.uplinks import symbol_scale

torch.set_num_threads(1)

STEP = 0.02


@dataclass
class Votes:
    """A cohort as a receiver of messages has it: symbols in single precision, and norms."""

    X: Tensor
    weights: NDArray[np.float64]
    code: Code

    def __post_init__(self) -> None:
        self.total, self.size = self.X.shape
        self.devices = np.arange(self.total)
        self.norms = torch.linalg.vector_norm(self.code.sent(self.X), dim=1).numpy()
        self.scale = symbol_scale(self.code, self.size)

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        return None

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(gains * self.norms / self.scale) @ self.symbols(self.code, 0).double()

    def symbols(self, code: Code, seed: int) -> Tensor:
        with np.errstate(divide="ignore"):
            scales = np.where(self.norms > 0, self.scale / self.norms, 0.0)
        return (code.encode(self.X, seed) * torch.from_numpy(scales)[:, None]).float()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equal(devices: int) -> NDArray[np.float64]:
    return np.full(devices, 1.0 / devices)


def votes_of(devices: int, entries: int, right: float, seed: int = 0) -> Tensor:
    """Votes of which each is +1 with probability `right`."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.where(rng.random((devices, entries)) < right, 1.0, -1.0))


def four_deviations(probability: float, trials: int) -> float:
    """Four standard deviations of a share of `trials`."""
    return 4.0 * math.sqrt(probability * (1.0 - probability) / trials) + 1e-12


# What is sent.


def test_an_update_is_sent_as_signs_of_the_step() -> None:
    update = torch.tensor([3.0, -0.1, 0.0], dtype=torch.float64)
    code = MajorityVote(STEP)
    assert code.encode(update, seed=1).tolist() == [STEP, -STEP, 0.0]
    assert torch.equal(code.residual(update, seed=1), update - code.sent(update))
    assert code.uses(3) == 3
    assert not code.linear


def test_symbols_are_qpsk_of_constant_modulus_whatever_the_update() -> None:
    code, update = MajorityVote(STEP), normal(1001).pow(3)
    symbols = code.encode(update, 0) * symbol_scale(code, 1001) / torch.linalg.vector_norm(code.sent(update))
    power = pack(symbols[:1000]).abs().square()
    # Rounding in double precision only: a PAPR of 0 dB.
    assert torch.allclose(power, torch.ones_like(power), rtol=1e-12)
    assert len(torch.view_as_real(pack(symbols[:1000])).sign().unique(dim=0)) == 4


@settings(max_examples=30, deadline=None)
@given(
    updates=st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), min_size=1, max_size=9),
    scale=st.floats(1e-6, 1e6),
)
def test_without_noise_the_majority_decides_and_ties_are_zero(updates: list[list[float]], scale: float) -> None:
    X = torch.tensor(updates, dtype=torch.float64)
    code = MajorityVote(STEP)
    heard = code.decode(scale * code.encode(X, 0).mean(dim=0), 4, 0)
    assert torch.equal(heard, STEP * X.sign().sum(dim=0).sign())


def test_a_code_is_rebuilt_from_its_order() -> None:
    code = MajorityVote(0.5, error_feedback=True)
    again = TransmitOrder.from_config(TransmitOrder(code.name, code.parameters, 3).to_config()).build_code()
    assert isinstance(again, MajorityVote)
    assert again.parameters == code.parameters == json.loads(json.dumps(code.parameters))


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(-1.0, 1.0), rounds=st.integers(1, 60))
def test_error_feedback_makes_the_mean_vote_the_entry_where_it_is_at_most_the_step(rate: float, rounds: int) -> None:
    code, entry = MajorityVote(STEP, error_feedback=True), torch.tensor([rate * STEP], dtype=torch.float64)
    residual, sent = torch.zeros_like(entry), torch.zeros_like(entry)
    for _ in range(rounds):
        sent += code.sent(entry + residual)
        residual = code.residual(entry + residual, 0)
    assert float((sent + residual - rounds * entry).abs()) < 1e-12  # nothing is lost
    assert float(residual.abs()) <= STEP * (1 + 1e-9)


# How often the majority is wrong.


@pytest.mark.parametrize("devices", [1, 3, 9])
@pytest.mark.parametrize("right", [0.55, 0.8])
def test_without_noise_the_error_is_the_binomial_tail(devices: int, right: float) -> None:
    tail = sum(math.comb(devices, k) * right**k * (1 - right) ** (devices - k) for k in range(devices // 2 + 1))
    assert vote_error(devices, right) == pytest.approx(tail, rel=1e-12)
    votes = votes_of(devices, 40_000, right)
    code = MajorityVote(STEP)
    wrong = float((code.decode(code.encode(votes, 0).mean(0), 40_000, 0) < 0).double().mean())
    assert wrong == pytest.approx(tail, abs=four_deviations(tail, 40_000))


@pytest.mark.parametrize("devices", [1, 4, 9])
@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 6.0])
def test_with_noise_the_error_is_a_mixture_of_q_functions(devices: int, snr_db: float) -> None:
    snr, entries = 10 ** (snr_db / 10), 60_000
    code, X = MajorityVote(STEP), votes_of(devices, entries, 0.7)
    uplink = AnalogUplink(code, FullPower(), Channel(noise_power=1.0), power_limit=snr)
    heard = uplink.receive(Votes(X, equal(devices), code), 1, seed=5).update
    assert heard is not None
    wrong, predicted = float((heard < 0).double().mean()), vote_error(devices, 0.7, snr)
    assert wrong == pytest.approx(predicted, abs=four_deviations(predicted, entries))


def test_a_sign_flips_with_probability_q_of_margin_over_noise() -> None:
    code, margin, deviation, entries = MajorityVote(1.0), 0.6, 0.5, 60_000
    received = margin + deviation * normal(entries)
    flipped = float((code.decode(received, entries, 0, deviation**2) < 0).double().mean())
    expected = 0.5 * math.erfc(margin / deviation / math.sqrt(2))
    assert flipped == pytest.approx(expected, abs=four_deviations(expected, entries))


def test_limits_of_the_error() -> None:
    assert vote_error(5, 0.9, 0.0) == pytest.approx(0.5)  # only noise is heard
    assert vote_error(4, 0.5) == pytest.approx(0.5)  # no device knows anything
    assert vote_error(7, 1.0) == 0.0
    assert vote_error(2, 0.9) == pytest.approx(0.1**2 + 0.5 * 2 * 0.9 * 0.1)  # a tie counts half
    assert vote_error(9, 0.7, 1e12) == pytest.approx(vote_error(9, 0.7), rel=1e-9)
    errors = [vote_error(devices, 0.6, 1.0) for devices in (1, 5, 25, 125)]
    assert errors == sorted(errors, reverse=True)


# Over the air.


def test_inversion_counts_votes_by_weight_and_full_power_by_gain() -> None:
    X = torch.tensor([[1.0], [-1.0], [-1.0]], dtype=torch.float64)
    code, weights = MajorityVote(STEP), np.array([0.6, 0.2, 0.2])
    channel = Channel(power_gain=np.array([0.01, 1.0, 1.0]), noise_power=0.0)
    for power, decided in ((ChannelInversion(), STEP), (FullPower(), -STEP)):
        heard = AnalogUplink(code, power, channel).receive(Votes(X, weights, code), 1, seed=0).update
        assert heard is not None
        assert heard.tolist() == [decided]


def test_a_tie_stays_a_tie_through_rounding() -> None:
    # Devices that abstain on different numbers of entries have symbols of different size, rounded each on its own.
    X = torch.ones(4, 60, dtype=torch.float64)
    X[2:] = -1.0
    for device, abstentions in enumerate((3, 7, 11, 17)):
        X[device, :abstentions] = 0.0
    code = MajorityVote(0.3)
    cohort = Votes(X, equal(4), code)
    channel = Channel(Rayleigh(), noise_power=0.0)
    heard = AnalogUplink(code, ChannelInversion(), channel).receive(cohort, 1, seed=0).update
    assert heard is not None
    assert torch.equal(heard, 0.3 * X.sum(dim=0).sign())
    assert int((heard == 0).sum()) > 40


@pytest.mark.parametrize("power", [ChannelInversion(), FullPower(), TruncatedInversion(0.1)], ids=lambda p: p.name)
def test_a_quadratic_is_descended_to_within_the_step(power: PowerControl) -> None:
    size, devices, step = 40, 9, 0.05
    optimum, model = normal(size, seed=1), torch.zeros(size, dtype=torch.float64)
    own = optimum + 0.3 * normal(devices, size, seed=2)  # each device's own optimum
    wanted = own.median(dim=0).values  # where as many signs point up as down
    uplink = AnalogUplink(MajorityVote(step), power, Channel(Rayleigh(), noise_power=0.1))
    for exchange in range(1, 121):
        cohort = Votes(own - model, equal(devices), uplink.code)
        reception = uplink.receive(cohort, exchange, seed=3)
        if reception.update is not None:
            assert set(reception.update.abs().tolist()) <= {0.0, step}
            model += reception.update
    # From 1.0 away; noise and unequal votes keep some entries a few steps off.
    assert float((model - wanted).square().mean().sqrt()) < 0.2 < float(wanted.square().mean().sqrt())


def test_the_record_promises_no_error_that_it_cannot_know() -> None:
    code = MajorityVote(STEP)
    reception = AnalogUplink(code, FullPower()).receive(Votes(normal(5, 30), equal(5), code), 1, seed=0)
    assert reception.record["mse_predicted"] is None
    assert reception.noise_variance == math.inf
    assert reception.cost.uses == 30


# Bad input.


@pytest.mark.parametrize("step", [0.0, -1.0, math.inf, math.nan])
def test_a_step_that_is_no_finite_positive_number_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=r"step is .*; accepted: a finite number > 0"):
        MajorityVote(step)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"devices": 0, "right": 0.5}, "devices is 0"),
        ({"devices": 3, "right": 1.5}, "right is 1.5"),
        ({"devices": 3, "right": 0.5, "snr": -1.0}, "snr is -1.0"),
    ],
)
def test_impossible_votes_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vote_error(**arguments)
