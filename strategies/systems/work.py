"""What a worker is at, and what is kept of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strategies.mean_exchange import Vector


@dataclass(frozen=True)
class Work:
    """What a worker is at.

    Attributes
    ----------
    node : int
        The worker.
    step : int
        Which of its own steps, from 1.
    version : int
        How many times the model had moved when it was sent.
    round : int
        Rounds that were over then.
    begun : float
        When (s).
    sent : ndarray of shape (d,)
        The model sent.
    """

    node: int
    step: int
    version: int
    round: int
    begun: float
    sent: Vector


class AtWork(dict[str, Work]):
    """What workers are at, by the id of its message, in the order in which they were sent.

    Attributes
    ----------
    of_round : Counter
        How much of it was sent in each round: of thousands of workers that is wanted at each arrival.
    """

    def __init__(self, work: Mapping[str, Work] | None = None) -> None:
        super().__init__(work or {})
        self.of_round = Counter(one.round for one in self.values())

    def add(self, message_id: str, work: Work) -> None:
        """A worker has begun."""
        self[message_id] = work
        self.of_round[work.round] += 1

    def take(self, message_id: str) -> Work:
        """A worker has ended."""
        work = self.pop(message_id)
        self.of_round[work.round] -= 1
        return work


def kept_work(working: Mapping[str, Work]) -> dict[str, Any]:
    """Work by the id of its message as plain values, in its order; models that several were sent are kept once."""
    vectors = {id(work.sent): work.sent for work in working.values()}
    places = {key: place for place, key in enumerate(vectors)}
    return {
        "vectors": list(vectors.values()),
        "working": [
            [message_id, work.node, work.step, work.version, work.round, work.begun, places[id(work.sent)]]
            for message_id, work in working.items()
        ],
    }


def work_from(kept: Mapping[str, Any]) -> AtWork:
    """The work of :func:`kept_work`."""
    vectors = [vector.copy() for vector in kept["vectors"]]
    return AtWork(
        {
            message_id: Work(node, step, version, round, begun, vectors[place])
            for message_id, node, step, version, round, begun, place in kept["working"]
        }
    )
