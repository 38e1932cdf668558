"""An orthogonal digital uplink: each device sends a packet of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.channel import Channel
from channel.codecs import Codec, ErrorFeedback, NestedDitheredQuantizer
from channel.codecs.ceo import last_of_first_group
from channel.codecs.packet import Packing
from channel.ledger import Cost
from channel.links import OFDMA, Access, Link, LinkBudget, Retransmission, ShannonLink, Transmission
from channel.order import PacketOrder
from channel.randomness import generator, key
from channel.uplinks.uplink import Grant, Uplink

WEIGHT_BITS = 32
"""What each sender says on the control channel in an exchange: its weight."""


@dataclass(frozen=True)
class Delivery:
    """What became of the packets of an exchange.

    Attributes
    ----------
    arrived : ndarray of bool, shape (K,)
        Whose packets arrived whole and in time.
    reasons : list of str, length K
        Why a packet did not; empty for those that did.
    cost : Cost
        What the exchange took; bits are those of all packets that were sent, arrived or not, counted once however often
        their blocks were sent, and :data:`WEIGHT_BITS` for each. Who is silent costs nothing.
    record : dict
        Figures for the run's record (JSON-ready).
    """

    arrived: NDArray[np.bool_]
    reasons: list[str]
    cost: Cost
    record: dict[str, Any]


@dataclass
class DigitalUplink(Uplink):
    """Devices encode their updates and send them over orthogonal links; what arrives is each device's own update.

    Parameters
    ----------
    codec : Codec
        Makes packets of updates.
    access : Access
        How devices share the band.
    link : Link
        Bits a channel use, and what is lost.
    channel : Channel
        Gains and noise of each exchange.
    power_limit : float
        P, W or normalised.
    packing : {"fixed", "entropy"}
        How packets hold their symbols.
    error_feedback : float, optional
        Weight of error feedback on the devices, see :class:`channel.codecs.ErrorFeedback`; none if not given.
    retransmission : Retransmission
        How often lost blocks are sent again, and the deadline.
    amplifier_efficiency, circuit_power : float
        See :class:`channel.links.LinkBudget`.

    Raises
    ------
    ValueError
        Error feedback around the nested quantiser, whose packets a device cannot decode itself.
    """

    codec: Codec
    access: Access = field(default_factory=OFDMA)
    link: Link = field(default_factory=ShannonLink)
    channel: Channel = field(default_factory=Channel)
    power_limit: float = 1.0
    packing: Packing = "fixed"
    error_feedback: float | None = None
    retransmission: Retransmission = field(default_factory=Retransmission)
    amplifier_efficiency: float = 1.0
    circuit_power: float = 0.0
    individual = True

    def __post_init__(self) -> None:
        if self.error_feedback is not None and isinstance(self.codec, NestedDitheredQuantizer):
            raise ValueError(
                f"error_feedback = {self.error_feedback!r}: a device cannot tell what {self.codec.name} loses, "
                "which is decoded with what others send; accepted: error_feedback left out, or another codec"
            )

    def check(self, size: int) -> None:
        """Refuse updates of a size that the codec does not take, or at which error feedback would grow without bound.

        Raises
        ------
        ValueError
            Naming the parameter, its value and what is accepted.
        """
        self.codec.bits(size)
        if self.error_feedback is not None:
            try:
                ErrorFeedback(self.codec, self.error_feedback).check_weight(size)
            except ValueError as error:
                raise ValueError(str(error).replace("weight", "error_feedback", 1)) from error

    def packet_order(self, exchange: int, seed: int, devices: Sequence[int]) -> PacketOrder:
        """What `devices` must know to send in this exchange (counted from 1)."""
        return PacketOrder(
            self.codec.name,
            self.codec.parameters,
            key(seed, "packets", exchange),
            self.packing,
            self.error_feedback,
            last_of_first_group(devices),
        )

    def grant(self, size: int) -> Grant | None:
        """The whole band until the deadline, at full power; None without a deadline."""
        deadline = self.retransmission.deadline
        if not np.isfinite(deadline):
            return None
        drawn = self.power_limit / self.amplifier_efficiency + self.circuit_power
        uses = self.access.uses(self.channel.bandwidth, deadline)
        return Grant(uses, drawn * (deadline if self.channel.physical else uses))

    def deliver(
        self, devices: NDArray[np.int64], total: int, bits: Sequence[int], exchange: int, seed: int
    ) -> Delivery:
        """Send packets.

        Parameters
        ----------
        devices : ndarray of int, shape (K,)
            Numbers of those that have a packet to send, K >= 1.
        total : int
            Number of devices in the system.
        bits : sequence of int, length K
            Size of each packet.
        exchange : int
            Number of the exchange, from 1.
        seed : int
            Seed of the run.
        """
        state = self.channel.state(exchange, devices, total, seed)
        budget = LinkBudget.of(self.channel, state, self.power_limit, self.amplifier_efficiency, self.circuit_power)
        draws = [generator(seed, "link", exchange, int(device)) for device in devices]
        sent = self.access.send(budget, np.asarray(bits), self.link, draws, self.retransmission)
        on_air = sent.attempts > 0
        cost = Cost(
            uses=sent.uses,
            energy=sent.energy,
            air_time=sent.air_time,
            bits=int(np.sum(np.asarray(bits)[on_air])) + WEIGHT_BITS * int(on_air.sum()),
        )
        record = {
            "heard": not sent.outage,
            "packet_bits": [int(b) for b in bits],
            "rates": [_finite(rate) for rate in sent.rates],
            "snr_db": [_finite(10 * math.log10(snr)) if snr > 0 else None for snr in sent.snr],
            "attempts": sent.attempts.tolist(),
            "gains": np.abs(state.gains).tolist(),
            "arrived": devices[sent.arrived].tolist(),
        }
        return Delivery(sent.arrived, self._reasons(sent), cost, record)

    def _reasons(self, sent: Transmission) -> list[str]:
        late = np.isfinite(self.retransmission.deadline)
        lost = "lost on the link" + (", or not whole by the deadline" if late else "")
        silent = ("not sent: in outage", "not sent: would not be whole by the deadline")
        return [
            "" if came else lost if attempts > 0 else silent[bool(rate > 0)]
            for came, attempts, rate in zip(sent.arrived, sent.attempts, sent.rates, strict=True)
        ]


def _finite(value: float) -> float | None:
    """A number as JSON can write it: without noise rates and SNRs have no bound."""
    return float(value) if math.isfinite(value) else None
