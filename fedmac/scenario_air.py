"""The tables of a scenario about the air: the channel, what is wrong with it, and transmit powers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmac.scenario_errors import missing, refusal
from fedmac.scenario_table import Count, NonNegative, Positive, Ratio, Section, belongs, leaves_out, needs

CELLS = ("umi", "uma", "rma", "inh", "inf")
"""Kinds of channel that are a cell of 3GPP TR 38.901."""

DISCS = ("umi", "uma", "rma")
"""Those of them that are round."""

HALLS: Mapping[str, tuple[str, ...]] = {"inh": ("open", "mixed"), "inf": ("SH", "DH", "SL", "DL")}
"""The others, with what they come in."""

Probability = Annotated[float, Field(ge=0, le=1)]
Decibels = Annotated[float, Field(ge=-300, le=300)]
"""What a ratio can be in dB: beyond it 10^(x/10) leaves the floating-point numbers, and long before that the world."""


class PowerControlSection(Section):
    """Transmit powers and their limit."""

    name: Literal[
        "minimum-mse",
        "channel-inversion",
        "truncated-inversion",
        "full-power",
        "minimum-power",
        "average-power",
        "total-power",
    ] = "minimum-mse"
    power: NonNegative | None = Field(None, description="limit on a device's power (W, or normalised)")
    energy_per_round: NonNegative | None = Field(None, description="limit on a device's energy a round")
    total_power: Positive | None = Field(
        None, description="of total-power: limit on all devices' power together (W, or normalised)"
    )
    solver: Literal["auto", "cvxpy", "closed-form"] | None = Field(
        None, description="of minimum-mse, minimum-power, total-power"
    )
    threshold: Positive | None = Field(
        None, description="of truncated-inversion: least |h|^2 that sends (default: best)"
    )
    receive: Literal["lmmse", "unbiased"] | None = Field(None, description="of full-power: receive scale")
    mse: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of minimum-power: error that is good enough, over that of silence"
    )
    infeasible: Literal["error", "least-error"] | None = Field(
        None, description="of minimum-power: what to do in a round that cannot meet mse (default error)"
    )
    peak_to_average: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        None, description="of average-power: peak power over the limit, which is one of the average"
    )
    norms: Literal["said", "bound"] = Field(
        "said", description="over the air: those that devices say, or training.clip_norm for every device"
    )
    combining: Literal["optimised", "zero-forcing", "mrc", "largest-set"] = Field(
        "optimised",
        description="of several receive antennas (channel.antennas); largest-set leaves out who would spoil the mean",
    )
    combining_mse: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of largest-set: error of aligned devices, over that of silence (default 0.1)"
    )

    @model_validator(mode="after")
    def _fits_its_policy(self) -> PowerControlSection:
        if self.power is not None and self.energy_per_round is not None:
            reason = f"power = {self.power} is given too"
            raise refusal("energy_per_round", self.energy_per_round, reason, "one of power, energy_per_round")
        owners = {
            "total_power": ("total-power",),
            "solver": ("minimum-mse", "minimum-power", "total-power"),
            "threshold": ("truncated-inversion",),
            "receive": ("full-power",),
            "mse": ("minimum-power",),
            "infeasible": ("minimum-power",),
            "peak_to_average": ("average-power",),
        }
        belongs(self, {key: ("name", policies) for key, policies in owners.items()})
        belongs(self, {"combining_mse": ("combining", ("largest-set",))})
        needs(self, "name", {"minimum-power": "mse", "total-power": "total_power"})
        return self


class ChannelSection(Section):
    """The air. Normalised units: noise variance per real channel use. Physical units: W, Hz, m."""

    kind: Literal["textbook", "umi", "uma", "rma", "inh", "inf", "trace"] = Field(
        "textbook", description="fading and path loss below, a cell of 3GPP TR 38.901 (extra 3gpp), or a recorded trace"
    )
    units: Literal["normalised", "physical"] = Field("normalised", description="of a cell: physical")
    fading: Literal["none", "rayleigh", "rician", "gauss-markov", "tdl", "cdl"] = Field(
        "none", description="of a textbook channel; tdl and cdl are those of 3GPP TR 38.901 (extra 3gpp)"
    )
    k_factor_db: Decibels | None = Field(None, description="of rician: line of sight over scattered power (dB)")
    correlation: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="of gauss-markov, round to round")
    profile: Literal["A", "B", "C", "D", "E"] | None = Field(None, description="of tdl and cdl: which model")
    delay_spread_ns: Positive | None = Field(None, description="of tdl and cdl (default 100)")
    trace: str | None = Field(None, description="of a trace: CSV or NPZ file of gains by round and device")
    snr_db: Decibels | None = Field(
        None,
        description="a device's power limit over the noise power, before fading; sets the limit (normalised units)",
    )
    tx_power_dbm: Decibels | None = Field(None, description="a device's power limit in dBm (physical units)")
    noise_power: NonNegative | None = Field(None, description="default 1 (normalised) or thermal (physical)")
    noise_figure_db: Decibels | None = Field(None, description="of the receiver (physical units)")
    bandwidth_mhz: Positive | None = Field(
        None, description="two real channel uses take 1/bandwidth seconds (default 1)"
    )
    prbs: Count | None = Field(None, description="physical resource blocks of an OFDM grid, instead of bandwidth_mhz")
    subcarrier_khz: Literal[15, 30, 60, 120] | None = Field(
        None, description="of prbs: subcarrier spacing (default 15); twelve make a block, and a 15th of time is prefix"
    )
    subbands: Count = Field(1, description="parts of the band that fade on their own")
    antennas: Count = Field(1, description="of the receiver")
    carrier_ghz: Positive | None = Field(None, description="carrier frequency, of cells, free-space, tdl and cdl")
    speed_kmh: NonNegative = Field(0.0, description="of devices, of cells, tdl and cdl")
    interval_s: Positive = Field(0.1, description="from one exchange to the next, in which devices move")
    path_loss: Literal["none", "log-distance", "free-space"] = "none"
    cell_radius_m: Positive | None = Field(
        None, description="devices lie in a disc of this radius (of umi, uma, rma: default the standard's)"
    )
    hall_m: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = Field(
        None, description="of inh and inf: length, width, height (default the standard's)"
    )
    variant: Literal["open", "mixed", "SH", "DH", "SL", "DL"] | None = Field(
        None,
        description="of inh: open (default) or mixed office; of inf: sparse or dense clutter, high or low base station "
        "(default SH)",
    )
    minimum_distance_m: Positive | None = Field(
        None, description="and at least this far from the server (default 1; in cells what the standard says)"
    )
    indoor: Probability = Field(0.0, description="of umi, uma, rma: share of devices inside buildings")
    exponent: Positive | None = Field(None, description="of log-distance (default 3)")
    reference_loss_db: Decibels | None = Field(None, description="of log-distance: loss at 1 m")
    shadowing_db: NonNegative = Field(0.0, description="standard deviation of log-normal shadowing, of log-distance")

    @property
    def bandwidth_hz(self) -> float:
        """What is occupied, and lets noise in."""
        if self.prbs is not None:
            return 12e3 * self.prbs * (self.subcarrier_khz or 15)
        return 1e6 * (self.bandwidth_mhz or 1.0)

    @property
    def uses_per_second(self) -> float:
        """Complex channel uses; of an OFDM grid 14 symbols in the time of 15, the rest is cyclic prefix (TS 38.211)."""
        return self.bandwidth_hz if self.prbs is None else self.bandwidth_hz * 14.0 / 15.0

    @model_validator(mode="before")
    @classmethod
    def _cells_are_physical(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("kind") in CELLS:
            return {"units": "physical"} | dict(given)
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> ChannelSection:
        self._fits_its_kind()
        belongs(
            self,
            {
                "k_factor_db": ("fading", ("rician",)),
                "correlation": ("fading", ("gauss-markov",)),
                "profile": ("fading", ("tdl", "cdl")),
                "delay_spread_ns": ("fading", ("tdl", "cdl")),
                "exponent": ("path_loss", ("log-distance",)),
                "reference_loss_db": ("path_loss", ("log-distance",)),
                "noise_figure_db": ("units", ("physical",)),
                "tx_power_dbm": ("units", ("physical",)),
            },
        )
        needs(self, "fading", {"rician": "k_factor_db", "gauss-markov": "correlation"})
        needs(self, "fading", {"tdl": "profile", "cdl": "profile"})
        needs(self, "fading", {"tdl": "carrier_ghz", "cdl": "carrier_ghz"})
        needs(self, "path_loss", {"log-distance": "cell_radius_m", "free-space": "cell_radius_m"})
        needs(self, "path_loss", {"free-space": "carrier_ghz"})
        if self.shadowing_db and self.path_loss != "log-distance":
            raise refusal("shadowing_db", self.shadowing_db, "is part of log-distance", 'path_loss = "log-distance"')
        if self.cell_radius_m is not None and self.cell_radius_m <= (self.minimum_distance_m or 0.0):
            accepted = f"a number > minimum_distance_m = {self.minimum_distance_m}"
            raise refusal("cell_radius_m", self.cell_radius_m, "no room for devices", accepted)
        self._has_one_band()
        self._has_one_noise()
        return self

    def _fits_its_kind(self) -> None:
        if self.kind != "textbook":
            for key in ("fading", "path_loss"):
                if (value := getattr(self, key)) != "none":
                    reason = f'kind = "{self.kind}" has its own'
                    raise refusal(key, value, reason, f'kind = "textbook", or {key} left out')
        belongs(self, {"trace": ("kind", ("trace",)), **dict.fromkeys(("hall_m", "variant"), ("kind", tuple(HALLS)))})
        if self.variant is not None and self.variant not in HALLS[self.kind]:
            raise refusal("variant", self.variant, f'none of kind = "{self.kind}"', ", ".join(HALLS[self.kind]))
        needs(self, "kind", {"trace": "trace"} | dict.fromkeys(CELLS, "carrier_ghz"))
        if self.kind in CELLS and self.units != "physical":
            raise refusal("units", self.units, f'kind = "{self.kind}" is in watts and metres', '"physical"')
        moves = self.kind in CELLS or self.fading in ("tdl", "cdl")
        in_disc = self.kind in DISCS or self.path_loss != "none"
        of_cells = 'kind = "umi", "uma", "rma", "inh" or "inf"'
        where = {
            "speed_kmh": (moves, f'{of_cells}, or fading = "tdl" or "cdl"'),
            "interval_s": (moves, f'{of_cells}, or fading = "tdl" or "cdl"'),
            "carrier_ghz": (moves or self.path_loss == "free-space", f'{of_cells}, path_loss = "free-space", "tdl"'),
            "cell_radius_m": (in_disc, 'kind = "umi", "uma" or "rma", or path_loss = "log-distance" or "free-space"'),
            "minimum_distance_m": (
                in_disc or self.kind in CELLS,
                f'{of_cells}, or path_loss = "log-distance" or "free-space"',
            ),
            "indoor": (self.kind in DISCS, 'kind = "umi", "uma" or "rma"'),
        }
        for key, (has_meaning, accepted) in where.items():
            if not has_meaning:
                leaves_out(self, (key,), "nothing here depends on it", accepted)

    def _has_one_band(self) -> None:
        if self.prbs is not None and self.bandwidth_mhz is not None:
            raise refusal("bandwidth_mhz", self.bandwidth_mhz, f"prbs = {self.prbs} is given too", "one of the two")
        if self.subcarrier_khz is not None and self.prbs is None:
            raise refusal("subcarrier_khz", self.subcarrier_khz, "has no meaning without prbs", "prbs with it")
        if self.prbs is not None and self.subbands > self.prbs:
            raise refusal("subbands", self.subbands, f"prbs = {self.prbs} are fewer", f"at most {self.prbs}")

    def _has_one_noise(self) -> None:
        if self.snr_db is not None and (self.units == "physical" or self.path_loss != "none"):
            reason = "says what a device's power is worth at the receiver, as do units and path loss"
            raise refusal("snr_db", self.snr_db, reason, 'units = "normalised" and path_loss = "none"')
        if self.snr_db is not None and self.noise_power == 0:
            raise refusal("snr_db", self.snr_db, "noise_power is 0", "a noise_power > 0")
        if self.noise_power is not None and self.noise_figure_db is not None:
            raise refusal("noise_figure_db", self.noise_figure_db, "noise_power is given too", "one of the two")


class ImpairmentsSection(Section):
    """What is wrong with radios and with what is known of the channel; nothing by default."""

    pilots: Count | None = Field(
        None, description="pilots of each device in a frame and subband (default: the channel is known)"
    )
    pilot_power: Positive | None = Field(None, description="of pilots (default: a device's power limit)")
    estimator: Literal["lmmse", "least-squares"] | None = Field(None, description="of pilots (default lmmse)")
    frame_s: Positive | None = Field(None, description="pilots are sent again after this (default: once an exchange)")
    csi_correlation: Probability | None = Field(None, description="of the channel known with the channel that is")
    phase_error_deg: NonNegative = Field(0.0, description="standard deviation of devices' phases")
    timing_error_ns: NonNegative = Field(0.0, description="standard deviation of devices' timing")
    cyclic_prefix_ns: Positive | None = Field(None, description="devices further off than half of it are lost")
    frequency_offset_hz: NonNegative = Field(0.0, description="standard deviation of devices' carriers")
    slots: Count | None = Field(None, description="of frequency_offset_hz: time slots of an exchange (default 1)")
    slot_s: Positive | None = Field(None, description="of frequency_offset_hz: duration of a slot (default 0.001)")
    pilot_slots: Count | None = Field(None, description="of frequency_offset_hz: slots from pilot to pilot (default 1)")
    clip_db: Decibels | None = Field(None, description="amplifiers clip this far above the mean power")
    subcarriers: Count | None = Field(None, description="of clip_db: of the OFDM that is clipped (default: none)")
    adc_bits: Annotated[int, Field(ge=1, le=16)] | None = Field(None, description="of the receiver's converters")
    interference_db: Decibels | None = Field(None, description="mean power from other cells over the noise")
    interferers: Count | None = Field(None, description="of interference_db: how many there are (default 1)")
    availability: Ratio = Field(1.0, description="share of rounds in which a device can be reached")
    mean_outage: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        None, description="of availability: mean rounds that a device is away at a time (default: each on its own)"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ImpairmentsSection:
        owners = {
            "pilot_power": "pilots",
            "estimator": "pilots",
            "frame_s": "pilots",
            "cyclic_prefix_ns": "timing_error_ns",
            "slots": "frequency_offset_hz",
            "slot_s": "frequency_offset_hz",
            "pilot_slots": "frequency_offset_hz",
            "subcarriers": "clip_db",
            "interferers": "interference_db",
        }
        for key, owner in owners.items():
            value, chosen = getattr(self, key), getattr(self, owner)
            if value is not None and chosen == type(self).model_fields[owner].default:
                raise refusal(key, value, f"has no meaning without {owner}", f"{owner} with it")
        if self.mean_outage is not None and self.availability == 1.0:
            reason = "availability = 1.0: no device is ever away"
            raise refusal("mean_outage", self.mean_outage, reason, "mean_outage left out, or availability < 1")
        shortest = (1.0 - self.availability) / self.availability
        if self.mean_outage is not None and self.mean_outage < shortest:
            reason = f"shorter than any outages that leave availability = {self.availability}"
            raise refusal("mean_outage", self.mean_outage, reason, f"a number >= {shortest:g}")
        return self


class PlanSection(Section):
    """How a run's channel uses and energy are spread: as much as equal rounds, each of one code, would take."""

    name: Literal["constant", "power-law", "pilot"] = Field(
        "constant", description="every round the same; by norms forecast from past ones, or those of a pilot run"
    )
    decay: Ratio = Field(1.0, description="of power-law and pilot: what an error counts for a round later")
    every: Count | None = Field(None, description="of power-law and pilot: rounds from plan to plan (default 10)")
    exponent: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="of power-law: of the fall of norms, before any is known (default 0.5)"
    )
    pilot: str | None = Field(None, description="of pilot: JSON file of mean_norms and largest_energies by round")
    min_uses: Count | None = Field(
        None, description="of power-law and pilot: least channel uses of a round (default 1)"
    )
    max_uses: Count | None = Field(None, description="of power-law and pilot: most channel uses of a round (default d)")
    peak_energy: Positive | None = Field(None, description="of power-law and pilot: most energy of a round")
    blocks: bool = Field(
        False, description="share a round's channel uses out over the model's arrays, by the norms heard of them"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PlanSection:
        plans = ("power-law", "pilot")
        owners = dict.fromkeys(("every", "min_uses", "max_uses", "peak_energy"), ("name", plans))
        belongs(self, owners | {"exponent": ("name", ("power-law",)), "pilot": ("name", ("pilot",))})
        needs(self, "name", {"pilot": "pilot"})
        if self.decay != 1.0 and self.name == "constant":
            raise refusal("decay", self.decay, 'name = "constant" weighs no rounds', 'name = "power-law" or "pilot"')
        if self.min_uses is not None and self.max_uses is not None and self.min_uses > self.max_uses:
            reason = f"max_uses = {self.max_uses} is less"
            raise refusal("min_uses", self.min_uses, reason, f"an integer from 1 to {self.max_uses}")
        return self


def check_air(channel: ChannelSection, control: PowerControlSection) -> None:
    """Refuse a channel and power controls that do not go together.

    Raises
    ------
    ValueError
        Naming the key, its value and what is accepted.
    """
    limit = next((key for key in ("snr_db", "tx_power_dbm") if getattr(channel, key) is not None), None)
    if limit is not None:
        for key in ("power", "energy_per_round"):
            if (value := getattr(control, key)) is not None:
                reason = f"channel.{limit} = {getattr(channel, limit)} sets the power limit already"
                raise refusal(f"power_control.{key}", value, reason, "one of the two")
    elif channel.kind in CELLS and control.power is None and control.energy_per_round is None:
        needed_by = f'but channel.kind = "{channel.kind}" needs a power limit in watts'
        raise missing("channel.tx_power_dbm", needed_by, "a number of dBm, or power_control.power")
    if channel.antennas == 1 and control.combining in ("zero-forcing", "mrc"):
        reason = "channel.antennas = 1: there is nothing to combine"
        raise refusal("power_control.combining", control.combining, reason, 'channel.antennas > 1, or "largest-set"')
