"""What the air tells of a device: the library's numbers, sensitivities as they are, and noise that is really there."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel import AnalogUplink, Channel, FullPower, MinimumMSE, RandomLinearCode, Rayleigh, Uncoded, generator
from channel.privacy import Privacy, PrivacyAccountant, epsilon_of, needed_noise_multiplier
from channel.uplinks.norm_bound import NormBound
from tests.channel.test_norm_bound import Silent
from tests.channel.test_uplink import Updates

DELTA = 1e-5
CLIP = 1.0


def one_round(multiplier: float) -> Any:
    return dp_accounting.GaussianDpEvent(multiplier)


@pytest.mark.parametrize("multiplier", [0.3, 1.0, 2.0, 10.0])
def test_one_exchange_is_close_above_the_exact_gaussian_mechanism(multiplier: float) -> None:
    exact = dp_accounting.get_epsilon_gaussian(multiplier, DELTA)
    # Rényi accounting is an upper bound; a tenth above at these.
    assert exact <= epsilon_of(1 / multiplier, DELTA) <= 1.15 * exact


@pytest.mark.parametrize("multipliers", [[1.0] * 10, [0.5, 2.0, 7.0], [30.0] * 200])
def test_rounds_add_up_as_the_library_composes_them(multipliers: list[float]) -> None:
    library = dp_accounting.rdp.RdpAccountant()
    ours = PrivacyAccountant(DELTA)
    for multiplier in multipliers:
        library.compose(one_round(multiplier))
        ours.spend([3], [1 / multiplier])
        # Sums of the same divergences in another order.
        assert ours.epsilon() == pytest.approx(library.get_epsilon(DELTA), rel=1e-9)


@given(st.lists(st.floats(0.01, 3.0), min_size=2, max_size=8))
@settings(max_examples=25, deadline=None)
def test_every_round_tells_more(leaks: list[float]) -> None:
    accountant = PrivacyAccountant(DELTA)
    totals = []
    for leak in leaks:
        alone = accountant.spend([0], [leak])
        totals.append(accountant.epsilon())
        assert alone == epsilon_of(leak, DELTA)
    assert all(after > before for before, after in itertools.pairwise(totals))


def test_without_noise_nothing_is_hidden_and_silence_tells_nothing() -> None:
    assert epsilon_of(math.inf, DELTA) == math.inf
    assert epsilon_of(0.0, DELTA) == 0.0
    accountant = PrivacyAccountant(DELTA)
    assert accountant.epsilon() == 0.0
    accountant.spend([1], [math.inf])
    assert accountant.epsilon() == math.inf


def test_what_is_told_of_one_device_is_not_told_of_another() -> None:
    accountant = PrivacyAccountant(DELTA)
    for round in range(10):
        accountant.spend([round], [0.5])
    assert accountant.epsilon() == epsilon_of(0.5, DELTA)


def test_a_resumed_accountant_goes_on_from_where_it_stood() -> None:
    whole, first, second = (PrivacyAccountant(DELTA) for _ in range(3))
    for accountant in (whole, first):
        accountant.spend([0, 4], [0.3, 0.7])
    second.restore(json.loads(json.dumps(first.state())))
    for accountant in (whole, second):
        accountant.spend([4], [0.2])
    assert second.epsilon() == whole.epsilon()


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("rounds", [1, 20, 200])
def test_the_noise_needed_meets_the_target_and_little_more(epsilon: float, rounds: int) -> None:
    multiplier = needed_noise_multiplier(epsilon, DELTA, rounds)
    total = epsilon_of(math.sqrt(rounds) / multiplier, DELTA)
    # The library searches to an absolute 1e-6 of the noise.
    assert 0.999 * epsilon <= total <= epsilon * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: epsilon_of(1.0, 0.0), "delta is 0.0; accepted: a number > 0 and < 1"),
        (lambda: epsilon_of(1.0, 1.0), "delta is 1.0"),
        (lambda: epsilon_of(-1.0, DELTA), "leak is -1.0; accepted: a number >= 0"),
        (lambda: needed_noise_multiplier(0.0, DELTA, 1), "epsilon is 0.0; accepted: a finite number > 0"),
        (lambda: needed_noise_multiplier(1.0, DELTA, 0), "rounds is 0; accepted: an integer >= 1"),
        (lambda: PrivacyAccountant(2.0), "delta is 2.0"),
        (lambda: Privacy(DELTA, 0.0), "noise_multiplier is 0.0; accepted: a finite number > 0"),
    ],
)
def test_impossible_values_are_refused_by_name(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


def uplink(privacy: Privacy, **parts: Any) -> AnalogUplink:
    chosen = {
        "code": Uncoded(), "power_control": MinimumMSE("closed-form"), "channel": Channel(Rayleigh(), noise_power=0.5),
    } | parts  # fmt: skip
    return AnalogUplink(**chosen, norm_bound=NormBound(CLIP, known=True), privacy=privacy)


def updates(devices: int = 5, size: int = 400) -> Updates:
    X = generator(0, "private", devices, size).standard_normal((devices, size))
    X *= CLIP / np.linalg.norm(X, axis=1, keepdims=True)
    import torch

    return Silent(torch.from_numpy(X), np.full(devices, 1.0 / devices))


@pytest.mark.parametrize("code", [Uncoded(), RandomLinearCode(ratio=0.3), RandomLinearCode(ratio=1.0)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_no_device_moves_what_is_received_by_more_than_its_sensitivity(code: Any, scale: float) -> None:
    """The decoded mean is c A^T of a times the received block, and ||A^T y|| = ||y|| for y in the range of A."""
    there = updates()
    there.X[1] *= scale
    there = Silent(there.X, there.weights)
    gone = Silent(there.X.clone(), there.weights)
    gone.X[1] = 0.0
    gone = Silent(gone.X, gone.weights)
    with_it, without = (uplink(Privacy(DELTA), code=code).receive(u, 2, 9) for u in (there, gone))
    assert with_it.update is not None
    assert without.update is not None
    uses, a = code.uses(there.size), with_it.record["receive_scale"]
    moved = float((with_it.update - without.update).norm()) / a / (code.padded_size(there.size) / uses)
    sensitivity = math.sqrt(uses) * with_it.record["gains"][1] * with_it.record["amplitudes"][1]
    assert moved <= sensitivity * (1 + 1e-9)
    if code.uses(there.size) == there.size and scale >= 1.0:
        # Of a code without loss (the padded length is 400 as well) the whole update arrives: no looser than it must be.
        assert moved == pytest.approx(sensitivity, rel=1e-9)


def test_the_recorded_multiplier_is_the_noise_over_the_largest_sensitivity() -> None:
    channel = Channel(Rayleigh(), noise_power=0.5)
    record = uplink(Privacy(DELTA), channel=channel).receive(updates(), 2, 9).record
    largest = math.sqrt(400) * np.max(np.multiply(record["gains"], record["amplitudes"]))
    assert record["privacy_noise_multiplier"] == pytest.approx(math.sqrt(0.5) / largest)
    assert record["privacy_epsilon_round"] == pytest.approx(epsilon_of(largest / math.sqrt(0.5), DELTA))
    assert record["added_noise"] == 0.0


def test_interference_hides_nothing_that_is_accounted_for() -> None:
    from channel import Impairments, Interference

    loud = Channel(noise_power=0.5, impairments=Impairments(interference=Interference(mean_power=50.0, interferers=1)))
    control = FullPower(receive="unbiased")
    quiet_record = uplink(Privacy(DELTA), channel=Channel(noise_power=0.5), power_control=control)
    loud_record = uplink(Privacy(DELTA), channel=loud, power_control=control)
    assert (
        loud_record.receive(updates(), 2, 9).record["privacy_epsilon"]
        == quiet_record.receive(updates(), 2, 9).record["privacy_epsilon"]
    )


@pytest.mark.parametrize("control", [MinimumMSE("closed-form"), FullPower(receive="unbiased")])
@pytest.mark.parametrize("multiplier", [0.05, 0.5, 5.0, 50.0])
def test_added_noise_reaches_the_target_within_every_power_limit(control: Any, multiplier: float) -> None:
    system = uplink(Privacy(DELTA, multiplier), power_control=control)
    for exchange in (1, 2, 3):
        reception = system.receive(updates(), exchange, 1)
        record = reception.record
        assert record["privacy_noise_multiplier"] >= multiplier * (1 - 1e-9)
        # A power limit of 1 over 400 uses.
        assert (reception.cost.energy <= 400 * (1 + 1e-9)).all()
        if record["added_noise"] > 0:
            assert record["privacy_noise_multiplier"] == pytest.approx(multiplier, rel=1e-9)


def test_the_channels_noise_is_left_alone_where_it_is_enough() -> None:
    plain, asked = (uplink(p).receive(updates(), 2, 9) for p in (Privacy(DELTA), Privacy(DELTA, 1e-3)))
    assert plain.update is not None
    assert asked.update is not None
    assert bool((plain.update == asked.update).all())


def test_the_noise_that_is_accounted_for_is_the_noise_that_is_heard() -> None:
    """Zero updates: all that arrives is noise, of variance a^2 (sigma^2 + added)."""
    system = uplink(Privacy(DELTA, 5.0))
    silent = Silent(updates().X * 0.0, updates().weights)
    ratios = []
    for exchange in range(1, 26):
        reception = system.receive(silent, exchange, 4)
        assert reception.update is not None
        expected = reception.record["receive_scale"] ** 2 * (0.5 + reception.record["added_noise"])
        assert reception.record["added_noise"] > 0.5, "most of it is the devices'"
        ratios.append(float(reception.update.square().mean()) / expected)
    # The mean of 10,000 squares of normal numbers has a standard deviation of sqrt(2 / 10,000) = .014.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.06)


def test_the_predicted_error_knows_of_the_added_noise() -> None:
    """Uncorrelated updates of the clip norm: the prediction of an entry's error holds on average."""
    system, ratios = uplink(Privacy(DELTA, 0.2)), []
    for exchange in range(1, 31):
        record = system.receive(updates(), exchange, 4).record
        ratios.append(record["signal_mse_measured"] / record["signal_mse_predicted"])
    # 400 entries an exchange, five correlated at random by 1/sqrt(400): a few per cent over 30.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_privacy_needs_powers_that_depend_on_no_data() -> None:
    for bound in (None, NormBound(CLIP)):
        with pytest.raises(ValueError, match="privacy is accounted for with a norm bound that is known"):
            AnalogUplink(Uncoded(), MinimumMSE(), norm_bound=bound, privacy=Privacy(DELTA))


def test_several_antennas_would_tell_added_noise_from_the_channels() -> None:
    channel = Channel(Rayleigh(), antennas=2)
    system = uplink(Privacy(DELTA, 1e3), channel=channel)
    with pytest.raises(ValueError, match=r"2 antennas; accepted: one of each"):
        system.receive(updates(), 1, 0)


def test_every_antenna_adds_to_what_is_told() -> None:
    epsilons = [
        uplink(Privacy(DELTA), channel=Channel(antennas=antennas), power_control=FullPower(receive="unbiased"))
        .receive(updates(), 1, 0)
        .record["privacy_noise_multiplier"]
        for antennas in (1, 4)
    ]
    # Without fading all antennas hear the same: four of them have half the noise.
    assert epsilons[1] == pytest.approx(epsilons[0] / 2)


@pytest.mark.parametrize("multiplier", [0.2, 2.0])
def test_turning_down_hides_as_much_as_adding_noise_at_the_same_error_and_less_energy(multiplier: float) -> None:
    """Noise z^2 Delta^2 behind amplitudes b, or sigma^2 behind b sigma / (z Delta): the same ratio."""
    channel, control = Channel(noise_power=0.5), FullPower(receive="unbiased")
    adding = uplink(Privacy(DELTA, multiplier), channel=channel, power_control=control).receive(updates(), 1, 3)
    turned_down = 0.5 / (400 * multiplier**2)
    quiet = uplink(Privacy(DELTA), channel=channel, power_control=control, power_limit=turned_down)
    quiet_reception = quiet.receive(updates(), 1, 3)
    assert quiet_reception.record["privacy_noise_multiplier"] == pytest.approx(multiplier)
    for figure in ("privacy_noise_multiplier", "signal_mse_predicted"):
        assert quiet_reception.record[figure] == pytest.approx(adding.record[figure], rel=1e-9)
    assert (quiet_reception.cost.energy < adding.cost.energy).all()


def test_added_noise_costs_the_energy_that_it_has() -> None:
    quiet = Silent(updates().X * 0.0, updates().weights)
    reception = uplink(Privacy(DELTA, 5.0), channel=Channel(noise_power=0.5)).receive(quiet, 1, 3)
    # Without fading what arrives is what is sent; zero updates send nothing else.
    assert reception.cost.energy.sum() == pytest.approx(400 * reception.record["added_noise"])


def test_an_uplink_that_is_resumed_knows_what_it_has_told() -> None:
    whole, first, second = (uplink(Privacy(DELTA)) for _ in range(3))
    told = [whole.receive(updates(), exchange, 3).record["privacy_epsilon"] for exchange in (1, 2)]
    first.receive(updates(), 1, 3)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.receive(updates(), 2, 3).record["privacy_epsilon"] == told[1] > told[0]
