"""From a scenario to its system without a server."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fedmac.build_channel import build_channel
from strategies.names import STRATEGIES
from strategies.peers.named_gossip import NamedGossip

if TYPE_CHECKING:
    from fedmac.scenario import Scenario
    from strategies.peers.peer import PeerSystem


def build_peer_system(scenario: Scenario, seed: int) -> PeerSystem:
    """The system that the scenario names, for its devices.

    A geometric graph is that of the devices' places in the channel, or of drawn ones where nothing places them.

    Raises
    ------
    ValueError
        If a parameter is out of range, there are too few devices, or the graph is in parts.
    """
    section, devices = scenario.strategy, scenario.data.devices
    system = STRATEGIES[section.name].load()(**section.parameters)
    if not isinstance(system, NamedGossip):
        chosen: PeerSystem = system
        return chosen
    positions = None
    if system.graph == "geometric":
        positions = build_channel(scenario, seed).positions(0, devices, seed)
    return system.among(devices, seed, positions)


def count_peers(scenario: Scenario) -> int:
    """Devices, and a server where one keeps the centre of elastic averaging."""
    return scenario.data.devices + bool(scenario.strategy.parameters.get("server"))


def rehearse_peers(scenario: Scenario) -> None:
    """Build the system for every seed; what a graph in parts is warned of is warned of when it runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in scenario.run_seeds:
            build_peer_system(scenario, seed).check(count_peers(scenario))
