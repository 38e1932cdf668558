"""A simulation's time on which peers go and come back, hang, and messages get lost, as it is told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from strategies.peers.peer import Held, LocalStep, PeerSystem, Vector
from strategies.peers.simulation import PeerRound, PeerSimulation
from strategies.peers.times import PeerTimes
from strategies.peers.work import OneByOne

STEP_S, MESSAGE_S, TIMEOUT_S = 1.0, 0.1, 5.0


class Trouble(PeerTimes):
    """Steps of 1 s, messages of 0.1 s, and what goes wrong.

    Parameters
    ----------
    gone : mapping of int to (float, float)
        From when to when a peer is gone (s).
    lost : sequence of (int, int)
        Messages that are lost: of a peer, its n-th from 0.
    hangs : mapping of (int, int) to float
        How much longer a peer's step takes, by the number of the step (s).
    """

    def __init__(
        self,
        gone: Mapping[int, tuple[float, float]] | None = None,
        lost: Sequence[tuple[int, int]] = (),
        hangs: Mapping[tuple[int, int], float] | None = None,
    ) -> None:
        self.gone, self.lost, self.hangs = gone or {}, lost, hangs or {}
        self.sent: Counter[int] = Counter()
        self.notes: list[tuple[str, int, float]] = []

    def begin_step(self, peer: int, step: int, now: float) -> float:
        return now + STEP_S + self.hangs.get((peer, step), 0.0)

    def end_step(self, peer: int, now: float) -> None:
        self.notes.append(("worked", peer, now))

    def send(self, source: int, to: int, bits: int, now: float) -> float:
        return now + MESSAGE_S

    def is_lost(self, source: int, to: int) -> bool:
        self.sent[source] += 1
        return (source, self.sent[source] - 1) in self.lost

    def there(self, peer: int, now: float) -> bool:
        begin, end = self.gone.get(peer, (math.inf, math.inf))
        return not begin <= now < end

    def next_change(self, peer: int, now: float) -> float:
        return min((time for time in self.gone.get(peer, ()) if time > now), default=math.inf)

    def left(self, peer: int, now: float) -> None:
        self.notes.append(("left", peer, now))

    def came(self, peer: int, now: float) -> None:
        self.notes.append(("came", peer, now))

    def state(self) -> dict[str, Any]:
        return {"sent": [list(item) for item in sorted(self.sent.items())]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sent = Counter(dict(state["sent"]))


def simulation_of(
    system: PeerSystem, step: LocalStep, initial: Vector, steps: int, times: PeerTimes, timeout_s: float = TIMEOUT_S
) -> PeerSimulation:
    """Peers that begin at the rows of `initial`."""
    return PeerSimulation(system, OneByOne(step), [Held(x) for x in initial], steps, times, timeout_s)


def rounds_of(
    simulation: PeerSimulation, after: Callable[[PeerRound], None] | None = None, begin: bool = True
) -> list[PeerRound]:
    """All rounds, to the last or to where it stops."""
    if begin:
        simulation.begin()
    rounds = []
    while (over := simulation.next_round()) is not None:
        rounds.append(over)
        if after is not None:
            after(over)
    simulation.close()
    return rounds
