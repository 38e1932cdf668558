"""The schemes of the comparison at equal channel uses and energy after Amiri and Gündüz."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from softmax_over_the_air import DEFAULT_MOMENTUM, Exchange, OverTheAir
from torch import Tensor

from channel import Channel
from channel.codecs import SparseBinary
from channel.codes import Code, RandomLinearCode, RandomMask, SparseAMP, Uncoded
from channel.power import FullPower
from channel.uplinks import AnalogUplink, IdealUplink


@dataclass(frozen=True)
class Budget:
    """Of a round of a compressed scheme: s real channel uses and the energy P of each of M devices, in units of noise.

    The model has so many entries and is trained in so many such rounds.
    """

    uses: int
    energy: float
    rounds: int = 200
    entries: int = 7850
    devices: int = 25

    @property
    def plain_rounds(self) -> int:
        """Rounds of all entries that take the same uses."""
        return round(self.rounds * self.uses / self.entries)


@dataclass(frozen=True)
class Scheme:
    """How updates get to the server.

    Attributes
    ----------
    exchange : callable
        Of budget and seed.
    plain : bool
        It sends all entries, in as many rounds as the channel uses of all suffice for, with the energy of all.
    """

    exchange: Callable[[Budget, int], Exchange]
    momentum: float = DEFAULT_MOMENTUM
    plain: bool = False

    def rounds(self, budget: Budget) -> int:
        """How many there are."""
        return budget.plain_rounds if self.plain else budget.rounds


def over_the_air(make_code: Callable[[int], Code], plain: bool = False) -> Callable[[Budget, int], Exchange]:
    """At full power, no fading, noise of variance 1 a use; the server divides by the sum of the amplitudes."""

    def exchange(budget: Budget, seed: int) -> Exchange:
        energy = budget.energy * (budget.rounds / budget.plain_rounds if plain else 1.0)
        power_control = FullPower(receive="unbiased")
        code = make_code(budget.uses)
        return OverTheAir(AnalogUplink(code, power_control, Channel(noise_power=1.0), energy_per_round=energy), seed)

    return exchange


class DigitalDSGD:
    r"""D-DSGD as published: one packet a device at its share of the sum capacity, with error feedback.

    With M devices a packet has :math:`R = \frac{s}{2M} \log_2(1 + \frac{M P}{s \sigma^2})` bits and the q largest or
    smallest entries as their mean, q the most with :math:`\log_2 {d \choose q} + 33 \le R`; nothing is sent where
    there is no such q. No headers, no lost packets, no integer number of bits.
    """

    def __init__(self, budget: Budget) -> None:
        m, s = budget.devices, budget.uses
        self.bits = s / (2 * m) * math.log2(1 + m * budget.energy / s)
        self.kept = most_kept(self.bits, budget.entries)
        self.left: Tensor | None = None

    def __call__(self, updates: Tensor, weights: NDArray[np.float64], number: int) -> Tensor | None:
        if not self.kept:
            return None
        updates = updates if self.left is None else updates + self.left
        codec = SparseBinary((self.kept - 0.5) / updates.shape[1])  # rounds up
        sent = torch.stack([codec.decode(codec.encode(update, seed=0), seed=0) for update in updates])
        self.left = updates - sent
        return torch.from_numpy(weights) @ sent.double()


def most_kept(bits: float, entries: int) -> int:
    """The largest q <= d/2 with log2 C(d, q) + 33 <= bits; 0 if there is none."""
    q = np.arange(1, entries // 2 + 1)
    places = (gammaln(entries + 1) - gammaln(q + 1) - gammaln(entries - q + 1)) / math.log(2)
    return int(np.sum(places + 33 <= bits))


SCHEMES: Mapping[str, Scheme] = {
    "a-dsgd": Scheme(over_the_air(lambda m: SparseAMP(uses=m))),
    "d-dsgd": Scheme(lambda budget, seed: DigitalDSGD(budget)),
    "random linear, projection and feedback": Scheme(
        over_the_air(lambda m: RandomLinearCode(uses=m, decoder="projection", error_feedback=True))
    ),
    "the same without momentum": Scheme(
        over_the_air(lambda m: RandomLinearCode(uses=m, decoder="projection", error_feedback=True)), momentum=0.0
    ),
    "random linear, least error": Scheme(over_the_air(lambda m: RandomLinearCode(uses=m, decoder="lmmse"))),
    "random linear": Scheme(over_the_air(lambda m: RandomLinearCode(uses=m))),
    "random entries": Scheme(over_the_air(lambda m: RandomMask(uses=m))),
    "uncoded": Scheme(over_the_air(lambda m: Uncoded(), plain=True), plain=True),
    "noise-free": Scheme(lambda budget, seed: OverTheAir(IdealUplink(), seed)),
}
