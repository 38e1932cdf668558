"""From the tables devices, network and faults of a scenario to the simulated clock of its peers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clients.app import Workplace
from fedmac.clock.build_clock import MEGA, build_faults, build_fleet, build_network, training_flops
from fedmac.clock.channel_rates import drawn_watts, rates_between_devices
from fedmac.clock.clocked_grid import Span
from fedmac.clock.peer_clock import PeerClock
from fedmac.clock.peer_network import PeerNetwork
from fedmac.pairs import between_pairs
from fedmac.scenario import Scenario
from fedmac.scenario_clock import CHANNEL, DevicesSection, NetworkSection

OVER_AN_ACCESS_POINT = ("wifi", "lte", CHANNEL)
"""Links that end at an access point or base station: from one device to another it is their latency twice. In a wired
network it is that of the way to the server, which is a machine like them."""


def build_peer_clock(
    scenario: Scenario, seed: int, workplace: Workplace, on_span: Callable[[Span], None] | None = None
) -> PeerClock:
    """The devices of a scenario as peers on its clock.

    Raises
    ------
    ScenarioError
        If the channel leaves a device, or a pair, without a rate.
    """
    section = scenario.devices or DevicesSection()
    devices = scenario.data.devices
    return PeerClock(
        build_fleet(section, devices, seed),
        build_peer_network(scenario, seed),
        training_flops(workplace),
        build_faults(scenario, seed),
        on_span if section.spans else None,
    )


def build_peer_network(scenario: Scenario, seed: int) -> PeerNetwork:
    """The links of all devices to each other."""
    section = scenario.network or NetworkSection()
    star = build_network(scenario, seed)
    latency = star.links[0].latency_s * (2 if section.link in OVER_AN_ACCESS_POINT else 1)
    if section.peer_latency_ms is not None:
        latency = section.peer_latency_ms / 1e3
    return PeerNetwork(
        star.links,
        star.server_bps,
        shared_medium=star.shared_medium,
        latency_s=latency,
        direct_bps=_direct_rates(scenario, section, seed),
        direct_watts=drawn_watts(scenario) if section.peer_link == CHANNEL else None,
    )


def _direct_rates(scenario: Scenario, section: NetworkSection, seed: int) -> NDArray[np.float64] | float | None:
    given = section.peer_mbps
    if section.peer_link == CHANNEL:
        return rates_between_devices(scenario, seed)
    if given is None or isinstance(given, float):
        return None if given is None else MEGA * given
    return MEGA * between_pairs(given, scenario.data.devices)
