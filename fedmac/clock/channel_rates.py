"""Rates over the scenario's channel: what its link carries, in the mean over the fading."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from channel.channel import Channel
from channel.links import LINKS
from channel.links.link import LONG_PACKET
from channel.links.link import Link as Modem
from channel.propagation import watts_from_dbm
from channel.randomness import key
from fedmac.build_channel import build_channel, build_propagation, power_limit
from fedmac.clock.links import Link
from fedmac.scenario import Scenario
from fedmac.scenario_clock import CHANNEL, NetworkSection
from fedmac.scenario_errors import ScenarioError

Rates = NDArray[np.float64]

DRAWS = 256
"""Draws of the fading that a mean is taken over: under Rayleigh fading of 10 dB it is good to 2 %."""

LEAST_DISTANCE_M = 1.0
"""Between two devices: nearer ones are taken to be so far apart, as the laws of path loss begin there."""


def mean_rates(channel: Channel, modem: Modem, power: float, total: int, seed: int) -> Rates:
    r"""What each device's link carries if it has the whole band, bit/s, shape (N,).

    .. math:: r_i = B\,\mathrm{E}\big[\eta(\gamma_i)(1 - \varepsilon(\gamma_i))\big], \qquad
              \gamma_i = P |h_i|^2 / N ,

    with the bits per complex use :math:`\eta` and the block error :math:`\varepsilon` of the link: the goodput of a
    message of many blocks, each under fading of its own, of which those that are lost are sent again.

    Parameters
    ----------
    channel : Channel
    modem : Link
        Of :mod:`channel.links`; it knows the SNR of every block.
    power : float
        P of the sender, W.
    total : int
        N.
    seed : int
        Of the draws.
    """
    carried = np.zeros(total)
    for gains in channel.draws(DRAWS, total, seed):
        found = modem.format(power * gains**2 / channel.mean_noise, LONG_PACKET)
        carried += LONG_PACKET * (1.0 - found.block_error) / (found.blocks * found.block_uses)
    return channel.bandwidth * carried / DRAWS


def channel_links(scenario: Scenario, seed: int, section: NetworkSection, latency_s: float) -> list[Link]:
    """Links of devices and server that take turns in the whole band; on the way down P is the server's, if given.

    Raises
    ------
    ScenarioError
        Without power limit or noise, or if a device is out of reach.
    """
    channel, power, modem = _radio(scenario, seed, "link")
    devices, given = scenario.data.devices, section.server_tx_power_dbm
    down_power = power if given is None else watts_from_dbm(given)
    up, down = (mean_rates(channel, modem, watts, devices, seed) for watts in (power, down_power))
    if not (up > 0).all() or not (down > 0).all():
        out = np.flatnonzero(np.minimum(up, down) <= 0).tolist()
        raise ScenarioError(
            f'network.link = "channel": devices {out} are out of reach; accepted: a channel that reaches all'
        )
    drawn = drawn_watts(scenario)
    return [Link(float(u), float(d), latency_s, send_watts=drawn) for u, d in zip(up, down, strict=True)]


def drawn_watts(scenario: Scenario) -> float:
    """What a device draws while it sends over the channel at its power limit (W); receiving draws nothing."""
    return (power_limit(scenario) or 0.0) / scenario.link.amplifier_efficiency + scenario.link.circuit_power


def rates_between_devices(scenario: Scenario, seed: int) -> Rates:
    """Of direct links over the channel's path loss and fading, bit/s, shape (N, N), the same both ways.

    Raises
    ------
    ScenarioError
        Without power limit or noise, or if two devices cannot reach each other.
    """
    channel, power, modem = _radio(scenario, seed, "peer_link")
    devices = scenario.data.devices
    places = channel.positions(0, devices, seed)
    assert places is not None  # the scenario has a path loss
    first, second = np.triu_indices(devices, 1)
    distances = np.maximum(np.linalg.norm(places[first] - places[second], axis=1), LEAST_DISTANCE_M)
    own = key(seed, "between devices")
    gains = build_propagation(scenario.channel).power_gain(distances, own)
    pairs = replace(channel, power_gain=gains, antennas=1, places=None)
    found = mean_rates(pairs, modem, power, len(first), own)
    if not (found > 0).all():
        worst = int(np.argmin(found))
        raise ScenarioError(
            f'network.peer_link = "channel": devices {first[worst]} and {second[worst]}, {distances[worst]:.0f} m '
            "apart, cannot reach each other; accepted: a channel that lets all reach all"
        )
    rates = np.full((devices, devices), np.inf)
    rates[first, second] = rates[second, first] = found
    return rates


def _radio(scenario: Scenario, seed: int, asked_by: str) -> tuple[Channel, float, Modem]:
    channel, power = build_channel(scenario, seed), power_limit(scenario)
    if power is None or channel.noise_power == 0:
        raise ScenarioError(
            f'network.{asked_by} = "{CHANNEL}": no power limit or no noise; accepted: channel.tx_power_dbm or '
            "channel.snr_db, and noise"
        )
    return channel, power, LINKS[scenario.link.name](**scenario.link.parameters)
