"""Peers in one process, on a simulated clock."""

from __future__ import annotations

import heapq
import types
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from strategies.peers.peer import Held, LocalStep, Peer, PeerLost, PeerSystem, Traffic, Vector, check_peers
from strategies.peers.times import NoTime, PeerTimes


@dataclass(frozen=True)
class PeersRun:
    """What peers came to.

    Attributes
    ----------
    held : list of Held
        By peer, in the end.
    traffic : list of Traffic
        By peer.
    seconds : list of float
        By peer, when it was done.
    """

    held: list[Held]
    traffic: list[Traffic]
    seconds: list[float]

    @property
    def models(self) -> Vector:
        """The replicas of those that train, shape (workers, d)."""
        return np.stack([held.model for held in self.held if held.model is not None])


def consensus_distance(models: Vector) -> float:
    r"""How far replicas are apart: :math:`\sqrt{\frac1p \sum_k \|x_k - \bar x\|^2}` of models of shape (p, d)."""
    return float(np.sqrt(np.mean(np.sum((models - models.mean(axis=0)) ** 2, axis=1))))


def run_simulated(
    system: PeerSystem,
    local_step: LocalStep,
    initial: Vector,
    steps: int,
    times: PeerTimes | None = None,
    on_step: Callable[[int, int, float, Held], None] | None = None,
) -> PeersRun:
    """Run a system on p simulated peers.

    Events happen in the order of time; equal times break by the peer's number, then in the order in which they were
    fixed. Equal arguments give results equal to the bit.

    Parameters
    ----------
    system : PeerSystem
        What every peer runs.
    local_step : callable
        A peer's step.
    initial : ndarray of shape (p, d)
        Where each begins.
    steps : int
        How many each takes, >= 0.
    times : PeerTimes, default none passes
        Seconds of steps and messages.
    on_step : callable, optional
        Called after each step of each peer, see :class:`Peer`.

    Raises
    ------
    ValueError
        If there are too few peers, or `initial` has another shape.
    PeerLost
        If peers wait for messages that nobody will send.
    """
    if initial.ndim != 2:
        raise ValueError(f"initial has shape {initial.shape}: accepted: (p, d), where each of p peers begins")
    check_peers(len(initial))
    system.check(len(initial))
    world = _World(len(initial), times or NoTime())
    peers = [SimulatedPeer(number, world, local_step, on_step) for number in range(len(initial))]
    programs = [system.run(peer, x.copy(), steps) for peer, x in zip(peers, initial, strict=True)]
    try:
        held = world.run(programs)
    finally:
        for program in programs:
            program.close()
    return PeersRun(held, [peer.traffic for peer in peers], world.times)


class SimulatedPeer(Peer):
    """A peer of a simulation; made by :func:`run_simulated`."""

    def __init__(
        self,
        number: int,
        world: _World,
        local_step: LocalStep,
        on_step: Callable[[int, int, float, Held], None] | None,
    ) -> None:
        super().__init__(number, len(world.times), on_step)
        self._world = world
        self._local_step = local_step

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self._world.times[self.number]

    async def step(self, x: Vector, step: int) -> Vector:
        """Let the step's time pass, and take it."""
        self._world.wake(self.number, self.now + self._world.clock.step_seconds(self.number, step))
        await _pause()
        return self._local_step(self.number, step, x)

    def send(self, to: int, vector: Vector) -> None:
        """Put a copy on its way."""
        self.traffic.count(vector)
        self._world.send(self.number, to, vector.copy(), self.now)

    async def receive(self, source: int, like: Vector) -> Vector:
        """Wait for the next message of `source`."""
        self._world.expect(self.number, source)
        await _pause()
        vector = self._world.take(self.number, source)
        if vector.shape != like.shape or vector.dtype != like.dtype:
            sent, expected = f"{vector.shape} {vector.dtype}", f"{like.shape} {like.dtype}"
            raise ValueError(f"peer {source} sent peer {self.number} a vector of {sent}: accepted: {expected}")
        return vector


class _World:
    """The peers' times, what is on its way, and who wakes when."""

    def __init__(self, peers: int, clock: PeerTimes) -> None:
        self.clock = clock
        self.times = [0.0] * peers
        self._queue: list[tuple[float, int, int]] = []
        self._count = 0
        self._boxes: defaultdict[tuple[int, int], deque[tuple[float, Vector]]] = defaultdict(deque)
        self._waiting: dict[int, int] = {}

    def wake(self, peer: int, time: float) -> None:
        """Let a peer go on at `time`."""
        self._count += 1
        heapq.heappush(self._queue, (time, peer, self._count))

    def send(self, source: int, to: int, vector: Vector, now: float) -> None:
        """Put a message on its way, and wake who waits for it when it is there."""
        arrival = self.clock.send(source, to, 8 * vector.nbytes, now)
        self._boxes[source, to].append((arrival, vector))
        if self._waiting.get(to) == source:
            del self._waiting[to]
            self.wake(to, max(arrival, self.times[to]))

    def expect(self, peer: int, source: int) -> None:
        """Let a peer wait for the next message of `source`, which may be there or on its way already."""
        box = self._boxes[source, peer]
        if box:
            self.wake(peer, max(box[0][0], self.times[peer]))
        else:
            self._waiting[peer] = source

    def take(self, peer: int, source: int) -> Vector:
        """The message that has come."""
        return self._boxes[source, peer].popleft()[1]

    def run(self, programs: list[Coroutine[Any, Any, Held]]) -> list[Held]:
        """Let all run to their ends."""
        held: dict[int, Held] = {}
        for peer in range(len(programs)):
            self.wake(peer, 0.0)
        while self._queue:
            time, peer, _ = heapq.heappop(self._queue)
            self.times[peer] = time
            try:
                programs[peer].send(None)
            except StopIteration as end:
                held[peer] = end.value
        if self._waiting:
            waits = ", ".join(f"peer {peer} for peer {source}" for peer, source in sorted(self._waiting.items()))
            raise PeerLost(f"nothing can happen any more; messages are waited for that nobody sends: {waits}")
        return [held[peer] for peer in range(len(programs))]


@types.coroutine
def _pause() -> Generator[None, None, None]:
    """Give the others their turns."""
    yield
