"""The table of a scenario about devices that work against the others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedmac.scenario_errors import missing, refusal
from fedmac.scenario_table import Positive, Section, needs


class AttackersSection(Section):
    """Devices that work against the others, to see what an uplink and a strategy withstand; none by default."""

    count: Annotated[int, Field(ge=0)] = Field(0, description="how many, drawn by the seed")
    devices: list[Annotated[int, Field(ge=0)]] | None = Field(None, description="their numbers, instead of count")
    kind: Literal["sign-flip", "scaled-update", "gaussian", "label-flip"] = Field(
        "sign-flip", description="what they send in place of their updates; label-flip: training on wrong answers"
    )
    factor: Positive | None = Field(
        None, description="how many times as large as an honest update (default 1; scaled-update needs one)"
    )
    power: Literal["granted", "limit"] = Field(
        "granted", description="over the air: as power control grants it to them, or all that their limit allows"
    )

    @property
    def present(self) -> bool:
        """Whether there are any."""
        return self.count > 0 or bool(self.devices)

    @model_validator(mode="after")
    def _fits_together(self) -> AttackersSection:
        given = self.model_fields_set - {"count", "devices"}
        if given and not self.model_fields_set & {"count", "devices"}:
            raise missing("count", f"but {min(given)} is given", "how many attackers there are, or devices = [...]")
        if self.count and self.devices is not None:
            raise refusal("devices", self.devices, f"count = {self.count} is given too", "one of the two")
        if self.devices is not None and len(set(self.devices)) < len(self.devices):
            raise refusal("devices", self.devices, "a number stands there twice", "each device once")
        if self.present:
            needs(self, "kind", {"scaled-update": "factor"})
        return self

    def check(self, devices: int, uplink: str, classes: bool) -> None:
        """Refuse attackers that are not there, or cannot do what they are to do.

        Parameters
        ----------
        devices : int
            Of the scenario.
        uplink : str
            Its kind.
        classes : bool
            Whether devices learn classes.

        Raises
        ------
        ValueError
            Naming the key, its value and what is accepted.
        """
        if self.count > devices:
            reason = f"data.devices = {devices} are fewer"
            raise refusal("attackers.count", self.count, reason, f"an integer from 0 to {devices}")
        if self.devices and max(self.devices) >= devices:
            reason = f"data.devices = {devices}"
            raise refusal("attackers.devices", self.devices, reason, f"numbers from 0 to {devices - 1}")
        if self.present and self.power == "limit" and uplink != "over-the-air":
            reason = f'uplink.kind = "{uplink}" grants no amplitudes'
            raise refusal("attackers.power", self.power, reason, '"granted", or uplink.kind = "over-the-air"')
        if self.present and self.kind == "label-flip" and not classes:
            reason = 'training.loss = "reconstruction" has no labels'
            raise refusal("attackers.kind", self.kind, reason, '"sign-flip", "scaled-update", "gaussian"')
