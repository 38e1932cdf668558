"""How far a server without a barrier believes its workers, and whom it does not ask for a while."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from strategies.mean_exchange import Vector
from strategies.quarantine import Quarantine
from strategies.refusal import BadPayload, Failure
from strategies.trust import Trust


class WorkerTrust:
    """What :class:`~strategies.air_grid.AirGrid` asks of an exchange, asked of a system's rounds.

    There is no exchange whose norms could be compared. The measure of an update is the median of the last norms that
    the workers have sent, one of each, its own included, as soon as three workers have sent one above zero. Who moves
    it is half of the workers. Norms that are refused are among them, so that updates which get longer everywhere are
    not refused for ever.

    Replies are judged one by one. What the last replies of more than half of those asked get wrong counts in the
    figures and against nobody.

    Parameters
    ----------
    trust : Trust
        The numbers.
    numbers : mapping of int to int
        The device of each node, by which it is known; a node that is not there goes by its own number.
    """

    def __init__(self, trust: Trust, numbers: Mapping[int, int]) -> None:
        self.trust = trust
        self.numbers = numbers
        self.quarantine = Quarantine(trust)
        self._norms: dict[int, float] = {}
        self._positive: list[float] = []
        """Of the norms those above zero, in order: of thousands of workers a median is wanted at each arrival."""
        self._bad: set[int] = set()

    def check(self, node: int, update: Vector) -> None:
        """Take in an update, or refuse it if it is too long beside the others'.

        Raises
        ------
        BadPayload
            Of kind ``norm``.
        """
        device = self._device(node)
        norm = float(np.linalg.norm(update))
        self._note(device, norm)
        if norm > self.trust.longest_beside(self._positive):
            most = f"{self.trust.largest_norm_ratio:g} times the median of the workers' last ones"
            raise BadPayload(f"the update's norm is {norm:.4g}, more than {most}", "norm")
        self._bad.discard(device)

    def too_long(self, updates: Mapping[int, Vector]) -> list[Failure]:
        """Of updates that are there at once, by node, those that are too long beside the others."""
        norms = {node: float(np.linalg.norm(update)) for node, update in updates.items()}
        return [Failure(node, reason, "norm") for node, reason in self.trust.too_long(norms).items()]

    def judge(self, round: int, failure: Failure, asked: Collection[int]) -> None:
        """Count a failure of a node in a round, if it is a bad one; `asked` are the nodes that are asked in it."""
        device = self._device(failure.device)
        if failure.bad:
            self._bad.add(device)
        bad = sum(self._device(node) in self._bad for node in asked)
        self.quarantine.note_one(round, Failure(device, failure.reason, failure.kind), of_most=2 * bad > len(asked))

    def out(self, node: int, round: int) -> str | None:
        """Why a worker is not asked in a round; None if it is."""
        return self.quarantine.out(self._device(node), round)

    def figures(self, out: Iterable[int], round: int) -> dict[str, Any]:
        """For the record: bad replies so far, and who was `out` in the round; nothing where there is none."""
        # Systems count strays of their own, of a round.
        told = {name: counted for name, counted in self.quarantine.figures().items() if name == "bad_replies"}
        reasons = {self._device(node): reason for node in out if (reason := self.out(node, round)) is not None}
        if reasons:
            told["not_asked"] = [{"device": device, "reason": reasons[device]} for device in sorted(reasons)]
        return told

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        norms = [list(item) for item in sorted(self._norms.items())]
        return {"quarantine": self.quarantine.state(), "norms": norms, "bad": sorted(self._bad)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.quarantine.restore(state["quarantine"])
        self._norms = {int(device): float(norm) for device, norm in state["norms"]}
        self._positive = sorted(norm for norm in self._norms.values() if norm > 0)
        self._bad = set(state["bad"])

    def _note(self, device: int, norm: float) -> None:
        before, self._norms[device] = self._norms.get(device, 0.0), norm
        if before > 0:
            del self._positive[bisect_left(self._positive, before)]
        if norm > 0:
            insort(self._positive, norm)

    def _device(self, node: int) -> int:
        return self.numbers.get(node, node)
