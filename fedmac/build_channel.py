"""From the tables of a scenario about the air to its channel."""

from __future__ import annotations

import math
from pathlib import Path

from channel.availability import Always, Availability, Bernoulli, Bursty
from channel.channel import Channel
from channel.fading import AWGN, Fading, GaussMarkov, Rayleigh, Rician
from channel.impairments import (
    Ageing,
    ChannelEstimation,
    FrequencyOffset,
    Impairments,
    Interference,
    PhaseError,
    TimingError,
)
from channel.impairments.impairments import Rotation
from channel.propagation import (
    FreeSpace,
    LogDistance,
    Propagation,
    Real,
    around_receiver,
    thermal_noise_power,
    uniform_disc,
    watts_from_dbm,
)
from channel.trace import GainTrace
from fedmac.air_refusals import refused_by_the_channel
from fedmac.scenario import Scenario
from fedmac.scenario_air import CELLS, ChannelSection, ImpairmentsSection
from fedmac.scenario_errors import ScenarioError


def build_channel(scenario: Scenario, seed: int) -> Channel:
    """The scenario's channel; device positions are drawn by `seed`.

    Raises
    ------
    ScenarioError
        What a part refuses, by the scenario's key: a trace that cannot be read or is shorter than the run, a cell that
        the standard has not, a cell without the extra ``3gpp``.
    """
    with refused_by_the_channel(scenario):
        return _channel(scenario, seed)


def _channel(scenario: Scenario, seed: int) -> Channel:
    section, wrong, devices = scenario.channel, scenario.impairments, scenario.data.devices
    noise_power = _noise_power(section)
    distances = _distances(section, devices, seed)
    return Channel(
        fading=_fading(scenario),
        power_gain=1.0 if distances is None else build_propagation(section).power_gain(distances, seed),
        noise_power=noise_power,
        bandwidth=section.uses_per_second,
        physical=section.units == "physical",
        subbands=section.subbands,
        slots=wrong.slots or 1,
        slot_seconds=wrong.slot_s or 1e-3,
        antennas=section.antennas,
        impairments=_impairments(wrong, power_limit(scenario), noise_power),
        availability=_availability(wrong),
        places=None if distances is None else around_receiver(distances, seed),
    )


def check_pilots(scenario: Scenario, channel: Channel, senders: int) -> None:
    """Refuse more pilots than a coherence frame holds, with so many devices in an exchange.

    Raises
    ------
    ScenarioError
        Naming the key, its value and what is accepted.
    """
    wrong, subbands = scenario.impairments, scenario.channel.subbands
    if wrong.pilots is None or wrong.frame_s is None or scenario.uplink.kind not in ("over-the-air", "digital"):
        return
    frame = int(channel.bandwidth * wrong.frame_s)
    if wrong.pilots * senders * subbands >= frame:
        most = (frame - 1) // (senders * subbands)
        accepted = (f"1 to {most}, or " if most else "") + "a longer frame_s"
        raise ScenarioError(
            f"impairments.pilots = {wrong.pilots}: {senders} devices in {subbands} subband(s) send "
            f"{wrong.pilots * senders * subbands} pilots, but a frame of frame_s = {wrong.frame_s} holds {frame} "
            f"complex channel uses, and not only pilots; accepted: {accepted}"
        )


def power_limit(scenario: Scenario) -> float | None:
    """Limit on a device's power, W or normalised; None where the scenario limits its energy, or nothing."""
    section = scenario.channel
    if section.snr_db is not None:
        noise_power = _noise_power(section)
        return float(noise_power * 10 ** (section.snr_db / 10))
    return scenario.power_control.power if section.tx_power_dbm is None else watts_from_dbm(section.tx_power_dbm)


def _noise_power(section: ChannelSection) -> float:
    if section.noise_power is not None:
        return section.noise_power
    if section.units == "physical":
        return thermal_noise_power(section.bandwidth_hz, section.noise_figure_db or 0.0)
    return 1.0


def _fading(scenario: Scenario) -> Fading:
    section = scenario.channel
    if section.kind == "trace":
        assert section.trace is not None
        trace = GainTrace(Path(section.trace))
        trace.check(scenario.rounds, scenario.data.devices, section.subbands, section.antennas)
        return trace
    if section.kind in CELLS:
        return _cell(section)
    if section.fading in ("tdl", "cdl"):
        return _delay_line(section)
    if section.fading == "rician":
        assert section.k_factor_db is not None
        return Rician(k_factor_db=section.k_factor_db)
    if section.fading == "gauss-markov":
        assert section.correlation is not None
        return GaussMarkov(correlation=section.correlation)
    return Rayleigh() if section.fading == "rayleigh" else AWGN()


def _cell(section: ChannelSection) -> Fading:
    from channel.three_gpp import ThreeGPPCell

    given = section.model_dump(include={"cell_radius_m", "minimum_distance_m", "variant"}, exclude_none=True)
    if section.hall_m is not None:
        length, width, height = section.hall_m
        given["hall_m"] = (length, width, height)
    assert section.carrier_ghz is not None
    return ThreeGPPCell(
        section.kind,
        carrier_ghz=section.carrier_ghz,
        bandwidth_hz=section.bandwidth_hz,
        speed_kmh=section.speed_kmh,
        round_s=section.interval_s,
        indoor_share=section.indoor,
        **given,
    )


def _delay_line(section: ChannelSection) -> Fading:
    from channel.three_gpp import DelayLine

    assert section.carrier_ghz is not None
    assert section.profile is not None
    return DelayLine(
        section.fading,
        section.profile,
        delay_spread_s=1e-9 * (section.delay_spread_ns or 100.0),
        carrier_ghz=section.carrier_ghz,
        bandwidth_hz=section.bandwidth_hz,
        speed_kmh=section.speed_kmh,
        round_s=section.interval_s,
    )


def _distances(section: ChannelSection, devices: int, seed: int) -> Real | None:
    """Of textbook path loss; cells place their devices themselves."""
    if section.path_loss == "none" or section.cell_radius_m is None:
        return None
    return uniform_disc(devices, section.cell_radius_m, section.minimum_distance_m or 1.0, seed)


def build_propagation(section: ChannelSection) -> Propagation:
    """The law of path loss that a channel's table names."""
    if section.path_loss == "free-space":
        assert section.carrier_ghz is not None
        return FreeSpace(1e9 * section.carrier_ghz)
    given = section.model_dump(include={"exponent", "reference_loss_db", "shadowing_db"}, exclude_none=True)
    return LogDistance(**given)


def _impairments(section: ImpairmentsSection, power: float | None, noise_power: float) -> Impairments:
    estimation, ageing, interference = None, None, None
    if section.pilots is not None:
        pilot_power = section.pilot_power or power or 1.0
        estimation = ChannelEstimation(section.pilots, pilot_power, section.estimator or "lmmse")
    if section.csi_correlation is not None:
        ageing = Ageing(section.csi_correlation)
    if section.interference_db is not None:
        interference = Interference.over_noise(section.interference_db, noise_power, section.interferers or 1)
    rotations: list[Rotation] = []
    if section.phase_error_deg:
        rotations.append(PhaseError(math.radians(section.phase_error_deg)))
    if section.timing_error_ns:
        prefix = math.inf if section.cyclic_prefix_ns is None else 1e-9 * section.cyclic_prefix_ns
        rotations.append(TimingError(1e-9 * section.timing_error_ns, prefix))
    if section.frequency_offset_hz:
        rotations.append(FrequencyOffset(section.frequency_offset_hz, section.pilot_slots or 1))
    return Impairments(estimation, section.frame_s or math.inf, ageing, tuple(rotations), interference)


def _availability(section: ImpairmentsSection) -> Availability:
    if section.availability == 1.0:
        return Always()
    if section.mean_outage is None:
        return Bernoulli(section.availability)
    return Bursty(section.availability, section.mean_outage)
