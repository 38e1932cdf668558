"""Links between a device and the server: rates, latency, and what a device's interface draws."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Link:
    """How one device reaches the server.

    Parameters
    ----------
    up_bps, down_bps : float
        Rates from and to the device, bit/s, > 0.
    latency_s : float
        One way, s, >= 0.
    send_watts, receive_watts : float, default 0
        What the device's interface draws while it sends and receives, above idling (W).

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    up_bps: float
    down_bps: float
    latency_s: float
    send_watts: float = 0.0
    receive_watts: float = 0.0

    def __post_init__(self) -> None:
        for name in ("up_bps", "down_bps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r}: accepted: a number > 0 (bit/s)")
        for name in ("latency_s", "send_watts", "receive_watts"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)!r}: accepted: a finite number >= 0")


@dataclass(frozen=True)
class LinkKind:
    """A kind of link, with the server's side of it.

    Parameters
    ----------
    link : Link
        Of every device.
    server_bps : float
        Rate of the server's own link, each way, that all devices share (bit/s).
    shared_medium : bool
        Whether devices take turns on one medium, which a message then occupies at its device's own rate.
    source : str
        Where the figures are from.
    checked : bool
        Whether that source was read.
    """

    link: Link
    server_bps: float
    shared_medium: bool
    source: str
    checked: bool


def _cellular_watts(slope_mw_per_mbps: float, base_mw: float, bps: float) -> float:
    """The linear power model of Huang et al.: slope times throughput, plus base."""
    return (slope_mw_per_mbps * bps / 1e6 + base_mw) / 1e3


LINK_KINDS: dict[str, LinkKind] = {
    "infiniband": LinkKind(
        Link(200e9, 200e9, 1e-6),
        200e9,
        False,
        "InfiniBand HDR, 200 Gbit/s; latency of an application's message about 1 us; interface power not counted",
        False,
    ),
    "ethernet-10g": LinkKind(
        Link(10e9, 10e9, 50e-6),
        10e9,
        False,
        "IEEE 802.3ae, 10 Gbit/s; latency through a switch and the kernel: estimate; interface power not counted",
        False,
    ),
    "ethernet-1g": LinkKind(
        Link(1e9, 1e9, 100e-6),
        1e9,
        False,
        "IEEE 802.3ab, 1 Gbit/s; latency: estimate; interface power not counted",
        False,
    ),
    "wifi": LinkKind(
        Link(200e6, 200e6, 2e-3, send_watts=1.0, receive_watts=0.8),
        1e9,
        True,
        "IEEE 802.11ac, 80 MHz, one stream, 433 Mbit/s on air, about half of it as throughput; one cell, in which "
        "devices take turns; latency and power: estimates",
        False,
    ),
    "lte": LinkKind(
        Link(
            6e6,
            13e6,
            35e-3,
            send_watts=_cellular_watts(438.39, 1288.04, 6e6),
            receive_watts=_cellular_watts(51.97, 1288.04, 13e6),
        ),
        1e9,
        False,
        "Huang et al., A close examination of performance and power characteristics of 4G LTE networks, MobiSys 2012: "
        "medians 13 and 6 Mbit/s (read); half of a round trip of 70 ms, and power 438.39 or 51.97 mW per Mbit/s plus "
        "1288.04 mW (from memory)",
        False,
    ),
}
"""Kinds of links by name."""


def changed(link: Link, **changes: float | None) -> Link:
    """A link with what is not None in place of its own."""
    return replace(link, **{key: value for key, value in changes.items() if value is not None})
