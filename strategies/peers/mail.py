"""Messages between simulated peers: sent, on their way, waited for, there or lost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from strategies.peers.agenda import ARRIVED, OFFERED, Agenda
from strategies.peers.letters import Letters
from strategies.peers.peer import Vector
from strategies.peers.times import PeerTimes
from strategies.peers.waits import Waits


class Addressees(Protocol):
    """What mail has to know of peers."""

    def is_there(self, peer: int) -> bool:
        """Whether a peer is connected."""
        ...

    def is_past(self, peer: int, step: int) -> bool:
        """Whether a peer has finished this step, or one after it."""
        ...

    def why_silent(self, peer: int, step: int) -> str | None:
        """Why a peer will send no more in a step, or None if it may."""
        ...

    def wake(self, peer: int) -> None:
        """Let a peer go on, whose message is there or will not come."""
        ...

    def cannot_do_without(self, peer: int, why: str) -> bool:
        """Whether all has to end or begin anew because a peer misses a message; it is then not woken."""
        ...


class Mail:
    """Everybody's messages.

    Parameters
    ----------
    peers : Addressees
        Who sends and receives.
    times : PeerTimes
        When messages arrive, and which are lost.
    agenda : Agenda
        What is going to happen.
    timeout_s : float
        How long a peer waits for a message.

    Attributes
    ----------
    lost, missed : int
        Messages lost on their way, and messages waited for in vain.
    """

    def __init__(self, peers: Addressees, times: PeerTimes, agenda: Agenda, timeout_s: float) -> None:
        self._peers, self._times, self._agenda, self._timeout_s = peers, times, agenda, timeout_s
        self.lost = self.missed = 0
        self.letters = Letters()
        self.waits = Waits(self.letters, peers.why_silent)
        self._brought: dict[int, Vector | None] = {}

    def send(self, source: int, to: int, step: int, vector: Vector) -> None:
        """Put a copy on its way."""
        bits, now = 8 * vector.nbytes, self._agenda.now
        offered = self._times.send(source, to, bits, now)
        lost = self._times.is_lost(source, to)
        self.lost += lost
        letter = self.letters.post(source, to, step, bits, now, None if lost else vector.copy())
        self._agenda.put(offered, to, OFFERED if self._times.queues_at_receiver else ARRIVED, letter.number)

    def offer(self, number: int) -> None:
        """A message stands before its receiver."""
        letter = self.letters.by_number.get(number)
        if letter is not None:
            letter.offered = True
            there = self._times.receive(letter.to, letter.source, letter.bits, self._agenda.now)
            self._agenda.put(there, letter.to, ARRIVED, number)

    def arrive(self, number: int) -> None:
        """A message is there."""
        letter = self.letters.by_number.get(number)
        if letter is None:
            return
        is_there = self._peers.is_there(letter.to)
        self._times.carried(letter.source, letter.to if is_there else None, letter.bits, letter.begun, self._agenda.now)
        letter.there = True
        if not is_there or self._peers.is_past(letter.to, letter.step):
            self.letters.drop(letter)
        elif (wait := self.waits.by_peer.get(letter.to)) is not None and wait.source == letter.source:
            self._look(letter.to)

    def expect(self, peer: int, source: int, step: int) -> None:
        """Let a peer wait for the next message of a step of `source`, which may be there or on its way already."""
        wait = self.waits.begin(peer, source, step)
        if math.isfinite(self._timeout_s):
            self._agenda.limit(self._agenda.now + self._timeout_s, peer, wait)
        self._look(peer)

    def take(self, peer: int) -> Vector | None:
        """The message for which a peer was woken; None if none will come."""
        return self._brought.pop(peer)

    def is_awaited(self, peer: int) -> bool:
        """Whether a peer waits for a message, or is about to be told."""
        return peer in self.waits.by_peer or peer in self._brought

    def look_after(self, source: int) -> None:
        """Let those look again who wait for `source`."""
        for peer in self.waits.on(source):
            self._look(peer)

    def time_out(self, peer: int) -> None:
        """A peer has waited for too long."""
        self._miss(peer, f"no message in {self._timeout_s:g} s")

    def stop_waiting(self, peer: int) -> None:
        """A peer's algorithm has ended where it stood."""
        self.waits.end(peer)
        self._brought.pop(peer, None)

    def leave(self, peer: int) -> None:
        """A peer has gone, with what it was sending and what it had not taken."""
        for letter in list(self.letters.by_number.values()):
            if (letter.source == peer and not letter.offered) or (letter.to == peer and letter.there):
                self.letters.drop(letter)

    def clear(self) -> None:
        """Throw all away; what was on its way has cost its senders as much as if it had come."""
        for letter in self.letters.by_number.values():
            if not letter.there:
                self._times.carried(letter.source, None, letter.bits, letter.begun, self._agenda.now)
        self.letters.clear()

    def _look(self, peer: int) -> None:
        """Let a peer go on if what it waits for is there, or will not come."""
        found = self.waits.look(peer)
        if isinstance(found, str):
            self._miss(peer, found)
        elif found is not None:
            self.letters.drop(found)
            self._bring(peer, found.vector)

    def _bring(self, peer: int, vector: Vector | None) -> None:
        self.waits.end(peer)
        self._brought[peer] = vector
        self._peers.wake(peer)

    def _miss(self, peer: int, why: str) -> None:
        if not self._peers.cannot_do_without(peer, why):
            self.missed += 1
            self.waits.give_up(peer)
            self._bring(peer, None)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {
            "counts": [self.lost, self.missed],
            "letters": self.letters.state(),
            "waits": self.waits.state(),
            "brought": [list(item) for item in sorted(self._brought.items())],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self.lost, self.missed = state["counts"]
        self.letters.restore(state["letters"])
        self.waits.restore(state["waits"])
        self._brought = dict(state["brought"])
