"""From the tables devices, network and faults of a scenario to its simulated clock."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache

from flwr.serverapp import Grid

from clients.app import Workplace
from clients.device_profiles import ComputeProfile, profile_from, shipped_profiles
from clients.parameters import model_arrays
from clients.training_flops import examples_visited, flops_per_example
from fedmac.clock.channel_rates import channel_links
from fedmac.clock.clocked_grid import ClockedGrid, Span
from fedmac.clock.exchange_clock import ExchangeClock
from fedmac.clock.faults import Faults, Incident
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import LINK_KINDS, changed
from fedmac.clock.network import Network
from fedmac.clock.punctual_grid import PunctualGrid
from fedmac.engines.local import LocalGrid
from fedmac.scenario import Scenario
from fedmac.scenario_clock import CHANNEL, DevicesSection, FaultsSection, NetworkSection
from fedmac.scenario_sections import EngineSection

MEGA = 1e6


def build_clock(
    scenario: Scenario,
    seed: int,
    grid: LocalGrid,
    workplace: Workplace,
    on_span: Callable[[Span], None] | None = None,
) -> ClockedGrid:
    """The local engine's devices on the scenario's clock.

    Raises
    ------
    ScenarioError
        If the channel leaves a device without a rate.
    """
    section = scenario.devices or DevicesSection()
    devices = scenario.data.devices
    workers = len(grid.team.connections)
    return ClockedGrid(
        grid,
        build_fleet(section, devices, seed),
        build_network(scenario, seed),
        training_flops(workplace),
        faults=build_faults(scenario, seed),
        at_once=devices if workers else 1,
        on_span=on_span if section.spans else None,
    )


def build_exchange_clock(
    scenario: Scenario, seed: int, workplace: Workplace, on_span: Callable[[Span], None] | None = None
) -> ExchangeClock:
    """The clock of a scenario whose strategy is no system: its devices send together over the uplink.

    Without the table network the model is at the devices at once.

    Raises
    ------
    ScenarioError
        If the channel leaves a device without a rate.
    """
    section = scenario.devices or DevicesSection()
    arrays = model_arrays(workplace.trainer.model)
    return ExchangeClock(
        build_fleet(section, scenario.data.devices, seed),
        training_flops(workplace),
        network=None if scenario.network is None else build_network(scenario, seed),
        model_bits=float(sum(8 * array.nbytes for array in arrays.values())),
        deadline=math.inf if section.deadline_s is None else section.deadline_s,
        on_span=on_span if section.spans else None,
    )


def on_time(grid: Grid, clock: ExchangeClock) -> Grid:
    """The grid, without replies that come after the clock's deadline."""
    return PunctualGrid(grid, clock) if isinstance(grid, LocalGrid) and math.isfinite(clock.deadline) else grid


def build_fleet(section: DevicesSection, devices: int, seed: int) -> Fleet:
    """How fast the devices compute."""
    return Fleet(
        build_profiles(section),
        devices,
        seed,
        jitter=section.jitter,
        straggler_probability=section.straggler_probability,
        straggler_slowdown=section.straggler_slowdown,
    )


def build_profiles(section: DevicesSection) -> list[ComputeProfile]:
    """The profiles that a table names, its own before those that come along."""
    own = {name: profile_from(name, table) for name, table in section.own.items()}
    return [{**shipped_profiles(), **own}[name] for name in section.profiles]


def training_flops(workplace: Workplace) -> Callable[[int], float]:
    """FLOPs of one message's training, by device."""
    trainer, data = workplace.trainer, workplace.data

    @cache
    def per_example() -> float:
        inputs, targets = data.train.inputs[:2].to(trainer.device), data.train.targets[:2].to(trainer.device)
        return flops_per_example(trainer.model, inputs, targets, trainer.loss.mean)

    return lambda device: per_example() * examples_visited(workplace.training, len(data.parts[device]))


def build_network(scenario: Scenario, seed: int) -> Network:
    """The links of all devices, and the server's."""
    section = scenario.network or NetworkSection()
    devices = scenario.data.devices
    if section.link == CHANNEL:
        return Network(channel_links(scenario, seed, section, _latency(section) or 0.0), shared_medium=True)
    kind = LINK_KINDS[section.link]
    up, down = _bps(section.up_mbps), _bps(section.down_mbps)
    link = changed(kind.link, up_bps=up, down_bps=down, latency_s=_latency(section))
    server = _bps(section.server_mbps) or kind.server_bps
    # On a shared medium the server's link is behind it; a message can be no faster than either.
    if kind.shared_medium:
        link = changed(link, up_bps=min(link.up_bps, server), down_bps=min(link.down_bps, server))
    return Network([link] * devices, server, shared_medium=kind.shared_medium)


def build_faults(scenario: Scenario, seed: int) -> Faults:
    """What goes wrong."""
    section, devices = scenario.faults or FaultsSection(), scenario.data.devices
    seconds = scenario.engine.round_timeout_s
    if section.loss and seconds == EngineSection.model_fields["round_timeout_s"].default:
        warnings.warn(
            f"faults.loss = {section.loss:g}: whoever loses a message is given up after engine.round_timeout_s = "
            f"{seconds:g} (the default; simulated seconds); a few steps of training are enough",
            stacklevel=2,
        )
    incidents = [
        Incident(one.device, one.kind, one.at_s, math.inf if one.for_s is None else one.for_s)
        for one in section.incidents
    ]
    return Faults(devices, seed, incidents=incidents, **section.model_dump(exclude={"incidents"}))


def _bps(mbps: float | None) -> float | None:
    return None if mbps is None else mbps * MEGA


def _latency(section: NetworkSection) -> float | None:
    return None if section.latency_ms is None else section.latency_ms / 1e3
