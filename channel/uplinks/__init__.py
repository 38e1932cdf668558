"""Uplinks: how a round's updates get from the devices to the server."""

from channel.codes.symbol_scale import symbol_scale
from channel.uplinks.adaptation import Adaptation, Experience
from channel.uplinks.analog import AnalogUplink
from channel.uplinks.digital import Delivery, DigitalUplink
from channel.uplinks.ideal import IdealUplink
from channel.uplinks.noncoherent import NonCoherentUplink
from channel.uplinks.packet_plan import PacketPlan
from channel.uplinks.uplink import Cohort, MeanUplink, Reception, Uplink

UPLINKS: dict[str, type[Uplink]] = {
    "ideal": IdealUplink,
    "over-the-air": AnalogUplink,
    "non-coherent": NonCoherentUplink,
    "digital": DigitalUplink,
}
"""Uplinks by the name a scenario uses."""

__all__ = [
    "UPLINKS",
    "Adaptation",
    "AnalogUplink",
    "Cohort",
    "Delivery",
    "DigitalUplink",
    "Experience",
    "IdealUplink",
    "MeanUplink",
    "NonCoherentUplink",
    "PacketPlan",
    "Reception",
    "Uplink",
    "symbol_scale",
]
