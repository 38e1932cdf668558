"""Orthogonal access: who takes how long, what it costs, and who misses the deadline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel import Channel, Rayleigh
from channel.links import (
    ACCESSES,
    OFDMA,
    TDMA,
    Access,
    FixedRateLink,
    GapLink,
    Link,
    LinkBudget,
    McsLink,
    MinimumEnergy,
    MinimumLatency,
    Retransmission,
    ShannonLink,
    Transmission,
)

WAYS: list[Access] = [OFDMA(), OFDMA("equal"), OFDMA(power="equal-density"), TDMA()]
BANDWIDTH = 1e6


def budget(gains: Any, power: float = 1.0, noise: float = 0.1, **more: Any) -> LinkBudget:
    return LinkBudget(gains, power, noise, BANDWIDTH, **more)


def send(access: Access, of: LinkBudget, bits: Any, link: Link, seed: int = 0, **more: Any) -> Transmission:
    return access.send(of, bits, link, [np.random.default_rng([seed, i]) for i in range(of.devices)], **more)


def test_tdma_takes_the_sum_of_what_each_device_takes_alone() -> None:
    of = budget([0.5, 1.0, 2.0])
    sent = send(TDMA(), of, [1000, 2000, 3000], ShannonLink())
    alone = np.array([1000, 2000, 3000]) / (BANDWIDTH * np.log2(1 + np.array([0.25, 1.0, 4.0]) / 0.1))
    np.testing.assert_allclose(sent.seconds, alone, rtol=1e-12)
    assert sent.air_time == pytest.approx(alone.sum(), rel=1e-12)
    assert sent.uses == math.ceil(2 * BANDWIDTH * alone.sum())
    assert sent.arrived.all()


def test_ofdma_lets_all_finish_together_and_before_equal_shares_do() -> None:
    of = budget([0.5, 1.0, 1.5, 2.0])
    best, equal = (
        send(OFDMA(shares), of, [4000, 1000, 2000, 3000], GapLink(3.0)) for shares in ("minimum-latency", "equal")
    )  # type: ignore[arg-type]
    np.testing.assert_allclose(best.seconds, best.air_time, rtol=1e-9)
    assert best.air_time < 0.7 * equal.air_time
    assert best.shares.sum() == pytest.approx(1.0)


def test_one_device_has_the_same_from_every_access() -> None:
    times = [send(access, budget([0.7]), 5000, ShannonLink()).air_time for access in WAYS]
    np.testing.assert_allclose(times, times[0], rtol=1e-12)


def test_ofdma_with_a_power_mask_is_as_slow_as_tdma_at_the_same_radiated_energy() -> None:
    # at equal density the SNR is that of the whole band: the same bits take the same use-time, side by side or in turn
    of = budget([0.3, 0.6, 1.2])
    masked, in_turn = send(OFDMA(power="equal-density"), of, 3000, ShannonLink()), send(TDMA(), of, 3000, ShannonLink())
    assert masked.air_time == pytest.approx(in_turn.air_time, rel=1e-9)
    np.testing.assert_allclose(masked.energy, in_turn.energy, rtol=1e-9)


def test_energy_is_amplifier_and_circuit_over_the_time_sent() -> None:
    of = budget([1.0, 1.0], power=2.0, amplifier_efficiency=[0.5, 0.25], circuit_power=0.1)
    sent = send(TDMA(), of, 1000, ShannonLink())
    np.testing.assert_allclose(sent.energy, (2.0 / np.array([0.5, 0.25]) + 0.1) * sent.seconds)


@pytest.mark.parametrize("physical", [True, False])
def test_energy_is_in_the_units_of_the_channel(physical: bool) -> None:
    channel = Channel(Rayleigh(), noise_power=0.01, bandwidth=BANDWIDTH, physical=physical)
    state = channel.state(1, [0, 1], 2, seed=0)
    sent = send(TDMA(), LinkBudget.of(channel, state, 4.0), 100_000, ShannonLink())
    for device in range(2):
        uses = round(2 * BANDWIDTH * sent.seconds[device])
        # an analog sender at the same power, over as many uses: equal up to a fraction of a use
        assert sent.energy[device] == pytest.approx(channel.energy([2.0], uses)[0], rel=1 / uses)


def test_noise_density_is_the_noise_over_the_band() -> None:
    assert budget([1.0], noise=0.2).noise_density == pytest.approx(0.2 / BANDWIDTH)


@pytest.mark.parametrize("access", WAYS, ids=repr)
@given(
    gains=st.lists(st.floats(0.01, 10.0), min_size=1, max_size=8),
    seconds=st.floats(1e-3, 1.0),
    gap_db=st.floats(0.0, 10.0),
)
@settings(deadline=None, max_examples=25)
def test_packets_of_the_capacity_of_an_exchange_fit_into_it(
    access: Access, gains: list[float], seconds: float, gap_db: float
) -> None:
    of, link = budget(gains), GapLink(gap_db)
    bits = access.capacity(of, link, seconds)
    if (bits >= 1).all():
        sent = send(access, of, bits, link, retransmission=Retransmission(deadline=seconds))
        assert sent.arrived.all()
        assert sent.air_time <= seconds * (1 + 1e-6)


def test_a_device_that_cannot_make_the_deadline_is_silent() -> None:
    of = budget([0.01, 1.0, 1.0])
    sent = send(OFDMA("equal"), of, 1000, ShannonLink(), retransmission=Retransmission(deadline=1e-3))
    np.testing.assert_array_equal(sent.arrived, [False, True, True])
    assert sent.energy[0] == sent.seconds[0] == sent.powers[0] == 0.0
    assert not sent.outage


def test_losses_that_run_over_the_deadline_are_charged_until_then() -> None:
    of = budget([1.0])
    link = FixedRateLink(1.0, snr_is="instantaneous")
    link_lost = FixedRateLink(8.0, snr_is="instantaneous")  # 2^8 - 1 is beyond the SNR of 10: never arrives
    deadline = 2.5 * 1000 / (8.0 * BANDWIDTH)
    sent = send(TDMA(), of, 1000, link_lost, retransmission=Retransmission(limit=9, deadline=deadline))
    assert not sent.arrived[0]
    assert sent.attempts[0] == 3
    assert sent.seconds[0] == pytest.approx(deadline)
    assert sent.energy[0] == pytest.approx(deadline)
    assert send(TDMA(), of, 1000, link, retransmission=Retransmission(limit=9)).attempts[0] == 1


def test_every_attempt_is_charged_and_counted() -> None:
    of = budget(np.ones(400))
    sent = send(TDMA(), of, 1000, FixedRateLink(2.0), retransmission=Retransmission(limit=3))
    np.testing.assert_allclose(sent.seconds, sent.attempts * 1000 / (2.0 * BANDWIDTH))
    np.testing.assert_allclose(sent.energy, sent.seconds)
    error = 1 - math.exp(-3 / 10)
    assert sent.attempts.mean() == pytest.approx((1 - error**4) / (1 - error), abs=4 * 0.65 / 20)  # sd of attempts .65


def test_tdma_passes_over_who_does_not_fit_and_lets_the_next_try() -> None:
    of = budget([1.0, 0.05, 1.0])
    slot = 1000 / (BANDWIDTH * np.log2(11))
    sent = send(TDMA(), of, 1000, ShannonLink(), retransmission=Retransmission(deadline=2.2 * slot))
    np.testing.assert_array_equal(sent.arrived, [True, False, True])
    assert sent.air_time == pytest.approx(2 * slot)


def test_least_energy_slots_end_at_the_deadline_and_cost_less() -> None:
    of = budget([0.5, 1.0, 2.0])
    full = send(TDMA(), of, 1000, ShannonLink())
    wait = Retransmission(deadline=3 * full.air_time)
    saving = send(TDMA("minimum-energy"), of, 1000, ShannonLink(), retransmission=wait)
    assert saving.arrived.all()
    assert saving.air_time == pytest.approx(wait.deadline, rel=1e-6)
    assert saving.energy.sum() < 0.5 * full.energy.sum()
    assert (saving.powers < full.powers).all()


def test_slots_that_cannot_meet_the_deadline_run_at_full_power_for_as_many_as_fit() -> None:
    of = budget([1.0, 1.0, 1.0])
    slot = 1000 / (BANDWIDTH * np.log2(11))
    late = Retransmission(deadline=1.5 * slot)
    sent = send(TDMA("minimum-energy"), of, 1000, ShannonLink(), retransmission=late)
    np.testing.assert_array_equal(sent.arrived, [True, False, False])
    assert sent.powers[0] == 1.0


@pytest.mark.parametrize("access", [*WAYS, TDMA("minimum-energy")], ids=repr)
@pytest.mark.parametrize("link", [ShannonLink(), FixedRateLink(1.0), McsLink()], ids=lambda link: link.name)
def test_if_all_are_in_outage_nobody_sends_and_nothing_is_spent(access: Access, link: Link) -> None:
    sent = send(access, budget([0.0, 0.0]), 1000, link, retransmission=Retransmission(deadline=1.0))
    assert sent.outage
    assert sent.air_time == sent.energy.sum() == sent.uses == sent.attempts.sum() == 0
    np.testing.assert_array_equal(access.capacity(budget([0.0, 0.0]), link, 1.0), [0, 0])


@pytest.mark.parametrize("access", WAYS, ids=repr)
def test_devices_in_outage_leave_their_part_to_the_others(access: Access) -> None:
    with_dead = send(access, budget([1.0, 0.0, 0.5]), 1000, ShannonLink())
    without = send(access, budget([1.0, 0.5]), 1000, ShannonLink())
    np.testing.assert_array_equal(with_dead.arrived, [True, False, True])
    assert with_dead.air_time == pytest.approx(without.air_time, rel=1e-9)


@pytest.mark.parametrize("access", WAYS, ids=repr)
def test_without_noise_everything_arrives_at_once(access: Access) -> None:
    sent = send(access, budget([1.0, 0.5], noise=0.0), 1000, ShannonLink())
    assert sent.arrived.all()
    assert sent.air_time == 0.0
    with pytest.raises(ValueError, match="noise_power is 0"):
        access.capacity(budget([1.0, 0.5], noise=0.0), ShannonLink(), 1.0)


def test_rates_chosen_by_gains_that_are_too_good_are_lost() -> None:
    of = budget([1.0, 1.0])
    sent = send(TDMA(), of, 1000, ShannonLink(), assumed_gains=[0.9, 1.1])
    np.testing.assert_array_equal(sent.arrived, [True, False])


@pytest.mark.parametrize(
    "link", [McsLink(block_error_target=1e-6), McsLink(mcs=0), FixedRateLink(0.2, "instantaneous")]
)
def test_with_only_some_rates_no_other_split_of_the_band_is_faster(link: Link) -> None:
    of, bits = budget([0.7, 2.0]), [20_000, 60_000]
    sent = send(OFDMA(), of, bits, link)
    assert sent.arrived.all()
    assert sent.shares.sum() <= 1.0

    def air_time(first: float) -> float:
        shares = np.array([first, 1.0 - first])
        made = link.format(of.snr(of.powers, shares), bits)
        return float(np.max(made.blocks * made.block_uses / (shares * BANDWIDTH)))

    found = min(map(air_time, np.linspace(0.01, 0.99, 981)))
    assert sent.air_time <= found * (1 + 1e-9)
    assert sent.air_time == pytest.approx(found, rel=0.02)  # the grid of splits


def test_the_table_link_delivers_blocks_over_ofdma() -> None:
    of, bits, often = budget([0.3, 1.0, 3.0]), [100_000, 200_000, 50_000], Retransmission(limit=8)
    sent = send(OFDMA(), of, bits, McsLink(), retransmission=often)
    assert sent.arrived.all()
    best, equal = (
        send(OFDMA(), of, bits, ShannonLink()),
        send(OFDMA("equal"), of, bits, McsLink(), retransmission=often),
    )
    assert best.air_time < sent.air_time < equal.air_time


def test_a_constraint_of_the_user_holds_on_the_air() -> None:
    capped = OFDMA(MinimumLatency(constraints=[lambda shares, rates: shares <= 0.4]))
    of = budget([0.1, 1.0, 1.0])
    sent = send(capped, of, 1000, ShannonLink())
    assert sent.shares.max() <= 0.4 + 1e-6
    assert sent.air_time > send(OFDMA(), of, 1000, ShannonLink()).air_time
    slow = TDMA(MinimumEnergy(constraints=[lambda durations, energies: durations[0] >= 0.5]))
    held = send(slow, of, 1000, ShannonLink(), retransmission=Retransmission(deadline=0.9))
    assert held.seconds[0] >= 0.5 * (1 - 1e-6)


@pytest.mark.parametrize("name", ACCESSES)
def test_accesses_go_by_the_name_of_their_class(name: str) -> None:
    assert ACCESSES[name].name == name


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: LinkBudget([1.0], 1.0, 0.1, 0.0), "bandwidth is 0.0"),
        (lambda: budget([1.0], power=-1.0), "power_limits is -1.0"),
        (lambda: budget([1.0, 2.0], power=[1.0]), r"power_limits is \[1.0\]"),  # type: ignore[arg-type]
        (lambda: budget([]), "gains is"),
        (lambda: budget([math.nan]), "gains is"),
        (lambda: budget([1.0], noise=-0.1), "noise_power is -0.1"),
        (lambda: budget([1.0], amplifier_efficiency=1.5), "amplifier_efficiency is"),
        (lambda: budget([1.0], circuit_power=-1.0), "circuit_power is -1.0"),
        (lambda: OFDMA("widest"), "shares is 'widest'"),  # type: ignore[arg-type]
        (lambda: OFDMA(power="most"), "power is 'most'"),  # type: ignore[arg-type]
        (
            lambda: OFDMA(MinimumLatency(constraints=[lambda s, r: s <= 1]), power="equal-density"),
            "takes no constraints",
        ),
        (
            lambda: send(OFDMA(MinimumLatency(constraints=[lambda s, r: s <= 1])), budget([1.0]), 10, McsLink()),
            "link is McsLink",
        ),
        (lambda: TDMA("least"), "power is 'least'"),  # type: ignore[arg-type]
        (lambda: send(TDMA("minimum-energy"), budget([1.0]), 10, FixedRateLink(1.0)), "link is FixedRateLink"),
        (lambda: send(TDMA("minimum-energy"), budget([1.0]), 10, ShannonLink()), "deadline is inf"),
        (lambda: send(TDMA(), budget([1.0]), 0, ShannonLink()), "bits is"),
        (lambda: TDMA().capacity(budget([1.0]), ShannonLink(), 0.0), "seconds is 0.0"),
    ],
)
def test_bad_input_is_named(call: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        call()
