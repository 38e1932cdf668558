"""What peers on a simulated clock compute: real training, on the local engine's workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmac.engines.workers import Team
from strategies.peers.peer import Vector


class StepFailed(RuntimeError):
    """A device's training raised an error."""


class PeerTraining:
    """Takes peers' steps as the training table says; implements :class:`strategies.peers.work.Work`.

    A step is what a server's worker does with a message: the same mini-batches in the step of the same number. With
    several worker processes all steps that have begun are taken together when the first result is due.

    Parameters
    ----------
    team : Team
        Trains devices.
    config : mapping
        Goes with every step.
    """

    def __init__(self, team: Team, config: Mapping[str, Any]) -> None:
        self.team = team
        self.config = dict(config)
        self._begun: dict[int, tuple[int, Vector]] = {}
        self._ready: dict[int, Vector] = {}
        self._losses: dict[int, dict[int, float]] = {}

    def ask(self, peer: int, step: int, x: Vector) -> None:
        """Keep it until a result is due."""
        self._begun[peer] = (step, x)

    def answer(self, peer: int) -> Vector:
        """Train, unless that has been done.

        Raises
        ------
        StepFailed
            If training raised an error.
        """
        if peer not in self._ready:
            chosen = sorted(self._begun) if self.team.connections else [peer]
            self._train([one for one in chosen if one not in self._ready])
        del self._begun[peer]
        return self._ready.pop(peer)

    def forget(self, peer: int) -> None:
        """Drop a step, and its result if there is one."""
        self._begun.pop(peer, None)
        self._ready.pop(peer, None)

    def mean_loss(self, step: int) -> float | None:
        """Mean training loss of those that have taken a step; it and earlier ones are forgotten."""
        losses = self._losses.get(step)
        for past in [one for one in self._losses if one <= step]:
            del self._losses[past]
        return float(np.mean([losses[peer] for peer in sorted(losses)])) if losses else None

    def _train(self, peers: list[int]) -> None:
        work = []
        for peer in peers:
            step, x = self._begun[peer]
            work.append((peer, x, self.config | {"server-round": step}))
        for peer, answer in zip(peers, self.team.train_each(work), strict=True):
            if isinstance(answer, str):
                raise StepFailed(f"device {peer} failed in its step {self._begun[peer][0]}: {answer}")
            self._ready[peer], _, loss = answer
            self._losses.setdefault(self._begun[peer][0], {})[peer] = loss

    def state(self) -> dict[str, Any]:
        """Losses not asked for yet."""
        return {"losses": [[step, peer, loss] for step, by in self._losses.items() for peer, loss in by.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._losses = {}
        for step, peer, loss in state["losses"]:
            self._losses.setdefault(step, {})[peer] = loss
