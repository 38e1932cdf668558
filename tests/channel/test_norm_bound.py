"""Bounds on norms: what one device can do to the mean, whatever it says and sends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from channel import (
    AnalogUplink,
    Channel,
    ChannelInversion,
    FullPower,
    MajorityVote,
    MinimumMSE,
    RandomLinearCode,
    RandomMask,
    Rayleigh,
    Reception,
    SparseAMP,
    Uncoded,
)
from channel.codes import Code
from channel.power import PowerControl
from channel.uplinks.norm_bound import NormBound, largest_pull
from tests.channel.test_uplink import Symbols, Updates, cohort

CODES: dict[str, Code] = {
    "uncoded": Uncoded(),
    "random-linear": RandomLinearCode(ratio=0.2),
    "random-mask": RandomMask(ratio=0.5),
    "projection": RandomLinearCode(ratio=0.2, decoder="projection"),
}
CONTROLS: dict[str, PowerControl] = {
    "minimum-mse": MinimumMSE("closed-form"),
    "full-power": FullPower(receive="unbiased"),
    "channel-inversion": ChannelInversion(),
}
ATTACKER = 2
LIMIT = 0.7
"""Below the norms of some of the cohort's updates, above others."""


def fading(noise_power: float = 0.05) -> Channel:
    return Channel(Rayleigh(), noise_power=noise_power)


def attacked(honest: Updates, factor: float) -> Updates:
    """The same with one update of another size and direction."""
    X = honest.X.clone()
    X[ATTACKER] *= -factor
    return Updates(X, honest.weights)


def clipped(honest: Updates) -> Updates:
    scales = torch.from_numpy(np.minimum(1.0, LIMIT / honest.norms))
    return Updates(honest.X * scales[:, None], honest.weights)


def heard(updates: Updates, **parts: Any) -> Reception:
    parts = {
        "code": RandomLinearCode(ratio=0.2),
        "power_control": MinimumMSE("closed-form"),
        "channel": fading(),
    } | parts
    reception = AnalogUplink(**parts).receive(updates, exchange=3, seed=5)
    assert reception.update is not None
    return reception


def pull(factor: float, **parts: Any) -> float:
    """How far one attacker moves the decoded mean, relative to that mean; the noise is the same draw."""
    honest = clipped(cohort())
    before, after = heard(honest, **parts).update, heard(attacked(honest, factor), **parts).update
    assert before is not None
    assert after is not None
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("defiant", [False, True])
def test_an_attacker_moves_the_mean_by_no_more_than_its_power_allows(code: str, control: str, defiant: bool) -> None:
    parts: dict[str, Any] = {
        "code": CODES[code],
        "power_control": CONTROLS[control],
        "norm_bound": NormBound(LIMIT, True),
    }
    honest = clipped(cohort())
    before = heard(honest, **parts)
    loud = {"defiant": frozenset([ATTACKER])} if defiant else {}
    after = heard(attacked(honest, 1e6), **parts, **loud)
    assert after.record["receive_scale"] == before.record["receive_scale"]
    assert before.update is not None
    assert after.update is not None
    amplitudes = np.array([before.record["amplitudes"][ATTACKER], after.record["amplitudes"][ATTACKER]])
    if defiant:
        assert amplitudes[1] == 1.0
    received = before.record["receive_scale"] * before.record["gains"][ATTACKER] * amplitudes
    # What it sent and what it would have sent; float64 rounding of sums of 600 entries.
    bound = largest_pull(CODES[code], honest.size, received).sum()
    assert float((after.update - before.update).norm()) <= bound * (1 + 1e-12)


def test_the_bound_is_met_by_an_attacker_at_the_clip_norm_without_a_code() -> None:
    """Uncoded, a block of norm C arrives with exactly a |h| b sqrt(d): the bound is no looser than it must be."""
    honest = clipped(cohort())
    silent = Updates(honest.X.clone(), honest.weights)
    silent.X[ATTACKER] = 0.0
    parts: dict[str, Any] = {"code": Uncoded(), "norm_bound": NormBound(LIMIT, True)}
    loud = attacked(honest, 1e6)
    there, gone = heard(loud, **parts), heard(Silent(silent.X, silent.weights), **parts)
    assert there.update is not None
    assert gone.update is not None
    received = there.record["receive_scale"] * there.record["gains"][ATTACKER] * there.record["amplitudes"][ATTACKER]
    expected = largest_pull(Uncoded(), honest.size, np.array([received]))[0]
    assert float((there.update - gone.update).norm()) == pytest.approx(expected, rel=1e-10)


class Silent(Updates):
    """A cohort of which one update is zero, and so are its symbols."""

    def symbols(self, code: Code, seed: int) -> torch.Tensor:
        with np.errstate(divide="ignore"):
            scales = np.where(self.norms > 0, np.sqrt(code.padded_size(self.size)) / self.norms, 0.0)
        return code.encode(self.X, seed) * torch.from_numpy(scales)[:, None]


@pytest.mark.parametrize("control", CONTROLS)
def test_a_power_limit_alone_bounds_nothing_as_the_receive_scale_follows_what_devices_say(control: str) -> None:
    channel = fading(noise_power=1e-6)  # far above the noise, so that the pull is the attacker's
    pulls = [pull(factor, power_control=CONTROLS[control], channel=channel) for factor in (1e2, 1e4, 1e6)]
    assert pulls[1] > 50 * pulls[0]
    assert pulls[2] > 50 * pulls[1]


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("control", CONTROLS)
def test_with_a_bound_the_pull_stops_growing(control: str, known: bool) -> None:
    parts: dict[str, Any] = {"power_control": CONTROLS[control], "norm_bound": NormBound(LIMIT, known)}
    at_bound, beyond = pull(LIMIT / 0.1, **parts), pull(1e8, **parts)
    assert beyond == pytest.approx(at_bound, rel=1e-9)


def test_an_honest_cohort_is_heard_to_the_bit_as_without_a_bound() -> None:
    honest = clipped(cohort())
    bound = NormBound(LIMIT * (1 + 1e-12))
    with_bound, without = heard(honest, norm_bound=bound), heard(honest)
    assert with_bound.update is not None
    assert without.update is not None
    assert torch.equal(with_bound.update, without.update)
    assert with_bound.record == without.record


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("code", CODES)
def test_messages_of_symbols_are_heard_as_plain_updates_are(code: str, known: bool) -> None:
    honest = attacked(clipped(cohort()), 50.0)
    parts: dict[str, Any] = {"code": CODES[code], "norm_bound": NormBound(LIMIT, known)}
    seed = AnalogUplink(CODES[code], MinimumMSE(), fading()).order(3, 5).seed
    plain = heard(honest, **parts)
    symbols = heard(Symbols(honest.X, honest.weights, CODES[code], seed), **parts)
    # Added up before or after coding: rounding of float64 sums.
    torch.testing.assert_close(symbols.update, plain.update, rtol=1e-9, atol=1e-9)


@given(st.floats(1e-6, 1e6), st.integers(0, 50), st.sampled_from(list(CODES)))
@settings(deadline=None)
def test_a_known_bound_keeps_every_block_within_the_power_granted(factor: float, seed: int, code: str) -> None:
    honest = attacked(cohort(devices=4, size=60), factor)
    bounded = NormBound(LIMIT, known=True).on(honest, CODES[code], seed)
    powers = bounded.symbols(CODES[code], seed).square().mean(dim=1).numpy()
    assert (powers <= 1 + 1e-9).all()
    np.testing.assert_allclose(bounded.powers, powers, rtol=1e-9)


def test_a_known_bound_makes_amplitudes_depend_on_no_update() -> None:
    bound = NormBound(LIMIT, known=True)
    one, other = heard(clipped(cohort()), norm_bound=bound), heard(attacked(cohort(), 1e-3), norm_bound=bound)
    for figure in ("amplitudes", "receive_scale"):
        assert one.record[figure] == other.record[figure]


def test_smaller_updates_radiate_less_than_is_granted() -> None:
    small = Updates(clipped(cohort()).X / 10, cohort().weights)
    parts: dict[str, Any] = {"norm_bound": NormBound(LIMIT, known=True), "code": Uncoded()}
    energy, granted = (heard(u, **parts).cost.energy for u in (small, attacked(small, 1e6)))
    assert (energy < granted).sum() == 1, "only the attacker's differs"
    expected = np.square(np.asarray(heard(small, **parts).record["amplitudes"]) * small.norms / LIMIT) * small.size
    np.testing.assert_allclose(energy, expected, rtol=1e-9)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=r"limit is .*accepted: a finite number > 0"):
        NormBound(limit)


@pytest.mark.parametrize(
    "code",
    [
        SparseAMP(ratio=0.2),
        MajorityVote(step=0.1),
        RandomLinearCode(ratio=0.2, decoder="projection", error_feedback=True),
    ],
)
def test_codes_whose_norms_are_not_those_of_updates_are_refused(code: Code) -> None:
    with pytest.raises(ValueError, match=r"norm_bound .*accepted: a linear code without error feedback"):
        AnalogUplink(code, MinimumMSE(), fading(), norm_bound=NormBound(1.0))


def test_a_pull_is_bounded_only_for_decoders_of_a_fixed_scale() -> None:
    with pytest.raises(ValueError, match="decoder 'unbiased' or 'projection'"):
        largest_pull(RandomLinearCode(ratio=0.2, decoder="lmmse"), 100, np.ones(1))
