"""Who waits for whose message, and whether it is there, may still come, or will not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from strategies.peers.letters import Letter, Letters


class Wait(NamedTuple):
    """What a peer waits for: a peer's message of a step; `number` tells it from its other waits."""

    source: int
    step: int
    number: int


class Waits:
    """What peers wait for, at most one message each.

    Parameters
    ----------
    letters : Letters
        Messages on their way.
    why_not : callable
        Why a peer, by its number, will send no more in a step, or None if it may.
    """

    def __init__(self, letters: Letters, why_not: Callable[[int, int], str | None]) -> None:
        self.by_peer: dict[int, Wait] = {}
        self._letters = letters
        self._why_not = why_not
        self._count = 0

    def begin(self, peer: int, source: int, step: int) -> int:
        """Let a peer wait; the number of its wait."""
        self._count += 1
        self.by_peer[peer] = Wait(source, step, self._count)
        return self._count

    def end(self, peer: int) -> None:
        """The peer waits no more."""
        self.by_peer.pop(peer, None)

    def is_on(self, peer: int, number: int) -> bool:
        """Whether a wait still is."""
        wait = self.by_peer.get(peer)
        return wait is not None and wait.number == number

    def on(self, source: int) -> list[int]:
        """Who waits for this peer."""
        return [peer for peer, wait in self.by_peer.items() if wait.source == source]

    def look(self, peer: int) -> Letter | str | None:
        """The message that a peer waits for if it is there, why it will not come, or None if it still may."""
        source, step, _ = self.by_peer[peer]
        while (first := self._letters.first(source, peer)) is not None and first.step < step and first.there:
            self._letters.drop(first)
        if first is not None and first.step == step and first.vector is not None:
            return first if first.there else None
        coming = self._letters.waiting(source, peer)
        if any(one.step > step and one.there for one in coming):
            return f"a message of peer {source} was lost"
        return None if any(one.step <= step for one in coming) else self._why_not(source, step)

    def give_up(self, peer: int) -> None:
        """Forget the message that a peer waits for, which is lost."""
        source, step, _ = self.by_peer[peer]
        first = self._letters.first(source, peer)
        if first is not None and first.step == step and first.there:
            self._letters.drop(first)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs."""
        return {"count": self._count, "waits": [[peer, *wait] for peer, wait in sorted(self.by_peer.items())]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._count = state["count"]
        self.by_peer = {peer: Wait(source, step, number) for peer, source, step, number in state["waits"]}
