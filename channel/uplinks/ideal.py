"""A perfect link, the reference that real ones are held to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from channel.channel import Channel
from channel.ledger import Cost
from channel.order import TransmitOrder
from channel.randomness import key
from channel.uplinks.uplink import CONTROL_BITS, Cohort, Grant, MeanUplink, Reception, check_share

FLOAT_BITS = 32
"""Bits charged for an entry of an update: it is sent as it is, in single precision."""


@dataclass
class IdealUplink(MeanUplink):
    """A link without fading, noise or compression: the server hears the exact weighted mean.

    It is the reference a real link is held to, so it is charged the budget it is granted rather than what a physical
    link would need: the channel uses of a code of the same `ratio` or `uses`, and the energy limit of each sender.

    Parameters
    ----------
    ratio : float, default 1
        Channel uses charged per coordinate of the update.
    uses : int, optional
        Channel uses charged, instead.
    power_limit : float, optional
        Power charged to each sender (W, or normalised).
    energy_per_round : float, optional
        Energy charged to each sender per exchange, instead (J, or normalised). Nothing if neither is given.
    channel : Channel, optional
        Gives the seconds that the channel uses take, and the energy of a power.
    """

    ratio: float = 1.0
    uses: int | None = None
    power_limit: float | None = None
    energy_per_round: float | None = None
    channel: Channel = field(default_factory=Channel)
    needs_updates = False

    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """Devices send plain updates."""
        return TransmitOrder("uncoded", {}, key(seed, "code", exchange))

    def grant(self, size: int) -> Grant:
        """The channel uses and the energy that are charged."""
        uses = self.uses or max(1, round(self.ratio * size))
        if self.energy_per_round is not None:
            return Grant(uses, self.energy_per_round)
        return Grant(uses, float(self.channel.energy(np.sqrt([self.power_limit or 0.0]), uses)[0]))

    def receive(self, cohort: Cohort, exchange: int, seed: int, block: int = 0, energy_share: float = 1.0) -> Reception:
        """The exact mean ``sum w_i x_i``."""
        check_share(energy_share)
        mean = cohort.updates(cohort.weights[None])
        if mean is None:
            mean = cohort.signals(cohort.weights[None])
        grant, senders = self.grant(cohort.size), len(cohort.devices)
        cost = Cost(
            uses=grant.uses,
            energy=np.full(senders, energy_share * grant.energy),
            air_time=self.channel.seconds(grant.uses),
            bits=senders * (CONTROL_BITS + FLOAT_BITS * cohort.size),
        )
        return Reception(mean[0], cost, {"mse_measured": None, "mse_predicted": None})
