"""Workers and the links between them: what each can compute and hold, and what it costs to send."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from strategies.repurpose.owners import Real

DEFAULT_SPEED = 1e8
"""Multiply-adds a second of a small microcontroller with SIMD."""
DEFAULT_RATE = 1e7
"""bit/s, of a short-range radio."""
BYTES = 4
"""Of a number, in memory and on the air: float32."""


class DoesNotFit(ValueError):
    """The workers cannot hold or compute the model; the message says by how much."""


@dataclass(frozen=True)
class Worker:
    """A device that takes part.

    Parameters
    ----------
    speed : float
        Multiply-adds a second, > 0; units are shared out in proportion to it.
    multiply_adds : float
        Most multiply-adds an inference; no limit by default.
    memory : float
        Most bytes of weights and biases; no limit by default.
    energy_per_multiply_add : float
        J.
    """

    speed: float = DEFAULT_SPEED
    multiply_adds: float = math.inf
    memory: float = math.inf
    energy_per_multiply_add: float = 0.0

    def __post_init__(self) -> None:
        for name in ("speed", "multiply_adds", "memory"):
            value = getattr(self, name)
            if not value > 0 or (name == "speed" and math.isinf(value)):
                raise ValueError(f"{name} = {value!r}; accepted: a number > 0")
        if not 0 <= self.energy_per_multiply_add < math.inf:
            raise ValueError(f"energy_per_multiply_add = {self.energy_per_multiply_add!r}; accepted: J, >= 0")


@dataclass(frozen=True)
class Links:
    """What sending costs between each pair of workers.

    Attributes
    ----------
    rate : ndarray, shape (P, P)
        bit/s from the row's worker to the column's; the diagonal is not used.
    delay : float
        Seconds before the first bit of a message arrives.
    shared : bool
        Whether one message is sent at a time (one radio band), or each worker sends and receives on its own.
    energy_per_bit : ndarray, shape (P, P)
        J.
    """

    rate: Real
    delay: float = 0.0
    shared: bool = False
    energy_per_bit: Real | None = None

    def __post_init__(self) -> None:
        rate = np.asarray(self.rate)
        if rate.ndim != 2 or rate.shape[0] != rate.shape[1]:
            raise ValueError(f"rate has shape {rate.shape}; accepted: (P, P)")
        others = ~np.eye(len(rate), dtype=bool)
        if not (rate[others] > 0).all():
            raise ValueError(f"rate = {self.rate!r}; accepted: bit/s > 0 between all workers")
        if not 0 <= self.delay < math.inf:
            raise ValueError(f"delay = {self.delay!r}; accepted: seconds >= 0")

    @classmethod
    def equal(cls, workers: int, rate: float = DEFAULT_RATE, delay: float = 0.0, *, shared: bool = False) -> Links:
        """Links that are all alike."""
        return cls(np.full((workers, workers), rate), delay, shared)

    def relative_cost(self) -> Real:
        """Time of a bit between each pair over its mean, shape (P, P): 1 where all are alike; 0 on the diagonal."""
        cost = 1.0 / np.asarray(self.rate, dtype=np.float64)
        np.fill_diagonal(cost, 0.0)
        pairs = len(cost) * (len(cost) - 1)
        return np.asarray(cost * pairs / cost.sum()) if pairs else cost


def shares(workers: Sequence[Worker], multiply_adds: float, memory: float) -> Real:
    """Share of every layer that each worker owns: by speed, within its limits.

    Parameters
    ----------
    workers : sequence of Worker
    multiply_adds, memory : float
        Of the whole model, dense: multiply-adds an inference and bytes.

    Raises
    ------
    DoesNotFit
        If the limits together are too tight; the message says by how much.
    """
    largest = np.array([min(1.0, w.multiply_adds / multiply_adds, w.memory / memory) for w in workers])
    if largest.sum() < 1.0:
        missing = 1.0 - largest.sum()
        raise DoesNotFit(
            f"workers: their limits hold {largest.sum():.1%} of the model, {multiply_adds:,.0f} multiply-adds and "
            f"{memory:,.0f} bytes; {missing * multiply_adds:,.0f} multiply-adds and {missing * memory:,.0f} bytes are "
            "missing; accepted: more workers or higher limits"
        )
    speeds = np.array([w.speed for w in workers])
    found, free = np.zeros(len(workers)), np.ones(len(workers), dtype=bool)
    for _ in workers:
        found[free] = (1.0 - found[~free].sum()) * speeds[free] / speeds[free].sum()
        over = free & (found > largest)
        if not over.any():
            break
        found[over], free = largest[over], free & ~over
    return found
