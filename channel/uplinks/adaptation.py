"""How a digital uplink adapts: who sends, how long packets may be, and how far reported channels are believed."""

from __future__ import annotations

import math
import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from channel.links import BenefitPerJoule, BitAllocation, LinkBudget, OuterLoop
from channel.order import NO_PACKET

Real = NDArray[np.float64]

BLOCK_ERROR_TARGET = 0.1
"""What an outer loop aims at on links that name no target of their own."""


@dataclass(frozen=True)
class Adaptation:
    r"""What is decided anew in each exchange, from what the server knows before it.

    Parameters
    ----------
    packets : {"as-coded", "fit", "least-error"}
        ``as-coded``: every device's codec is as given. Else it is the finest one can have of it
        (:meth:`channel.codecs.Codec.coarsened`): with ``fit`` in a packet that an equal share of the band, or of the
        time, carries by the deadline; with ``least-error`` in its part of a budget for all
        (:class:`channel.links.BitAllocation`, for the errors :math:`w_i^2 \|x_i\|^2 4^{-b_i}`), and by the deadline.
    mean_bits : float, optional
        That budget: bits an entry, mean over the devices, > 0; with ``least-error`` only.
    fill : float
        Part of what fits by the deadline that packets may take, in (0, 1]; the rest is for retransmissions.
    select : int, optional
        How many of the devices that an exchange asks may send: of those not in outage the ones with the most benefit
        per joule (:class:`channel.links.BenefitPerJoule`), the benefit being :math:`w_i^2 \|x_i\|^2` and the energy
        that of the codec's packet in an equal share. All if not given, also those in outage.
    csi : {"current", "previous"}
        Which channel the server knows when it decides: that of the exchange, or of the one before.
    outer_loop : bool
        Believe a device's SNR less after each block that is lost (:class:`channel.links.OuterLoop`).

    Weight and norm of an update are not known before it is sent: they are taken to be those that the device said last,
    however long ago, and of a device that has not said any :math:`w_i \|x_i\|` is taken to be the largest known.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    packets: Literal["as-coded", "fit", "least-error"] = "as-coded"
    mean_bits: float | None = None
    fill: float = 1.0
    select: int | None = None
    csi: Literal["current", "previous"] = "current"
    outer_loop: bool = False

    def __post_init__(self) -> None:
        if self.packets not in ("as-coded", "fit", "least-error"):
            raise ValueError(f"packets is {self.packets!r}; accepted: 'as-coded', 'fit', 'least-error'")
        if (self.packets == "least-error") != (self.mean_bits is not None):
            with_it = f"mean_bits is {self.mean_bits!r}; accepted with packets={self.packets!r}: "
            raise ValueError(with_it + ("bits an entry > 0" if self.mean_bits is None else "None"))
        if self.mean_bits is not None and not 0.0 < self.mean_bits < math.inf:
            raise ValueError(f"mean_bits is {self.mean_bits!r}; accepted: a finite number > 0")
        if not 0.0 < self.fill <= 1.0:
            raise ValueError(f"fill is {self.fill!r}; accepted: 0 < fill <= 1")
        if self.select is not None and (int(self.select) != self.select or self.select < 1):
            raise ValueError(f"select is {self.select!r}; accepted: an integer >= 1")
        if self.csi not in ("current", "previous"):
            raise ValueError(f"csi is {self.csi!r}; accepted: 'current', 'previous'")

    @property
    def needs_norms(self) -> bool:
        """Whether devices must say the norms of their updates."""
        return self.packets == "least-error" or self.select is not None

    def selected(self, worth: Real, energies: Real) -> NDArray[np.int64]:
        """Positions of those that may send, of devices with these benefits and energies (infinite in outage)."""
        if self.select is None:
            return np.arange(len(worth))
        able = np.flatnonzero(np.isfinite(energies))
        return able if len(able) <= self.select else BenefitPerJoule().select(worth, energies, self.select)

    def limits(self, worth: Real, size: int, most: Real) -> Real:
        """Bits each packet of `size` entries may take; `most` is what fits by the deadline, infinite without one."""
        most = self.fill * most
        if self.mean_bits is None:
            return most
        if not ((most > 0) & (worth > 0)).any():
            return np.zeros(len(worth))
        return size * BitAllocation().allocate(worth, self.mean_bits * len(worth), most / size)


@dataclass
class Experience:
    """What the server has learnt in a run so far.

    Attributes
    ----------
    importance : dict of int to float
        Weight times norm of each device's latest update, by device number.
    outer_loop : OuterLoop or None
        Offsets of the devices seen so far; None until there are any.
    decoded : dict of int to int
        Seed of the exchange in which a device's packet was decoded last, by device number.
    lost : set of int
        Devices that were asked since, and no packet of theirs was decoded.
    """

    importance: dict[int, float] = field(default_factory=dict)
    outer_loop: OuterLoop | None = None
    decoded: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def hear(self, device: int, weight: float, norm: float) -> None:
        """Take in what a device says of its update."""
        self.importance[device] = min(weight * norm, sys.float_info.max)  # whatever a device makes up

    def acknowledge(self, seed: int, asked: Iterable[int], decoded: Container[int]) -> None:
        """Take in whose packets were decoded in the exchange of this seed, of the devices that were asked."""
        for device in asked:
            if device in decoded:
                self.decoded[device] = seed
                self.lost.discard(device)
            else:
                self.lost.add(device)

    def lost_since(self, devices: NDArray[np.int64]) -> dict[int, int]:
        """What an order says of lost packets: :attr:`channel.order.PacketOrder.lost_since` of these devices."""
        return {device: self.decoded.get(device, NO_PACKET) for device in devices.tolist() if device in self.lost}

    def worth(self, devices: NDArray[np.int64]) -> Real:
        """Benefits :math:`w_i^2 \\|x_i\\|^2` of these devices' next updates, over the largest known, shape (K,)."""
        largest = max(self.importance.values(), default=0.0)
        if largest == 0:
            return np.ones(len(devices))
        said = [self.importance.get(int(device), largest) for device in devices]
        return np.square(np.asarray(said) / largest)

    def believed(self, budget: LinkBudget, devices: NDArray[np.int64]) -> Real:
        """Magnitudes of the gains that rates are to be chosen by, for those that are reported; shape (K,)."""
        gains = np.asarray(budget.gains, dtype=np.float64)
        return gains if self.outer_loop is None else np.sqrt(self.outer_loop.assumed_snr(devices, gains**2))

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "importance": [[device, value] for device, value in self.importance.items()],
            "outer_loop": None if self.outer_loop is None else self.outer_loop.state(),
            "decoded": [[device, seed] for device, seed in self.decoded.items()],
            "lost": sorted(self.lost),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.importance = dict(state["importance"])
        self.outer_loop = None if state["outer_loop"] is None else OuterLoop.of(state["outer_loop"])
        self.decoded = dict(state["decoded"])
        self.lost = set(state["lost"])
