"""The synchronous parameter server, with backup workers and a deadline."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from strategies.mean_exchange import Vector
from strategies.systems.server_run import ServerRun
from strategies.systems.server_system import ACCEPTED, LATE, Figures, ServerSystem, check_number, check_whole
from strategies.systems.work import Work

GO_ON, WAIT = "go-on", "wait"
"""What a round does without workers that are gone."""


class Synchronous(ServerSystem):
    r"""Synchronous stochastic gradient descent with a parameter server.

    Every worker gets :math:`x_t`, and once the updates of p - b of the p workers are there,

    .. math:: x_{t+1} = x_t + \eta\, \frac{1}{|S_t|} \sum_{k \in S_t} \Delta_k .

    With one mini-batch step at rate a, a worker's update is :math:`-a\, g_k(x_t)`, and this is SGD on the mini-batches
    of all together. Updates of a round that is over are dropped on arrival, and their workers get the present model. A
    round is one step.

    Parameters
    ----------
    server_learning_rate : float, default 1
        eta.
    backup_workers : int, default 0
        b, from 0 to p - 1: how many of the slowest a round does not wait for [1]_.
    deadline_s : float, default infinite
        A round ends so many seconds after its beginning, with whom is there by then; with nobody it is empty, and the
        model stays.
    most_empty_rounds : int, default 5
        So many empty rounds in a row end the run.
    on_lost : {"go-on", "wait"}, default "go-on"
        Without workers that are gone or do not answer: a round goes on, or waits until they are back.
    devices : int, optional
        p.

    Raises
    ------
    ValueError
        If a parameter is out of range; from :meth:`start`, if b is not below p.

    References
    ----------
    .. [1] J. Chen, X. Pan, R. Monga, S. Bengio, R. Jozefowicz, "Revisiting distributed synchronous SGD", ICLR 2016
       workshop track, arXiv:1604.00981.
    """

    def __init__(
        self,
        server_learning_rate: float = 1.0,
        backup_workers: int = 0,
        deadline_s: float = math.inf,
        most_empty_rounds: int = 5,
        on_lost: str = GO_ON,
        devices: int | None = None,
    ) -> None:
        super().__init__(server_learning_rate, devices)
        check_whole("backup_workers", backup_workers, 0)
        check_number("deadline_s", deadline_s, above_zero=True, infinite=True)
        check_whole("most_empty_rounds", most_empty_rounds, 1)
        if on_lost not in (GO_ON, WAIT):
            raise ValueError(f"on_lost = {on_lost!r}: accepted: {GO_ON}, {WAIT}")
        if devices is not None:
            _check_backups(backup_workers, devices)
        self.backup_workers = int(backup_workers)
        self.deadline_s = deadline_s
        self.most_empty_rounds = int(most_empty_rounds)
        self.on_lost = on_lost
        self._updates: dict[int, Vector] = {}
        self._excused: set[int] = set()
        self._begun = 0.0
        self._empty_rounds = 0
        self._over = False

    def begin(self, run: ServerRun) -> None:
        """Forget what an earlier run left."""
        _check_backups(self.backup_workers, run.workers)
        self._updates, self._excused = {}, set()
        self._begun, self._empty_rounds, self._over = run.now, 0, False

    def may_begin(self, run: ServerRun, node: int) -> bool:
        """Once a round."""
        return node not in self._updates and node not in self._excused

    def wakes(self, run: ServerRun) -> bool:
        """When a round begins, or nobody has answered in it."""
        return not self._updates and not self._excused

    def receive(self, run: ServerRun, work: Work, update: Vector) -> str:
        """Kept for the step, or dropped."""
        if work.round != run.round:
            return LATE
        self._updates[work.node] = update
        return ACCEPTED

    def deadline(self, run: ServerRun) -> float:
        """Of the round."""
        return self._begun + self.deadline_s

    def expire(self, run: ServerRun) -> None:
        """The round ends with whom is there."""
        self._over = True

    def give_up(self, run: ServerRun, node: int) -> None:
        """Who brings nothing is not asked again in this round, or is waited for."""
        if self.on_lost == GO_ON:
            self._excused.add(node)

    def round_is_over(self, run: ServerRun) -> bool:
        """Whether enough updates are there, or no more will come."""
        if not self._over:
            wanted = run.workers - max(self.backup_workers, len(run.out))
            there = len(self._updates)
            if there < wanted and self.on_lost == GO_ON:
                wanted = min(wanted, there + run.may_still_come())
            if not there and not run.may_still_come():
                self._excused.clear()  # all of them have been given up: ask them again
            if not there or there < wanted:
                return False
        self._step(run)
        return True

    def _step(self, run: ServerRun) -> None:
        for node in run.too_long(self._updates):
            del self._updates[node]
        if self._updates:
            total = np.zeros(run.x.shape)
            for node in sorted(self._updates):  # one after the other: no copy of all of them
                total += self._updates[node]
            run.x = (run.x + self.server_learning_rate * (total / len(self._updates))).astype(run.x.dtype)
            run.version += 1
        self._empty_rounds = 0 if self._updates else self._empty_rounds + 1
        if self._empty_rounds >= self.most_empty_rounds:
            run.stop(self._why_empty(run))
        self._updates, self._excused = {}, set()
        self._begun, self._over = run.now, False

    def _why_empty(self, run: ServerRun) -> str:
        quickest = "nothing has arrived" if math.isinf(run.quickest) else f"the quickest reply took {run.quickest:g} s"
        return (
            f"{self._empty_rounds} rounds in a row were empty with deadline_s = {self.deadline_s:g}: {quickest}; "
            "accepted: a longer deadline, fewer local steps, or another system"
        )

    def meet(self, run: ServerRun, joined: Iterable[int], left: Iterable[int]) -> None:
        """Who comes back may take part in the round that is on."""
        self._excused -= set(joined)

    def figures(self, run: ServerRun) -> Figures:
        """How many empty rounds there have been in a row."""
        return {"empty_rounds": self._empty_rounds}

    def memory(self) -> dict[str, Any]:
        """When the round began, the updates that are there, and who is excused."""
        return {
            "begun": self._begun,
            "empty_rounds": self._empty_rounds,
            "heard": list(self._updates),
            "updates": list(self._updates.values()),
            "excused": sorted(self._excused),
        }

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from a :meth:`memory`."""
        self._begun, self._empty_rounds = memory["begun"], memory["empty_rounds"]
        # Not in checkpoints of before they could be written within a round.
        updates = zip(memory.get("heard", ()), memory.get("updates", ()), strict=True)
        self._updates = {node: update.copy() for node, update in updates}
        self._excused = set(memory.get("excused", ()))

    def begin_anew(self, memory: Mapping[str, Any]) -> bool:
        """A round is of one set of workers: it begins anew with those who are there now."""
        return False


def _check_backups(backup_workers: int, devices: int) -> None:
    if backup_workers >= devices:
        accepted = "0" if devices == 1 else f"an integer from 0 to {devices - 1}"
        raise ValueError(f"backup_workers = {backup_workers}: there are {devices} workers; accepted: {accepted}")
