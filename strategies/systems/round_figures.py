"""What became of the updates of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message

from strategies.received import read_metrics
from strategies.refusal import BadPayload, Failure
from strategies.systems.server_system import ACCEPTED, LATE, REJECTED, Figures


@dataclass
class RoundFigures:
    """Counts of one round.

    Attributes
    ----------
    verdicts : Counter
        Of updates by what became of them.
    staleness : Counter
        Of accepted and rejected updates, by how many times the model had moved since it was sent.
    failures : list of Failure
        Replies that could not be used, and workers that did not reply; by node.
    strays : int
        Replies to nothing that was asked: late ones of workers that were given up.
    losses : list of float
        Mean training losses of accepted updates.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    staleness: Counter[int] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    strays: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def arrived(self) -> int:
        """Usable updates, whatever became of them."""
        return self.verdicts.total()

    def take(self, reply: Message, verdict: str, staleness: int) -> None:
        """Count an update."""
        self.verdicts[verdict] += 1
        if verdict != LATE:
            self.staleness[staleness] += 1
        if verdict == ACCEPTED:
            try:
                loss = read_metrics(reply).get("train_loss")
            except BadPayload:
                return
            if isinstance(loss, int | float):
                self.losses.append(float(loss))

    def fail(self, failure: Failure) -> None:
        """Count a worker that brought nothing, or nothing of use."""
        self.failures.append(failure)

    def withdraw(self, failure: Failure) -> None:
        """An update of no staleness that was accepted is refused after all."""
        self.verdicts[ACCEPTED] -= 1
        self.staleness[0] -= 1
        self.fail(failure)

    def told(self) -> Figures:
        """As the record has it; ``staleness`` is a histogram, its n-th entry for staleness n."""
        most = max(self.staleness, default=-1)
        counts = [self.staleness[s] for s in range(most + 1)]
        figures: dict[str, Any] = {
            "participants": self.verdicts[ACCEPTED],
            "accepted": self.verdicts[ACCEPTED],
            "rejected": self.verdicts[REJECTED],
            "late": self.verdicts[LATE],
            "strays": self.strays,
            "empty": not self.verdicts[ACCEPTED],
            "heard": bool(self.verdicts[ACCEPTED]),
            "staleness": counts,
            "staleness_mean": float(np.average(range(most + 1), weights=counts)) if counts else None,
            "staleness_max": most if counts else None,
            "failed": [{"node": one.device, "reason": one.reason, "kind": one.kind} for one in self.failures],
        }
        if self.losses:
            figures["train_loss"] = float(np.mean(self.losses))
        return figures

    def state(self) -> dict[str, Any]:
        """As plain values; see :meth:`kept`."""
        return {
            "verdicts": dict(self.verdicts),
            "staleness": [list(item) for item in self.staleness.items()],
            "failures": [[one.device, one.reason, one.kind] for one in self.failures],
            "strays": self.strays,
            "losses": np.array(self.losses, dtype=np.float64),
        }

    @classmethod
    def kept(cls, state: Mapping[str, Any]) -> RoundFigures:
        """Those of a :meth:`state`."""
        return cls(
            verdicts=Counter(state["verdicts"]),
            staleness=Counter(dict(state["staleness"])),
            failures=[Failure(*one) for one in state["failures"]],
            strays=state["strays"],
            losses=state["losses"].tolist(),
        )
