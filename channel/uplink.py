"""Uplinks: how a round's updates get from the devices to the server.

Two methods matter: :meth:`Uplink.order` says what devices must know to send, :meth:`Uplink.receive` what the server
hears and what it cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.channel import Channel
from channel.codes import Code, Uncoded
from channel.ledger import Cost
from channel.order import TransmitOrder
from channel.power import PowerControl
from channel.randomness import generator, key


class Cohort(Protocol):
    """The devices that send in one exchange, and what they have on their aerials.

    Attributes
    ----------
    devices : ndarray of int, shape (K,)
        Device numbers.
    weights : ndarray, shape (K,)
        Aggregation weights w_i, sum 1.
    norms : ndarray, shape (K,)
        Euclidean norms of the updates x_i.
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
        """The same superpositions of coded updates, ``gains @ (X A^T)``, (R, m), float64."""
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
    """

    update: Tensor | None
    cost: Cost
    record: dict[str, Any] = field(default_factory=dict)


class Uplink(ABC):
    """How a round's updates get to the server. A swap point: ideal, analog, digital."""

    individual = False
    """Whether the server gets each device's update, or only their sum."""

    needs_updates = True
    """Whether gains depend on all norms, so that updates must be held until every device has trained."""

    @abstractmethod
    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """What a device must know to send in this exchange (counted from 1)."""

    @abstractmethod
    def receive(self, cohort: Cohort, exchange: int, seed: int) -> Reception:
        """What the server hears when `cohort` sends, and the cost.

        Parameters
        ----------
        cohort : Cohort
            The senders, K >= 1.
        exchange : int
            Number of the exchange, from 1.
        seed : int
            Seed of the run.
        """


def symbol_scale(code: Code, size: int) -> float:
    r""":math:`\sqrt n` with :math:`E\|Ax\|^2 = (m/n)\|x\|^2`: ``A x * scale / ||x||`` has unit mean power a use."""
    return float(np.sqrt(code.uses(size) / code.expected_energy_ratio(size)))


@dataclass
class IdealUplink(Uplink):
    """A link without fading, noise or compression: the server hears the exact weighted mean.

    It is the reference a real link is held to, so it is charged the budget it is granted rather than what a physical
    link would need: ``uses_ratio * d`` channel uses and ``energy_per_round`` for each device and exchange.

    Parameters
    ----------
    uses_ratio : float, default 1
        Channel uses charged per coordinate of the update.
    energy_per_round : float, default 0
        Energy charged to each sender per exchange (J, or normalised).
    channel : Channel, optional
        Gives the seconds that the channel uses take.
    """

    uses_ratio: float = 1.0
    energy_per_round: float = 0.0
    channel: Channel = field(default_factory=Channel)
    needs_updates = False

    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """Devices send plain updates."""
        return TransmitOrder("uncoded", {}, key(seed, "code", exchange))

    def receive(self, cohort: Cohort, exchange: int, seed: int) -> Reception:
        """The exact mean ``sum w_i x_i``."""
        mean = cohort.updates(cohort.weights[None])
        if mean is None:
            mean = cohort.signals(cohort.weights[None])
        uses = max(1, round(self.uses_ratio * cohort.size))
        energy = np.full(len(cohort.devices), self.energy_per_round)
        cost = Cost(uses=uses, energy=energy, air_time=self.channel.seconds(uses))
        return Reception(mean[0], cost, {"mse_measured": None, "mse_predicted": None})


@dataclass
class AnalogUplink(Uplink):
    r"""Over-the-air aggregation: coded updates add up in the multiple-access channel.

    Device i sends unit-power symbols :math:`s_i = \sqrt n A x_i / \|x_i\|` with amplitude :math:`b_i`; the server
    receives :math:`y = \sum_i |h_i| b_i s_i + z`, scales by a and decodes. The target is
    :math:`\sum_i w'_i s_i` with :math:`w'_i = w_i \|x_i\| / \sqrt n`, so power control works on the weights
    :math:`w'_i` and its mean squared error is that of one coded coordinate of the mean update.

    Parameters
    ----------
    code : Code
        Analog code A.
    power_control : PowerControl
        Chooses b_i and a from gains, weights and limits.
    channel : Channel
        Gains and noise of each exchange.
    power_limit : float, optional
        Limit P on :math:`b_i^2`, the power averaged over the code (W, or normalised); 1 if neither limit is given.
    energy_per_round : float, optional
        Limit on the energy of one exchange, from which P follows; not together with `power_limit`.
    erasure : float, default 0
        Fraction of the channel uses that interference wipes out: the same contiguous burst of uses in every
        exchange. The receiver knows which and reads zero there; an unbiased decoder scales the rest up.
    trace : bool, default False
        Record each device's peak-to-average power and energy (codes every device on its own: slower).

    References
    ----------
    M. M. Amiri, D. Gündüz, "Machine learning at the wireless edge", IEEE Trans. Signal Process. 68, 2020 (sending
    normalised, compressed gradients); X. Cao et al., "Optimized power control for over-the-air computation in fading
    channels", IEEE Trans. Wireless Commun. 19, 2020 (the power control problem).
    """

    code: Code
    power_control: PowerControl
    channel: Channel = field(default_factory=Channel)
    power_limit: float | None = None
    energy_per_round: float | None = None
    erasure: float = 0.0
    trace: bool = False

    def __post_init__(self) -> None:
        if self.power_limit is not None and self.energy_per_round is not None:
            raise ValueError(
                "AnalogUplink: give power_limit or energy_per_round, not both; "
                f"got power_limit={self.power_limit}, energy_per_round={self.energy_per_round}"
            )
        if not 0 <= self.erasure < 1:
            raise ValueError(f"AnalogUplink: erasure must be in [0, 1), got {self.erasure}")

    def order(self, exchange: int, seed: int) -> TransmitOrder:
        """The code under this exchange's own seed."""
        return TransmitOrder(self.code.name, self.code.parameters, key(seed, "code", exchange))

    def receive(self, cohort: Cohort, exchange: int, seed: int) -> Reception:
        """Power control, superposition, noise, decoding."""
        size, uses = cohort.size, self.code.uses(cohort.size)
        scale = symbol_scale(self.code, size)
        state = self.channel.state(exchange, cohort.devices, cohort.total, seed)
        limit = self._power_limit(uses)
        allocation = self.power_control.allocate(
            state.gains,
            cohort.weights * cohort.norms / scale,
            np.full(len(cohort.devices), limit),
            state.noise_power,
        )
        amplitudes = np.where(cohort.norms > 0, allocation.amplitudes, 0.0)
        a = float(allocation.receive_scale)
        with np.errstate(divide="ignore", invalid="ignore"):
            gains = np.where(cohort.norms > 0, a * np.abs(state.gains) * amplitudes * scale / cohort.norms, 0.0)

        superposed = self._superpose(cohort, np.stack([gains, cohort.weights]), exchange, seed)
        noise = generator(seed, "noise", exchange).standard_normal(uses) * np.sqrt(state.noise_power)
        received = superposed.coded[0] + a * torch.from_numpy(noise)
        received = self._erase(received, seed)
        noise_variance = a**2 * state.noise_power
        heard = bool(np.any(amplitudes > 0)) or not np.any(cohort.norms > 0)
        code_seed = self.order(exchange, seed).seed
        update = self.code.decode(received, size, code_seed, noise_variance) if heard else None

        record: dict[str, Any] = {
            "heard": heard,
            "receive_scale": a,
            "power_limit": limit,
            "noise_power": state.noise_power,
            "gains": np.abs(state.gains).tolist(),
            "amplitudes": amplitudes.tolist(),
            "signal_mse_measured": float((received - superposed.coded[1]).square().mean()),
            "signal_mse_predicted": None if self.erasure else float(allocation.mse),
        }
        record |= self._aggregate_error(superposed, update, noise_variance)
        if self.trace:
            record |= _transmit_statistics(cohort.symbols(self.code, code_seed))
        cost = Cost(uses=uses, energy=self.channel.energy(amplitudes, uses), air_time=self.channel.seconds(uses))
        return Reception(update, cost, record)

    def _power_limit(self, uses: int) -> float:
        if self.energy_per_round is None:
            return 1.0 if self.power_limit is None else self.power_limit
        return self.energy_per_round / float(self.channel.energy(np.ones(1), uses)[0])

    def _superpose(self, cohort: Cohort, gains: NDArray[np.float64], exchange: int, seed: int) -> _Superposed:
        """The air is linear and so is the code: superpose first and code once where plain updates are at hand."""
        plain = cohort.updates(gains)
        if plain is None:
            return _Superposed(None, cohort.signals(gains))
        return _Superposed(plain, self.code.encode(plain, self.order(exchange, seed).seed))

    def _erase(self, received: Tensor, seed: int) -> Tensor:
        wiped = round(self.erasure * len(received))
        if wiped == 0:
            return received
        start = int(generator(seed, "erasure").integers(len(received)))
        received = received.clone()
        if self.code.decoder == "unbiased":  # the others take what is missing for a shorter signal, which it is
            received *= len(received) / (len(received) - wiped)
        received[(start + np.arange(wiped)) % len(received)] = 0.0
        return received

    def _aggregate_error(
        self, superposed: _Superposed, update: Tensor | None, noise_variance: float
    ) -> dict[str, float | None]:
        """Squared error of the received mean update, measured and as the code's closed form predicts it."""
        if superposed.plain is None or update is None:
            return {"mse_measured": None, "mse_predicted": None}
        signal, mean = superposed.plain
        predicted = self.code.mean_squared_error(
            len(mean),
            float(signal.square().sum()),
            float((signal - mean).square().sum()),
            noise_variance,
        )
        return {
            "mse_measured": float((update - mean).square().sum()),
            "mse_predicted": None if self.erasure else predicted,
        }


@dataclass(frozen=True)
class _Superposed:
    """What the air sums (row 0) and what it should (row 1): plain (2, d) where known, and coded (2, m)."""

    plain: Tensor | None
    coded: Tensor


def _transmit_statistics(symbols: Tensor) -> dict[str, float]:
    """Peak-to-average power (dB) and energy of the devices' symbol blocks, relative to one unit a use."""
    power = symbols.double().square()
    energy = power.mean(dim=1)
    sending = energy > 0
    if not bool(sending.any()):
        return {}
    papr_db = 10 * torch.log10(power.amax(dim=1)[sending] / energy[sending])
    spread = energy[sending]
    return {
        "papr_db_mean": float(papr_db.mean()),
        "papr_db_max": float(papr_db.max()),
        "energy_ratio_min": float(spread.min()),
        "energy_ratio_max": float(spread.max()),
        "energy_ratio_std": float((spread - 1).square().mean().sqrt()),
    }


UPLINKS: dict[str, type[Uplink]] = {"ideal": IdealUplink, "over-the-air": AnalogUplink}
"""Uplinks by the name a scenario uses."""

__all__ = [
    "UPLINKS",
    "AnalogUplink",
    "Cohort",
    "IdealUplink",
    "Reception",
    "Uncoded",
    "Uplink",
    "symbol_scale",
]
