"""Which devices can be reached: idle, asleep or out of coverage ones cannot."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from channel.randomness import generator

Mask = NDArray[np.bool_]


class Availability(ABC):
    """Who can be reached in a round; a device's answer does not depend on how many others there are."""

    name: ClassVar[str]

    @abstractmethod
    def available(self, round: int, devices: int, seed: int) -> Mask:
        """Devices of the scenario that can be reached.

        Parameters
        ----------
        round : int
            Number of the round, >= 0.
        devices : int
            N, all devices of the scenario.
        seed : int
            The run's seed.

        Returns
        -------
        ndarray of bool, shape (N,)
        """


@dataclass(frozen=True)
class Always(Availability):
    """Every device, in every round."""

    name = "always"

    def available(self, round: int, devices: int, seed: int) -> Mask:
        """Ones, shape (N,)."""
        return np.ones(devices, dtype=np.bool_)


@dataclass(frozen=True)
class Bernoulli(Availability):
    """Each device with the same probability, independently of the others and of other rounds.

    Parameters
    ----------
    probability : float
        Of being reached, in (0, 1].
    """

    probability: float
    name = "bernoulli"

    def __post_init__(self) -> None:
        _check_probability(self.probability)

    def available(self, round: int, devices: int, seed: int) -> Mask:
        """Independent draws, shape (N,)."""
        return generator(seed, "availability/bernoulli", round).random(devices) < self.probability


@dataclass(frozen=True)
class Bursty(Availability):
    r"""Outages that last, by a Markov chain of two states a device (E. N. Gilbert, Bell Syst. Tech. J. 39, 1960).

    An outage ends with probability :math:`r = 1/L` a round, so it lasts L rounds on average and its length is
    geometric; one begins with probability :math:`f = r(1 - p)/p`, so the share p of reached devices is stationary, and
    round 0 is drawn from it. The state of round t and of t + l are correlated by :math:`(1 - f - r)^l`.

    Rounds are followed one after another and the latest state is kept: a round's value is the same whatever was asked
    for before (going back starts again from round 0).

    Parameters
    ----------
    probability : float
        p of being reached, in (0, 1].
    mean_burst : float
        L, mean length of an outage in rounds: >= 1, and >= (1 - p)/p, as an outage cannot begin with more than
        probability 1.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    probability: float
    mean_burst: float
    name = "bursty"
    _latest: dict[tuple[int, int], tuple[int, Mask]] = field(
        default_factory=dict, init=False, repr=False, compare=False, hash=False
    )

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        shortest = max(1.0, (1.0 - self.probability) / self.probability)
        if not shortest <= self.mean_burst < float("inf"):
            raise ValueError(
                f"mean_burst is {self.mean_burst!r}; accepted: a finite number of rounds >= {shortest:g}, the shortest "
                f"mean outage with probability = {self.probability!r}"
            )

    @property
    def recovery(self) -> float:
        """r, probability that an outage ends."""
        return 1.0 / self.mean_burst

    @property
    def failure(self) -> float:
        """f, probability that an outage begins."""
        return self.recovery * (1.0 - self.probability) / self.probability

    def available(self, round: int, devices: int, seed: int) -> Mask:
        """State of the chains in this round, shape (N,)."""
        if round < 0:
            raise ValueError(f"round is {round!r}; accepted: a whole number >= 0")
        process = (seed, devices)
        latest, state = self._latest.get(process, (round + 1, np.empty(0, dtype=np.bool_)))
        if latest > round:
            latest, state = 0, self._draw(0, devices, seed) < self.probability
        while latest < round:
            latest += 1
            drawn = self._draw(latest, devices, seed)
            state = np.where(state, drawn >= self.failure, drawn < self.recovery)
        self._latest.clear()  # one process at a time: a run has one, and memory stays bounded
        self._latest[process] = (latest, state)
        return state.copy()

    @staticmethod
    def _draw(round: int, devices: int, seed: int) -> NDArray[np.float64]:
        return generator(seed, "availability/bursty", round).random(devices)


def _check_probability(probability: float) -> None:
    if not 0.0 < probability <= 1.0:
        raise ValueError(f"probability is {probability!r}; accepted: 0 < probability <= 1")


AVAILABILITIES: dict[str, type[Availability]] = {kind.name: kind for kind in (Always, Bernoulli, Bursty)}
"""Ways to be available by the name they go by in a scenario."""
