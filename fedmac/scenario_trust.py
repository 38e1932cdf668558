"""The table of a scenario about how far the server believes what devices say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fedmac.scenario_table import Count, Ratio, Section
from strategies.trust import Trust


class TrustSection(Section):
    """How far the server believes devices, and whom it does not ask again; see docs/security.md."""

    largest_weight_share: Ratio = Field(
        1.0, description="largest part of the sum of weights that one device has; 1 believes what it says"
    )
    largest_norm_ratio: Annotated[float, Field(gt=1)] = Field(
        1e6, description="times the median norm of an exchange that a device's update may have; inf for any"
    )
    bad_replies: Annotated[int, Field(ge=0)] = Field(
        3, description="replies of no use after which a device is not asked for a while; 0 for never"
    )
    within_rounds: Count = Field(10, description="rounds over which they are counted")
    quarantine_rounds: Count = Field(5, description="rounds that it is not asked; each further time for twice as long")

    def of(self, devices: int) -> Trust:
        """What the server believes of so many devices."""
        return Trust(**self.model_dump(), devices=devices)
