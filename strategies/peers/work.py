"""What simulated peers compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from strategies.peers.peer import LocalStep, Vector


class Work(Protocol):
    """Takes peers' steps, when their results are asked for or before."""

    def ask(self, peer: int, step: int, x: Vector) -> None:
        """A peer begins its `step` at x, shape (d,), which nobody changes any more."""
        ...

    def answer(self, peer: int) -> Vector:
        """What the step that the peer has begun comes to."""
        ...

    def forget(self, peer: int) -> None:
        """The peer's step, if it has begun one, comes to nothing."""
        ...

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, but steps that have begun, for which it is asked again."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        ...


class OneByOne:
    """Each step on its own, when its result is due.

    Parameters
    ----------
    local_step : callable
        A peer's step.
    """

    def __init__(self, local_step: LocalStep) -> None:
        self._local_step = local_step
        self._begun: dict[int, tuple[int, Vector]] = {}

    def ask(self, peer: int, step: int, x: Vector) -> None:
        """Keep it."""
        self._begun[peer] = (step, x)

    def answer(self, peer: int) -> Vector:
        """Take the step."""
        step, x = self._begun.pop(peer)
        return self._local_step(peer, step, x)

    def forget(self, peer: int) -> None:
        """Forget it."""
        self._begun.pop(peer, None)

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""
