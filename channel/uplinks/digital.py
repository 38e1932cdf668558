"""An orthogonal digital uplink: each device sends a packet of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.channel import Channel, Pilots
from channel.codecs import Codec, ErrorFeedback, FactorCodec, NestedDitheredQuantizer
from channel.codecs.ceo import last_of_first_group
from channel.codecs.packet import Packing
from channel.ledger import Cost
from channel.links import OFDMA, Access, Link, LinkBudget, OuterLoop, Retransmission, ShannonLink, Transmission
from channel.order import PacketOrder
from channel.randomness import generator, key
from channel.uplinks.adaptation import BLOCK_ERROR_TARGET, Adaptation, Experience
from channel.uplinks.packet_plan import PacketPlan, plan_packets
from channel.uplinks.uplink import CONTROL_BITS, Grant, Uplink

Real = NDArray[np.float64]

WEIGHT_BITS = 32
"""What each sender says on the control channel in an exchange: its weight; :data:`CONTROL_BITS` with its norm."""


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
        their blocks were sent, and what each sender says on the control channel. Who is silent costs nothing but its
        pilots: where the channel is known from those, all K send them, before the time until the deadline begins.
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
    codec : Codec or FactorCodec
        Makes packets of updates; a codec of factors, of a single gradient step of a network of dense layers.
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
    adaptation : Adaptation
        Who sends in an exchange, how long packets may be, and which channel that is decided by.

    Raises
    ------
    ValueError
        Error feedback around the nested quantiser, whose packets a device cannot decode itself, or around a codec of
        factors; packets that are to fit where there is no deadline, or no noise; with a codec of factors, whose packets
        are as long as the batch makes them, packets made to fit, or a selection by what they cost.
    """

    codec: Codec | FactorCodec
    access: Access = field(default_factory=OFDMA)
    link: Link = field(default_factory=ShannonLink)
    channel: Channel = field(default_factory=Channel)
    power_limit: float = 1.0
    packing: Packing = "fixed"
    error_feedback: float | None = None
    retransmission: Retransmission = field(default_factory=Retransmission)
    amplifier_efficiency: float = 1.0
    circuit_power: float = 0.0
    adaptation: Adaptation = field(default_factory=Adaptation)
    individual = True

    def __post_init__(self) -> None:
        if isinstance(self.codec, FactorCodec):
            self._check_factors(self.codec)
        if self.error_feedback is not None and isinstance(self.codec, NestedDitheredQuantizer):
            raise ValueError(
                f"error_feedback = {self.error_feedback!r}: a device cannot tell what {self.codec.name} loses, "
                "which is decoded with what others send; accepted: error_feedback left out, or another codec"
            )
        if self.adaptation.packets == "fit" and not (self.has_deadline and self.channel.noise_power > 0):
            lacks = "noise_power is 0" if self.has_deadline else "there is no deadline"
            raise ValueError(f"packets = 'fit': {lacks}; accepted: a retransmission with a deadline, and noise")

    def _check_factors(self, codec: FactorCodec) -> None:
        if self.error_feedback is not None:
            raise ValueError(
                f"error_feedback = {self.error_feedback!r}: what {codec.name} leaves of an update has no factors; "
                "accepted: error_feedback left out, or another codec"
            )
        unknown = f"how long packets of {codec.name} are is not known before a batch is drawn"
        if self.adaptation.packets != "as-coded":
            raise ValueError(f"packets = {self.adaptation.packets!r}: {unknown}; accepted: 'as-coded'")
        if self.adaptation.select is not None:
            raise ValueError(f"select = {self.adaptation.select!r}: {unknown}; accepted: select left out")

    def check(self, size: int) -> None:
        """Refuse updates of a size that the codec does not take, or at which error feedback would grow without bound.

        Raises
        ------
        ValueError
            Naming the parameter, its value and what is accepted.
        """
        if not isinstance(self.codec, FactorCodec):
            self.codec.bits(size)
            self.check_feedback(self.codec, size)

    def check_feedback(self, codec: Codec, size: int) -> None:
        """Refuse a codec around which error feedback of updates of this size would grow without bound.

        Raises
        ------
        ValueError
            Naming the weight and what is accepted.
        """
        if self.error_feedback is not None:
            try:
                ErrorFeedback(codec, self.error_feedback).check_weight(size)
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

    def plan(
        self, experience: Experience, devices: NDArray[np.int64], total: int, size: int, exchange: int, seed: int
    ) -> PacketPlan:
        """Who of `devices` is to send in this exchange, and how: :func:`~channel.uplinks.packet_plan.plan_packets`."""
        return plan_packets(self, experience, devices, total, size, exchange, seed)

    def grant(self, size: int) -> Grant | None:
        """The whole band until the deadline, at full power; None without a deadline."""
        deadline = self.retransmission.deadline
        if not self.has_deadline:
            return None
        drawn = self.power_limit / self.amplifier_efficiency + self.circuit_power
        uses = self.access.uses(self.channel.bandwidth, deadline)
        return Grant(uses, drawn * (deadline if self.channel.physical else uses))

    def deliver(
        self,
        devices: NDArray[np.int64],
        total: int,
        bits: Sequence[int],
        exchange: int,
        seed: int,
        experience: Experience | None = None,
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
        experience : Experience, optional
            Of the run; it learns what is lost. None where each exchange stands alone.
        """
        experience = Experience() if experience is None else experience
        budget, known = self.budgets(experience, devices, total, exchange, seed)
        draws = [generator(seed, "link", exchange, int(device)) for device in devices]
        sent = self.access.send(budget, np.asarray(bits), self.link, draws, self.retransmission, known.gains)
        if experience.outer_loop is not None:
            experience.outer_loop.update(devices, sent.lost, sent.attempts - sent.lost)
        on_air = sent.attempts > 0
        said = CONTROL_BITS if self.adaptation.needs_norms else WEIGHT_BITS
        pilots = self.channel.pilots(len(devices), sent.uses)
        cost = Cost(
            uses=sent.uses + pilots.uses,
            energy=sent.energy + self._drawn_for(pilots, len(devices)),
            air_time=sent.air_time + self.channel.seconds(pilots.uses),
            bits=int(np.sum(np.asarray(bits)[on_air])) + said * int(on_air.sum()),
        )
        record = {
            "heard": not sent.outage,
            "packet_bits": [int(b) for b in bits],
            "rates": [_finite(rate) for rate in sent.rates],
            "snr_db": [_finite(10 * math.log10(snr)) if snr > 0 else None for snr in sent.snr],
            "attempts": sent.attempts.tolist(),
            "gains": np.asarray(budget.gains).tolist(),
            "arrived": devices[sent.arrived].tolist(),
        }
        if pilots.uses:
            record["pilot_uses"] = pilots.uses
        if experience.outer_loop is not None:
            record["offsets_db"] = experience.outer_loop.offsets_db[devices].tolist()
        return Delivery(sent.arrived, self._reasons(sent, known.reachable), cost, record)

    def _drawn_for(self, pilots: Pilots, devices: int) -> float:
        """What pilots draw from each device: amplifier and circuits, as for packets."""
        own_uses = pilots.uses // devices
        return pilots.energy / self.amplifier_efficiency + float(
            self.channel.energy(np.sqrt([self.circuit_power]), own_uses)[0]
        )

    @property
    def has_deadline(self) -> bool:
        """Whether packets can be late."""
        return math.isfinite(self.retransmission.deadline)

    def budgets(
        self, experience: Experience, devices: NDArray[np.int64], total: int, exchange: int, seed: int
    ) -> tuple[LinkBudget, LinkBudget]:
        """Of these devices in this exchange: as it is, and as the server takes it to be."""
        state = self.channel.state(exchange, devices, total, seed)
        budget = LinkBudget.of(self.channel, state, self.power_limit, self.amplifier_efficiency, self.circuit_power)
        reported = replace(budget, gains=state.believed_gains, noise_power=state.believed_noise)
        if self.adaptation.csi == "previous" and exchange > 1:
            earlier = self.channel.state(exchange - 1, devices, total, seed)
            reported = replace(reported, gains=earlier.believed_gains)
        if self.adaptation.outer_loop:
            target = getattr(self.link, "block_error_target", BLOCK_ERROR_TARGET)
            experience.outer_loop = experience.outer_loop or OuterLoop(total, target)
            experience.outer_loop.grow(total)
        return budget, replace(reported, gains=experience.believed(reported, devices))

    def _reasons(self, sent: Transmission, reachable: NDArray[np.bool_]) -> list[str]:
        lost = "lost on the link" + (", or not whole by the deadline" if self.has_deadline else "")
        silent = ("not sent: in outage", "not sent: would not be whole by the deadline")
        return [
            "" if came else lost if attempts > 0 else silent[bool(heard)]
            for came, attempts, heard in zip(sent.arrived, sent.attempts, reachable, strict=True)
        ]


def _finite(value: float) -> float | None:
    """A number as JSON can write it: without noise rates and SNRs have no bound."""
    return float(value) if math.isfinite(value) else None
