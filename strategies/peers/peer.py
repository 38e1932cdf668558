"""What an algorithm without a server may do: a peer steps, sends a vector to a peer, and receives one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating]
"""Of shape (d,). Between processes with GPUs of their own it is a tensor: algorithms use what both have in common."""

LocalStep = Callable[[int, int, Vector], Vector]
"""A local step: of a peer, by its number, its n-th from 1, from x of shape (d,) to a new vector; x is left as it is."""


class PeerLost(RuntimeError):
    """A peer has gone, or did not answer in time: what waits for it cannot go on."""


class Missed(Exception):
    """A message will not come, and its receiver can do without: it was lost, or its sender is gone."""


class Held(NamedTuple):
    """What a peer holds after a step: its replica, shape (d,), and the centre, where there is one and it keeps it."""

    model: Vector | None
    centre: Vector | None = None


@dataclass
class Traffic:
    """What a peer has sent so far.

    Attributes
    ----------
    messages, numbers, bits : int
        Messages, the numbers in them, and their bits.
    """

    messages: int = 0
    numbers: int = 0
    bits: int = 0

    def count(self, vector: Vector) -> None:
        """Add one message."""
        self.messages += 1
        self.numbers += len(vector)
        self.bits += 8 * vector.nbytes


class Peer(ABC):
    """One of p peers, seen from itself. An algorithm runs once for each of them, and uses nothing else.

    Waiting is written as ``await``: a simulation lets other peers run meanwhile, a process of its own just waits.

    Parameters
    ----------
    number : int
        From 0 to p - 1.
    peers : int
        p, >= 2.
    on_step : callable, optional
        Called by :meth:`note` with the peer's number, the step, its time (s) and what it holds.

    Attributes
    ----------
    traffic : Traffic
        What it has sent.
    present : sequence of int
        Who takes part, in the order of numbers; all peers, unless some are gone and the others go on together.

    Raises
    ------
    ValueError
        If there are fewer than two peers.
    """

    def __init__(self, number: int, peers: int, on_step: Callable[[int, int, float, Held], None] | None = None) -> None:
        check_peers(peers)
        self.number = number
        self.peers = peers
        self.on_step = on_step
        self.traffic = Traffic()
        self.present: Sequence[int] = range(peers)

    @property
    @abstractmethod
    def now(self) -> float:
        """Seconds since the run began."""

    @abstractmethod
    async def step(self, x: Vector, step: int) -> Vector:
        """Take local step number `step`, counted from 1, at x; the time it takes passes."""

    @abstractmethod
    def send(self, to: int, vector: Vector, step: int = 0) -> None:
        """Send a vector to a peer, without waiting; it may be changed afterwards.

        Messages from one peer to another are received in the order in which they were sent. `step` is the sender's own,
        for those that may be waited for in vain.
        """

    @abstractmethod
    async def receive(self, source: int, like: Vector, step: int = 0) -> Vector:
        """Wait for the next vector of a peer, of the shape and type of `like`, sent in its step of this number.

        Raises
        ------
        Missed
            If it will not come, and the system can do without.
        PeerLost
            If it will not come, and nothing can be done.
        """

    async def receive_all(self, sources: Sequence[int], like: Vector, step: int = 0) -> list[Vector]:
        """Wait for a vector of each of these peers, as :meth:`receive` does; those that come, in the peers' order.

        Who receives from several in a step asks for all of them at once: some messages wait for their receivers.
        """
        received = []
        for source in sources:
            with suppress(Missed):
                received.append(await self.receive(source, like, step))
        return received

    def note(self, step: int, held: Held) -> None:
        """Tell what the peer holds after a step; algorithms call it once a step."""
        if self.on_step is not None:
            self.on_step(self.number, step, self.now, held)


class PeerSystem(Protocol):
    """An algorithm that every peer runs."""

    @property
    def together(self) -> bool:
        """Whether a step needs everybody's messages, so that a missing one is never just skipped."""
        ...

    def check(self, peers: int) -> None:
        """Refuse a number of peers it cannot run with (ValueError)."""
        ...

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take these steps, numbered from 1, as `peer`, from what it holds; what it holds in the end."""
        ...


def held_model(held: Held) -> Vector:
    """The replica of one that trains."""
    if held.model is None:
        raise TypeError("held.model = None: accepted: a vector, as every peer that trains has one")
    return held.model


def check_peers(peers: int, least: int = 2, why: str = "a peer alone has nobody to average with") -> None:
    """Refuse fewer than `least` peers."""
    if peers < least:
        raise ValueError(f"peers = {peers!r}: {why}; accepted: an integer >= {least}")


def check_every(every: int) -> None:
    """Refuse an interval that is no whole number of steps."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every = {every!r}: accepted: an integer >= 1 (steps)")
