"""The table of a scenario about what the air tells of a device, and what it needs of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from fedmac.scenario_errors import missing, refusal
from fedmac.scenario_table import Positive, Section

if TYPE_CHECKING:
    from fedmac.scenario import Scenario

LINEAR_CODES = ("uncoded", "random-linear", "random-mask")
"""Codes whose symbols have the norms of updates."""


class PrivacySection(Section):
    """Differential privacy that the channel's noise gives; accounted for with a delta (extra privacy)."""

    delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of (epsilon, delta): account for it in every round"
    )
    epsilon: Positive | None = Field(
        None, description="of all rounds together: devices add noise where the channel's is not enough"
    )

    @model_validator(mode="after")
    def _has_its_delta(self) -> PrivacySection:
        if self.epsilon is not None and self.delta is None:
            raise missing("delta", f"but epsilon = {self.epsilon} needs it", "a number > 0 and < 1")
        return self


def check_bounds(scenario: Scenario) -> None:
    """Refuse bounds on norms that do not hold, and privacy that is none.

    Raises
    ------
    ValueError
        Naming the key, its value and what is accepted.
    """
    section, uplink = scenario.privacy, scenario.uplink
    if section.delta is not None and uplink.kind != "over-the-air":
        lacks = {
            "ideal": "has no noise: nothing hides a device",
            "digital": "delivers each device's packet as it is: no noise hides it",
            "non-coherent": "adds up energies, whose noise is not Gaussian",
        }
        reason = f'uplink.kind = "{uplink.kind}" {lacks[uplink.kind]}'
        raise refusal("privacy.delta", section.delta, reason, 'uplink.kind = "over-the-air", or delta left out')
    if scenario.power_control.norms == "bound" and uplink.kind == "over-the-air":
        _check_known_bound(scenario)
    if section.delta is not None:
        _check_privacy(scenario, section.delta)


def _check_known_bound(scenario: Scenario) -> None:
    uplink = scenario.uplink
    if scenario.training.clip_norm is None:
        reason = 'but power_control.norms = "bound" takes it for the norm of every update'
        raise missing("training.clip_norm", reason, "a number > 0")
    if uplink.code not in LINEAR_CODES or uplink.error_feedback:
        given = f'uplink.code = "{uplink.code}"' if uplink.code not in LINEAR_CODES else "uplink.error_feedback = true"
        accepted = '"said", or uplink.code = "uncoded", "random-linear" or "random-mask" without error_feedback'
        reason = f"{given}: what is sent is not of the norm of an update"
        raise refusal("power_control.norms", "bound", reason, accepted)


def _check_privacy(scenario: Scenario, delta: float) -> None:
    if scenario.training.clip_norm is None:
        raise missing("training.clip_norm", f"but privacy.delta = {delta} needs it", "a number > 0")
    if scenario.power_control.norms != "bound":
        reason = f"privacy.delta = {delta} needs powers that depend on no data, and norms do"
        raise refusal("power_control.norms", scenario.power_control.norms, reason, '"bound"')
    given = {
        "plan.name": (scenario.plan.name, "constant"),
        "uplink.erasure": (scenario.uplink.erasure, 0.0),
        "impairments.clip_db": (scenario.impairments.clip_db, None),
        "impairments.adc_bits": (scenario.impairments.adc_bits, None),
    }
    if scenario.privacy.epsilon is not None:
        channel, slots = scenario.channel, scenario.impairments.slots
        given |= {
            "channel.subbands": (channel.subbands, 1),
            "channel.antennas": (channel.antennas, 1),
            "impairments.slots": (1 if slots is None else slots, 1),
        }
    for key, (value, accepted) in given.items():
        if value != accepted:
            with_target = " with epsilon" if key.startswith("channel") or key.endswith("slots") else ""
            reason = f"privacy.delta = {delta}{with_target} is not accounted for with it"
            raise refusal(key, value, reason, "left out" if accepted is None else repr(accepted).replace("'", '"'))
    if scenario.channel.noise_power == 0 and scenario.privacy.epsilon is None:
        reason = f"privacy.delta = {delta}, and nothing hides a device"
        raise refusal("channel.noise_power", 0.0, reason, "a number > 0, or privacy.epsilon")
