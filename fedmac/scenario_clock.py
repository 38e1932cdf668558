"""The tables of a scenario about its simulated clock: devices that compute, their network, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmac.pairs import PairValues
from fedmac.scenario_air import Decibels
from fedmac.scenario_errors import below, meant, refusal
from fedmac.scenario_factors import FACTOR_CODEC_NAMES
from fedmac.scenario_peers import check_not_collective, check_peers
from fedmac.scenario_table import Fraction, NonNegative, Positive, Section, belongs
from strategies.names import STRATEGIES

if TYPE_CHECKING:
    from fedmac.scenario import Scenario

CHANNEL = "channel"
"""The link whose rates are those of the scenario's channel."""

DRAWN = ("amplifier_efficiency", "circuit_power")
"""Keys of the table link that such a link takes too, beside its name and parameters."""

NOT_ALONE: Mapping[str, str] = {
    "nested": "decodes packets with what others say in the same exchange",
    **dict.fromkeys(FACTOR_CODEC_NAMES, "sends factors of gradients and no updates"),
}
"""Codecs whose packets are not each an update, and why."""


class DevicesSection(Section):
    """How fast devices compute, on a simulated clock."""

    profiles: list[str] = Field(
        ["flagship-phone"], min_length=1, description="names of device profiles; device i has the (i mod n)-th"
    )
    own: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="profiles of your own, a table each; `fedmac profile` writes one"
    )
    jitter: NonNegative = Field(0.0, description="standard deviation of the logarithm of a step's time")
    straggler_probability: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="that a step is slow")
    straggler_slowdown: Annotated[float, Field(ge=1, allow_inf_nan=False)] = Field(
        1.0, description="how many times as long a slow step takes"
    )
    deadline_s: Positive | None = Field(
        None, description="of strategies that are no systems: who trains for longer is not heard (default: all are)"
    )
    spans: bool = Field(False, description="record when each device computed, received and sent")

    @model_validator(mode="after")
    def _known(self) -> DevicesSection:
        from clients.device_profiles import profile_from, shipped_profiles

        for name, table in self.own.items():
            try:
                profile_from(name, table)
            except ValueError as error:
                raise ValueError(f"own: {error}") from None
        names = [*shipped_profiles(), *self.own]
        for name in self.profiles:
            if name not in names:
                reason = f"no such device profile; {meant(name, names)}".rstrip("; ")
                raise refusal("profiles", name, reason, ", ".join(names))
        return self


class NetworkSection(Section):
    """How devices on a simulated clock reach the server; of strategies that are no systems, how the model gets down."""

    link: str = Field("wifi", description="infiniband, ethernet-10g, ethernet-1g, wifi, lte, or channel: its rates")
    up_mbps: Positive | None = Field(None, description="a device's rate to the server (default: of the link)")
    down_mbps: Positive | None = Field(None, description="and from it")
    latency_ms: NonNegative | None = Field(None, description="one way (default: of the link)")
    server_mbps: Positive | None = Field(None, description="of the server's own link, each way, which all share")
    peer_mbps: PairValues | None = Field(
        None,
        description="of direct links between devices without a server, one rate or a matrix (default: by way of the "
        "access point)",
    )
    peer_link: Literal["channel"] | None = Field(
        None, description="direct links between devices with the rates of the channel, by their distance"
    )
    peer_latency_ms: NonNegative | None = Field(None, description="from one device to another (default: of the link)")
    server_tx_power_dbm: Decibels | None = Field(
        None, description="of channel: the server's power, for the rates down (default: as the devices')"
    )

    @model_validator(mode="after")
    def _known(self) -> NetworkSection:
        from fedmac.clock.links import LINK_KINDS

        names = [*LINK_KINDS, CHANNEL]
        if self.link not in names:
            reason = f"no such link; {meant(self.link, names)}".rstrip("; ")
            raise refusal("link", self.link, reason, ", ".join(names))
        for key in ("up_mbps", "down_mbps", "server_mbps") if self.link == CHANNEL else ():
            if (value := getattr(self, key)) is not None:
                raise refusal(key, value, 'link = "channel" has the rates of the channel', f"{key} left out")
        belongs(self, {"server_tx_power_dbm": ("link", (CHANNEL,))})
        if self.peer_mbps is not None and self.peer_link is not None:
            raise refusal("peer_mbps", self.peer_mbps, f'peer_link = "{self.peer_link}" has rates', "one of them")
        return self


class IncidentSection(Section):
    """Something that happens to one device."""

    device: Annotated[int, Field(ge=0)] = Field(description="its number")
    kind: Literal["crash", "hang", "join"] = Field(
        description="crash: gone with its work; hang: works at nothing meanwhile; join: not there before"
    )
    at_s: NonNegative = Field(description="when")
    for_s: Positive | None = Field(None, description="how long it is gone or hangs (default: for ever)")


class FaultsSection(Section):
    """What goes wrong on a simulated clock; nothing by default."""

    loss: Fraction = Field(0.0, description="probability that a message is lost, each way")
    mean_up_s: Positive | None = Field(None, description="mean time until a device crashes")
    mean_down_s: Positive | None = Field(None, description="mean time until it is back")
    hang_probability: Fraction = Field(0.0, description="that a step hangs")
    hang_s: NonNegative = Field(0.0, description="for how long")
    incidents: list[IncidentSection] = Field(default_factory=list, description="what happens besides, a table each")

    @model_validator(mode="after")
    def _up_and_down_go_together(self) -> FaultsSection:
        if (self.mean_up_s is None) != (self.mean_down_s is None):
            key = "mean_up_s" if self.mean_up_s is None else "mean_down_s"
            raise ValueError(f"{key}: missing; accepted: mean_up_s and mean_down_s together (s)")
        return self


def in_joules(given: Any) -> Any:
    """A scenario's content with ``channel.units = "physical"`` if it has a simulated clock: its energies are J.

    A channel that says its power in other units is left as it is.
    """
    if not isinstance(given, Mapping) or not isinstance(strategy := given.get("strategy", {}), Mapping):
        return given
    named, channel = STRATEGIES.get(str(strategy.get("name", "fedavg"))), given.get("channel", {})
    clocked = named is not None and (named.on_clock or given.get("devices") is not None)
    if not clocked or not isinstance(channel, Mapping):
        return given
    if channel.get("units", "normalised") != "normalised" or {"snr_db", "noise_power"} & set(channel):
        return given
    return {**given, "channel": {**channel, "units": "physical"}}


def is_clock_simulated(scenario: Scenario) -> bool:
    """Whether the seconds of a scenario's clock are simulated: by device profiles, where devices are too."""
    on_clock = STRATEGIES[scenario.strategy.name].on_clock or scenario.devices is not None
    return on_clock and scenario.engine.kind == "local"


def check_clock(scenario: Scenario) -> None:
    """Refuse tables of the clock where there is none, and what a strategy on a clock cannot go with.

    Raises
    ------
    ValueError
        Naming the key, its value and what is accepted.
    """
    name = STRATEGIES.get(scenario.strategy.name)
    if (name is None or not name.peers) and not scenario.variants:  # as above
        check_not_collective(scenario)
    if (name is None or not name.on_clock or name.peers) and not scenario.variants:
        _check_no_arrivals(scenario)
    tables = [key for key in ("devices", "network", "faults") if getattr(scenario, key) is not None]
    if name is None or not name.on_clock:
        if tables and not scenario.variants:  # what variants have in common may be for some of them
            _check_exchange_clock(scenario, tables)
        return
    _check_simulated(scenario, tables)
    if scenario.devices is not None and scenario.devices.deadline_s is not None and not scenario.variants:
        reason = f'strategy.name = "{scenario.strategy.name}" has no exchange of all devices'
        accepted = "devices.deadline_s left out; synchronous has strategy.deadline_s"
        raise refusal("devices.deadline_s", scenario.devices.deadline_s, reason, accepted)
    if name.peers:
        check_peers(scenario)
    elif scenario.uplink.kind not in ("ideal", "digital"):
        reason = f'strategy.name = "{scenario.strategy.name}" sends messages over the table network'
        raise refusal("uplink.kind", scenario.uplink.kind, reason, '"ideal" (plain models), "digital" (packets)')
    if scenario.uplink.kind == "digital" and not scenario.variants:
        _check_packets(scenario)
    if not name.peers:
        _check_parameters(scenario)
    for incident in scenario.faults.incidents if scenario.faults is not None else ():
        if incident.device >= scenario.data.devices:
            accepted = f"an integer from 0 to {scenario.data.devices - 1}"
            raise refusal("faults.incidents.device", incident.device, "there is no such device", accepted)


def _check_no_arrivals(scenario: Scenario) -> None:
    """Refuse checkpoints by arrivals where no server takes replies one by one."""
    if (arrivals := scenario.engine.checkpoint_arrivals) is not None:
        systems = ", ".join(f'"{key}"' for key, one in STRATEGIES.items() if one.on_clock and not one.peers)
        reason = f'strategy.name = "{scenario.strategy.name}" has no server that takes replies one by one'
        accepted = f"checkpoint_arrivals left out, or strategy.name = {systems}"
        raise refusal("engine.checkpoint_arrivals", arrivals, reason, accepted)


def _check_simulated(scenario: Scenario, tables: Sequence[str]) -> None:
    """Refuse tables of the clock where time is real, and rates of a channel without units."""
    if scenario.engine.kind != "local" and tables:
        reason = f'with engine.kind = "{scenario.engine.kind}" devices, network and time are real'
        raise ValueError(f'{tables[0]}: {reason}; accepted: {tables[0]} left out, or engine.kind = "local"')
    network = scenario.network or NetworkSection()
    for key in ("link", "peer_link"):
        if getattr(network, key) == CHANNEL and scenario.channel.units != "physical":
            reason = "a rate in bit/s needs powers in W"
            raise refusal("channel.units", scenario.channel.units, reason, f'"physical" with network.{key} = "channel"')


def _check_exchange_clock(scenario: Scenario, tables: Sequence[str]) -> None:
    """Refuse what does not go with the clock of a strategy that is no system."""
    named, systems = scenario.strategy.name, ", ".join(f'"{key}"' for key, one in STRATEGIES.items() if one.on_clock)
    if named not in STRATEGIES or STRATEGIES[named].second_order:
        reason = f'its clock is not simulated with strategy.name = "{named}"'
        raise ValueError(f"{tables[0]}: {reason}; accepted: {tables[0]} left out, or a strategy that averages updates")
    if scenario.faults is not None:
        reason = f'strategy.name = "{named}" is none of the systems whose workers have faults'
        raise ValueError(f"faults: {reason}; accepted: impairments.availability, or strategy.name = {systems}")
    if scenario.devices is None:
        raise ValueError("network: its clock is not simulated without the table devices; accepted: both, or neither")
    _check_simulated(scenario, tables)
    if scenario.channel.units != "physical":
        reason = "joules of computing (the table devices) do not add up with units of noise energy"
        raise refusal("channel.units", scenario.channel.units, reason, '"physical"')


def _check_packets(scenario: Scenario) -> None:
    """Refuse codecs and links that packets of a system's workers do not go with."""
    codec, system = scenario.codec, f'strategy.name = "{scenario.strategy.name}"'
    if codec.name in NOT_ALONE:
        reason = f"{NOT_ALONE[codec.name]}, and {system} takes each update alone"
        raise refusal("codec.name", codec.name, reason, "another codec")
    if codec.error_feedback is not None:
        reason = f"what a device keeps from message to message does not go with {system}"
        raise refusal("codec.error_feedback", codec.error_feedback, reason, "error_feedback left out")
    network = scenario.network or NetworkSection()
    own = {*DRAWN, *(("name", *scenario.link.parameters) if network.link == CHANNEL else ())}
    given = scenario.link.model_dump(exclude=own)
    for key, value in given.items():
        field = type(scenario.link).model_fields.get(key)
        if field is None or value != field.default:
            reason = f"{system} sends packets over the table network"
            accepted = f'{key} left out; of link only {", ".join(DRAWN)}, and name with network.link = "channel"'
            raise refusal(f"link.{key}", value, reason, accepted)


def _check_parameters(scenario: Scenario) -> None:
    """Make the strategy, which refuses what is out of range."""
    try:
        STRATEGIES[scenario.strategy.name].load()(devices=scenario.data.devices, **scenario.strategy.parameters)
    except ValueError as error:
        raise ValueError(below("strategy", str(error))) from error
