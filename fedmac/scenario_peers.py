"""What a scenario without a server can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmac.pairs import between_pairs
from fedmac.scenario_errors import below, refusal
from fedmac.scenario_table import leaves_out
from strategies.names import STRATEGIES

if TYPE_CHECKING:
    from fedmac.scenario import Scenario

ENGINES = ("local", "collective")
"""Engines of peers; the second is theirs alone."""


def check_peers(scenario: Scenario) -> None:
    """Refuse what does not go with a system without a server.

    Raises
    ------
    ValueError
        Naming the key, its value and what is accepted.
    """
    name, kind = scenario.strategy.name, scenario.engine.kind
    if kind not in ENGINES:
        reason = f'strategy.name = "{name}" has no server'
        raise refusal("engine.kind", kind, reason, ", ".join(f'"{engine}"' for engine in ENGINES))
    if scenario.uplink.kind != "ideal":
        reason = f'strategy.name = "{name}" has no uplink: its peers send plain models to each other'
        raise refusal("uplink.kind", scenario.uplink.kind, reason, '"ideal"')
    if scenario.data.devices < 2:
        reason = f'with strategy.name = "{name}" a peer alone has nobody to average with'
        raise refusal("data.devices", scenario.data.devices, reason, "an integer >= 2")
    if not scenario.variants:  # which have tables of their own
        check_direct_links(scenario)
        reason = f'strategy.name = "{name}" has no server that judges what devices send'
        leaves_out(scenario.trust, type(scenario.trust).model_fields, reason, table="trust.")
    try:
        STRATEGIES[name].load()(**scenario.strategy.parameters)
    except ValueError as error:
        raise ValueError(below("strategy", str(error))) from error


def check_direct_links(scenario: Scenario) -> None:
    """Refuse rates between other devices than there are, and those of a channel that says nothing of distances."""
    network, channel = scenario.network, scenario.channel
    if network is None:
        return
    if network.peer_mbps is not None:
        try:
            between_pairs(network.peer_mbps, scenario.data.devices)
        except ValueError as error:
            raise ValueError(below("network.peer_mbps", str(error))) from error
    if network.peer_link is not None and channel.path_loss == "none":
        reason = "nothing says what the distance between two devices does"
        accepted = 'channel.path_loss = "log-distance" or "free-space"'
        raise refusal("network.peer_link", network.peer_link, reason, accepted)


def check_not_collective(scenario: Scenario) -> None:
    """Refuse the engine of peers for a strategy with a server."""
    if scenario.engine.kind == "collective":
        systems = ", ".join(f'"{key}"' for key, one in STRATEGIES.items() if one.peers)
        reason = f'strategy.name = "{scenario.strategy.name}" has a server'
        raise refusal(
            "engine.kind", "collective", reason, f'"local", "flower", "deployment"; or strategy.name = {systems}'
        )
