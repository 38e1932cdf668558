"""What the parts of the air refuse, in the words of the scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from channel.power import PowerControlError
from channel.trace import TraceEnds
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError, shown

KEYS: Mapping[str, str] = {
    "antennas": "channel.antennas",
    "bandwidth": "channel.bandwidth_mhz",
    "bandwidth_hz": "channel.bandwidth_mhz",
    "carrier_ghz": "channel.carrier_ghz",
    "cell_radius_m": "channel.cell_radius_m",
    "clip_db": "impairments.clip_db",
    "combining_mse": "power_control.combining_mse",
    "delay_spread_s": "channel.delay_spread_ns",
    "frame_seconds": "impairments.frame_s",
    "hall_m": "channel.hall_m",
    "indoor_share": "channel.indoor",
    "mean_burst": "impairments.mean_outage",
    "minimum_distance_m": "channel.minimum_distance_m",
    "mse": "power_control.mse",
    "noise_power": "channel.noise_power",
    "path": "channel.trace",
    "pilot_power": "impairments.pilot_power",
    "power_gain": "channel.path_loss",
    "round_s": "channel.interval_s",
    "slot_seconds": "impairments.slot_s",
    "speed_kmh": "channel.speed_kmh",
    "subbands": "channel.subbands",
    "subcarriers": "impairments.subcarriers",
}
"""Keys by the parameters that they become."""

_SAYS = re.compile(
    r"(?P<name>\w+) is (?P<value>.*?)(?P<reason>, which .*|, but .*)?; (?P<accepted>accepted.*)", re.DOTALL
)


class AirError(RuntimeError):
    """What the air met in the middle of a run, and no check of the scenario could tell; in the scenario's words."""


@contextmanager
def refused_by_the_channel(scenario: Scenario) -> Iterator[None]:
    """Turn what the parts of a channel refuse into a ScenarioError that names the keys they came from."""
    try:
        yield
    except ScenarioError:
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ScenarioError(_of_the_channel(error, scenario)) from error


@contextmanager
def met_on_the_air(scenario: Scenario) -> Iterator[None]:
    """Turn what ends a run in its middle into an AirError: targets out of reach, solvers that fail, traces that end."""
    try:
        yield
    except PowerControlError as error:
        message = in_keys(str(error), scenario)
        raise AirError(message if message.startswith("power_control.") else f"power_control: {message}") from error
    except TraceEnds as error:
        reason = "each exchange takes a round of it, and a second-order strategy makes several exchanges a round"
        raise AirError(f"{_of_the_trace(str(error), scenario)} ({reason})") from error


def in_keys(message: str, scenario: Scenario) -> str:
    """``carrier_ghz is 200.0; accepted: …`` as ``channel.carrier_ghz = 200.0: accepted: …``; others as they are.

    The value is the scenario's, where it gives one: constructors take other units.
    """
    found = _SAYS.fullmatch(message)
    key = KEYS.get(found["name"]) if found else None
    if found is None or key is None:
        return message
    table, name = key.split(".")
    given = getattr(getattr(scenario, table), name)
    value = found["value"] if given is None else shown(given)
    reason = f"{found['reason']};" if found["reason"] else ":"
    return f"{key} = {value}{reason} {found['accepted']}"


def _of_the_channel(error: Exception, scenario: Scenario) -> str:
    section = scenario.channel
    if isinstance(error, ImportError):
        key = "kind" if section.kind != "textbook" else "fading"
        return f'channel.{key} = "{getattr(section, key)}": {error}; accepted: "textbook" or "trace", or that installed'
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        places = "" if section.trace and section.trace.startswith("/") else ", beside the scenario or where it is run"
        return f"channel.trace = {section.trace!r}: {reason}{places}; accepted: a CSV or NPZ file of gains"
    message = in_keys(str(error), scenario)
    if message == str(error) and section.kind == "trace":
        return _of_the_trace(message, scenario)
    return message if message.startswith(("channel.", "impairments.")) else f"channel: {message}"


def _of_the_trace(message: str, scenario: Scenario) -> str:
    """What is said of a file, after its key: the file's name once."""
    trace = str(scenario.channel.trace)
    return f"channel.trace = {trace!r}{message.removeprefix(trace)}" if message.startswith(trace) else message
