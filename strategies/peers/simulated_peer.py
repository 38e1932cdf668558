"""A peer of a simulation, seen from its algorithm."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any

from strategies.peers.peer import Held, Missed, Peer, Vector

if TYPE_CHECKING:
    from strategies.peers.simulation import PeerSimulation


class SimulatedPeer(Peer):
    """A peer of a :class:`~strategies.peers.simulation.PeerSimulation`.

    Where its algorithm stands no file can hold, but what it has been told since its last finished step can: told the
    same again, it comes to the same point.

    Attributes
    ----------
    held : Held
        After the last finished step.
    done : int
        The number of that step.
    told : list of ndarray or None
        What its waiting since then has brought, in order; None for what did not come.
    """

    def __init__(self, number: int, simulation: PeerSimulation, held: Held) -> None:
        super().__init__(number, simulation.size)
        self.held = held
        self.done = 0
        self.told: list[Vector | None] = []
        self._simulation = simulation
        self._again: list[Vector | None] | None = None
        self._program: Coroutine[Any, Any, Held] | None = None

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self._simulation.now

    @property
    def runs(self) -> bool:
        """Whether its algorithm is under way."""
        return self._program is not None

    def begin(self, steps: Iterable[int]) -> None:
        """Let its algorithm begin to take these steps from what it holds, at the next :meth:`go_on`."""
        self.close()
        self.told = []
        self._program = self._simulation.system.run(self, self.held, steps)

    def go_on(self) -> None:
        """Let its algorithm run until it waits, or comes to its end."""
        assert self._program is not None
        try:
            self._program.send(None)
        except StopIteration as end:
            self._program = None
            self.held = end.value

    def tell_again(self, told: list[Vector | None]) -> None:
        """Bring an algorithm that has begun anew to where it waited after it was told this."""
        self._again = list(told)
        self.go_on()
        self._again, self.told = None, list(told)

    def close(self) -> None:
        """End its algorithm where it stands."""
        if self._program is not None:
            self._program.close()
            self._program = None

    async def step(self, x: Vector, step: int) -> Vector:
        """Let the step's time pass, and take it."""
        if self._again:
            return self._heard(self._again.pop(0))
        self._simulation.work.ask(self.number, step, x)
        if self._again is None:
            self._simulation.begin_step(self.number, step)
        await _pause()
        stepped = self._simulation.end_step(self.number)
        self.told.append(stepped)
        return stepped

    def send(self, to: int, vector: Vector, step: int = 0) -> None:
        """Put a copy on its way."""
        if self._again is None:
            self._simulation.send(self.number, to, step, vector)

    async def receive(self, source: int, like: Vector, step: int = 0) -> Vector:
        """Wait for the next message of `source`."""
        if self._again:
            return self._heard(self._again.pop(0))
        if self._again is None:
            self._simulation.mail.expect(self.number, source, step)
        await _pause()
        vector = self._simulation.mail.take(self.number)
        self.told.append(vector)
        if vector is not None and (vector.shape != like.shape or vector.dtype != like.dtype):
            sent, expected = f"{vector.shape} {vector.dtype}", f"{like.shape} {like.dtype}"
            raise ValueError(f"peer {source} sent peer {self.number} a vector of {sent}: accepted: {expected}")
        return self._heard(vector)

    def note(self, step: int, held: Held) -> None:
        """Tell what the peer holds after a step."""
        self.held, self.done, self.told = held, step, []
        self._simulation.note(self.number, step, held)

    def _heard(self, vector: Vector | None) -> Vector:
        if vector is None:
            raise Missed
        return vector


@types.coroutine
def _pause() -> Generator[None, None, None]:
    """Give the others their turns."""
    yield
