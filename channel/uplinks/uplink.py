"""What an uplink is: how a round's updates get from the devices to the server.

Two methods matter: :meth:`MeanUplink.order` says what devices must know to send, :meth:`MeanUplink.receive` what the
server hears and what it cost. Where the server hears every device on its own it is :meth:`DigitalUplink.deliver`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import Channel
from channel.codes import Code
from channel.ledger import Cost
from channel.order import TransmitOrder


class Cohort(Protocol):
    """The devices that send in one exchange, and what they have on their aerials.

    Attributes
    ----------
    devices : ndarray of int, shape (K,)
        Device numbers.
    weights : ndarray, shape (K,)
        Aggregation weights w_i, sum 1.
    norms : ndarray, shape (K,)
        Euclidean norms of what is coded: of the updates x_i, or of the part of them that the code sends
        (:meth:`channel.codes.Code.sent`).
    size : int
        Length d of an update.
    total : int
        Number of devices in the system, whether they send or not; device numbers are below it.
    """

    devices: NDArray[np.int64]
    weights: NDArray[np.float64]
    norms: NDArray[np.float64]
    size: int
    total: int

    def updates(self, gains: NDArray[np.float64]) -> Tensor | None:
        """Superpositions ``gains @ X`` of the plain updates, (R, d) for gains (R, K), float64.

        None where the simulation holds only coded symbols.
        """
        ...

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        """The same superpositions of updates that were coded each on its own, (R, m), float64.

        ``gains @ (X A^T)`` with a linear code. Needed where there are no plain updates, or the code is not linear.
        """
        ...

    def symbols(self, code: Code, seed: int) -> Tensor:
        """Each device's unit-power symbols, (K, m); costs one encoding a device where only updates are at hand."""
        ...


@dataclass(frozen=True)
class Reception:
    """What the server hears in one exchange.

    Parameters
    ----------
    update : Tensor of shape (d,) or None
        The received mean update, float64; None if nobody was heard.
    cost : Cost
        What the exchange took.
    record : dict
        Figures for the run's record (JSON-ready).
    noise_variance : float
        Expected squared error of one entry of `update`, as the receiver can know it; 0 on a perfect link, infinite
        where it cannot.
    snr : float
        Mean over the senders of what a device at its power limit arrives with, over the noise, per channel use;
        infinite on a perfect link.
    """

    update: Tensor | None
    cost: Cost
    record: dict[str, Any] = field(default_factory=dict)
    noise_variance: float = 0.0
    snr: float = math.inf


CONTROL_BITS = 64
"""What each sender says on the control channel in an exchange: the norm of its update and its weight, 32 bits each."""


@dataclass(frozen=True)
class Grant:
    """What one exchange may cost.

    Attributes
    ----------
    uses : int
        Real channel uses.
    energy : float
        Largest energy of a device, J (or units of noise energy in normalised units).
    """

    uses: int
    energy: float


class Uplink(ABC):
    """How a round's updates get to the server. A swap point: ideal, analog, digital."""

    individual = False
    """Whether the server gets each device's update, or only their mean."""

    channel: Channel
    """Gains and noise of each exchange, and who can be reached."""

    @abstractmethod
    def grant(self, size: int) -> Grant | None:
        """What an exchange of updates of `size` entries may cost; None where that depends on the channel alone."""


class MeanUplink(Uplink):
    """An uplink of which the server hears the devices' weighted mean."""

    needs_updates = True
    """Whether gains depend on all norms, so that updates must be held until every device has trained."""

    @abstractmethod
    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """What a device must know to send in this exchange (counted from 1)."""

    @abstractmethod
    def grant(self, size: int) -> Grant:
        """What an exchange of updates of `size` entries may cost."""

    @abstractmethod
    def receive(self, cohort: Cohort, exchange: int, seed: int, block: int = 0, energy_share: float = 1.0) -> Reception:
        """What the server hears when `cohort` sends, and the cost.

        Parameters
        ----------
        cohort : Cohort
            The senders, K >= 1.
        exchange : int
            Number of the exchange, from 1.
        seed : int
            Seed of the run.
        block : int, default 0
            Which of the vectors that an exchange carries; each is sent on its own, over the same fading.
        energy_share : float, default 1
            What the exchange may use of the energy granted to one, > 0: exchanges that need less than others leave
            it to them.
        """


def check_one_limit(uplink: str, power_limit: float | None, energy_per_round: float | None) -> None:
    """Refuse an uplink whose power and energy are both limited: one follows from the other."""
    if power_limit is not None and energy_per_round is not None:
        raise ValueError(
            f"{uplink}: give power_limit or energy_per_round, not both; "
            f"got power_limit={power_limit}, energy_per_round={energy_per_round}"
        )


def power_of(channel: Channel, power_limit: float | None, energy_per_round: float | None, uses: int) -> float:
    """Limit P on the power of a use: of an energy what it comes to over `uses`; 1 if neither is limited."""
    if energy_per_round is None:
        return 1.0 if power_limit is None else power_limit
    return energy_per_round / float(channel.energy(np.ones(1), uses)[0])


def check_share(energy_share: float) -> None:
    """Refuse a share of an exchange's energy that is not a finite number > 0."""
    if not 0 < energy_share < math.inf:
        raise ValueError(f"energy_share = {energy_share!r}: accepted: a finite number > 0")
