"""Rates over the channel: the mean of what the link carries, from the server and from device to device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.special

from channel.channel import Channel
from channel.fading import AWGN, Rayleigh
from channel.links.link import FixedRateLink, GapLink, Link, ShannonLink
from channel.links.mcs import McsLink
from channel.propagation import LogDistance, thermal_noise_power, watts_from_dbm
from fedmac.build_channel import build_channel
from fedmac.clock.build_clock import build_network
from fedmac.clock.channel_rates import DRAWS, mean_rates
from fedmac.clock.peer_build import build_peer_network
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError

BANDWIDTH = 1e6
DEVICES = 400

SCENARIO: dict[str, Any] = {
    "name": "rates",
    "rounds": 1,
    "training": {"learning_rate": 0.1},
    "data": {"source": "digits", "devices": 3},
    "uplink": {"kind": "ideal"},
    "strategy": {"name": "gossip"},
    "network": {"link": "wifi", "peer_link": "channel", "peer_latency_ms": 0.0},
    "channel": {
        "units": "physical", "fading": "none", "bandwidth_mhz": 1.0, "tx_power_dbm": 10.0, "noise_figure_db": 5.0,
        "path_loss": "log-distance", "exponent": 3.0, "reference_loss_db": 40.0, "cell_radius_m": 100.0,
    },
}  # fmt: skip


def rates(modem: Link, snr: float, fading: bool) -> np.ndarray:
    channel = Channel(Rayleigh() if fading else AWGN(), noise_power=2.0, bandwidth=BANDWIDTH)
    return mean_rates(channel, modem, 2.0 * snr, DEVICES, 1)


@pytest.mark.parametrize(("modem", "gap"), [(ShannonLink(), 1.0), (GapLink(3.0), 10**0.3)])
def test_without_fading_it_is_the_rate_at_the_snr(modem: Link, gap: float) -> None:
    assert rates(modem, 9.0, fading=False) == pytest.approx(BANDWIDTH * math.log2(1 + 9.0 / gap))


@pytest.mark.parametrize("snr", [0.5, 10.0, 1000.0])
def test_under_rayleigh_fading_it_is_the_ergodic_capacity(snr: float) -> None:
    exact = BANDWIDTH * math.exp(1 / snr) * scipy.special.exp1(1 / snr) / math.log(2)
    found = rates(ShannonLink(), snr, fading=True)
    # The mean of 400 devices, and each device: the spread of one draw is at most the mean itself. Four deviations.
    assert found.mean() == pytest.approx(exact, rel=4 / math.sqrt(DRAWS * DEVICES))
    assert found == pytest.approx(exact, rel=4 / math.sqrt(DRAWS))


def test_at_a_fixed_rate_it_is_what_arrives() -> None:
    lost = 1 - math.exp(-(2.0**2 - 1) / 10.0)
    given = rates(FixedRateLink(2.0), 10.0, fading=False)  # fading of its own around the SNR
    assert given == pytest.approx(BANDWIDTH * 2.0 * (1 - lost))
    drawn = rates(FixedRateLink(2.0, "instantaneous"), 10.0, fading=True)
    assert drawn.mean() == pytest.approx(BANDWIDTH * 2.0 * (1 - lost), rel=4 / math.sqrt(DRAWS * DEVICES))


def test_modulation_and_coding_carry_less_than_capacity_and_most_of_it() -> None:
    found, capacity = (rates(modem, 30.0, fading=True).mean() for modem in (McsLink(), ShannonLink()))
    assert 0.6 * capacity < found < capacity


def test_a_device_reaches_another_at_the_rate_of_their_distance() -> None:
    scenario = Scenario.load(SCENARIO)
    net = build_peer_network(scenario, 1)
    places = build_channel(scenario, 1).positions(0, 3, 1)
    assert places is not None
    for source, to in [(0, 1), (1, 0), (2, 1)]:
        gain = LogDistance(3.0, 40.0).power_gain([np.linalg.norm(places[source] - places[to])], 1)
        rate = 1e6 * math.log2(1 + watts_from_dbm(10.0) * float(gain[0]) / thermal_noise_power(1e6, 5.0))
        assert net.receive_seconds(to, source, 10**6) == pytest.approx(1e6 / rate)
        # The channel's radio at 10 dBm, and not the interface of the way to the server.
        assert net.joules_sent(source, to, 10**6) == pytest.approx(watts_from_dbm(10.0) * 1e6 / rate)
        assert net.joules_received(source, to, 10**6) == 0


def test_what_is_on_the_diagonal_of_a_matrix_is_of_no_account() -> None:
    network = {"peer_mbps": [[math.nan, 1, 2], [3, -1, 4], [5, 6, 0]]}
    given = Scenario.load(SCENARIO | {"network": network})
    assert given.network is not None
    assert given.network.peer_mbps == ((0.0, 1.0, 2.0), (3.0, 0.0, 4.0), (5.0, 6.0, 0.0))
    assert Scenario.load(given.content()).network == given.network
    assert build_peer_network(given, 1).receive_seconds(2, 1, 10**6) == pytest.approx(1 / 4)


def test_variants_may_differ_in_devices_and_matrices() -> None:
    rates = {"network": {"peer_mbps": [[0, 1], [1, 0]]}}
    two = {"name": "two", "data": {"devices": 2}}
    assert len(Scenario.load(SCENARIO | rates | {"variants": [two]}).resolve()) == 1
    with pytest.raises(ScenarioError, match=r'variant "three": network\.peer_mbps = a matrix of 2 devices'):
        Scenario.load(SCENARIO | rates | {"variants": [two, {"name": "three"}]})


def test_two_devices_out_of_each_others_reach_are_named() -> None:
    weak = SCENARIO | {"channel": SCENARIO["channel"] | {"tx_power_dbm": -200.0}, "link": {"name": "mcs"}}
    with pytest.raises(ScenarioError, match=r"devices 0 and \d, \d+ m apart, cannot reach each other"):
        build_peer_network(Scenario.load(weak), 1)


@pytest.mark.parametrize("uplink", ["ideal", "digital"])
def test_systems_links_are_those_of_the_table_link(uplink: str) -> None:
    changes: dict[str, Any] = {
        "strategy": {"name": "asynchronous"}, "network": {"link": "channel"}, "uplink": {"kind": uplink},
        "link": {"name": "snr-gap", "gap_db": 6.0},
    }  # fmt: skip
    scenario = Scenario.load(SCENARIO | changes)
    channel = build_channel(scenario, 1)
    snr = watts_from_dbm(10.0) * channel.mean_power(0, 3, 1) / channel.noise_power
    expected = 1e6 * np.log2(1 + snr / 10**0.6)
    assert [link.up_bps for link in build_network(scenario, 1).links] == pytest.approx(expected)
