"""From a scenario to its attackers, the bound on norms and the accounting for privacy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients.attack import Attack, drawn_attackers
from fedmac.scenario import Scenario
from fedmac.scenario_errors import refusal
from fedmac.scenario_privacy import LINEAR_CODES

if TYPE_CHECKING:
    from channel.privacy import Privacy
    from channel.uplinks.norm_bound import NormBound


def build_attack(scenario: Scenario, seed: int) -> Attack | None:
    """What some devices do in place of training; None where all are honest."""
    section = scenario.attackers
    if not section.present:
        return None
    drawn = drawn_attackers(section.count, scenario.data.devices, seed)
    devices = drawn if section.devices is None else frozenset(section.devices)
    return Attack(section.kind, devices, section.factor or 1.0, seed)


def defiant_devices(scenario: Scenario, seed: int) -> frozenset[int]:
    """Those that send at their power limit, whatever is granted to them."""
    attack = build_attack(scenario, seed)
    return frozenset() if attack is None or scenario.attackers.power == "granted" else attack.devices


def build_norm_bound(scenario: Scenario) -> NormBound | None:
    """What the air takes from a device at most; None where norms are not bounded, or not those of updates."""
    from channel.uplinks.norm_bound import NormBound

    limit, uplink = scenario.training.clip_norm, scenario.uplink
    if limit is None or uplink.code not in LINEAR_CODES or uplink.error_feedback:
        return None
    return NormBound(limit, known=scenario.power_control.norms == "bound")


def build_privacy(scenario: Scenario) -> Privacy | None:
    """The accounting for privacy, and the noise of every round that a target needs; None where it is not asked for.

    Raises
    ------
    ValueError
        Without dp-accounting.
    """
    section = scenario.privacy
    if section.delta is None:
        return None
    from channel.privacy import Privacy, epsilon_of, needed_noise_multiplier

    try:
        epsilon_of(1.0, section.delta)
    except ImportError as error:
        accepted = "that installed (pip install 'fedmac[privacy]'), or delta left out"
        raise refusal("privacy.delta", section.delta, str(error).split(":")[0], accepted) from error
    if section.epsilon is None or scenario.rounds == 0:
        return Privacy(section.delta)
    return Privacy(section.delta, needed_noise_multiplier(section.epsilon, section.delta, scenario.rounds))
