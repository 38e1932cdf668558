"""A run of a server and its workers: who works at what, what arrives, and when a round is over."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from channel.order import ORDER_KEY
from strategies.mean_exchange import Vector
from strategies.refusal import NO_REPLY, BadPayload, Failure
from strategies.systems.mailbox import Mailbox
from strategies.systems.model_form import FlatModel, ModelForm
from strategies.systems.round_figures import RoundFigures
from strategies.systems.server_system import Figures, ServerSystem
from strategies.systems.timed import Standstill
from strategies.systems.update import read_update
from strategies.systems.work import AtWork, Work, kept_work, work_from
from strategies.systems.worker_trust import WorkerTrust
from strategies.wire import Wire

PATIENCE = 10
"""So many times in a row every worker may fail or be given up, with no update heard, before the run ends."""


class ServerRun:
    """The state of a run, and its loop.

    Parameters
    ----------
    system : ServerSystem
        The rules.
    grid : Grid
        Reaches the workers.
    initial : ArrayRecord
        The model.
    config : ConfigRecord
        Goes with every message.
    timeout : float
        Seconds after which a worker is given up.

    Attributes
    ----------
    x : ndarray of shape (d,)
        The model; replaced, never changed in place, so that those at work keep theirs.
    version : int
        How many times it has moved.
    round : int
        Rounds that are over.
    replies : int
        That have come since the run began, whatever became of them.
    workers : int
        p.
    nodes : set of int
        Who is connected.
    working : AtWork
        What workers are at.
    waiting : set of int
        Idle workers that may not begin yet.
    out : set of int
        Workers that are in quarantine: connected, idle, and to the system as gone.
    stopped : str or None
        Why the run ended before its rounds were over.
    wire : Wire
        What messages have weighed, in real time.
    """

    def __init__(
        self, system: ServerSystem, grid: Grid, initial: ArrayRecord, config: ConfigRecord, timeout: float
    ) -> None:
        self.system = system
        self.grid = grid
        self.mailbox = Mailbox(grid)
        self.form = ModelForm(initial)
        self.config = config
        self.timeout = timeout
        self.x: Vector = self.form.layout.flatten({name: array.numpy() for name, array in initial.items()})
        self.version = 0
        self.round = 0
        self.replies = 0
        self.nodes: set[int] = set()
        self.working = AtWork()
        self.waiting: set[int] = set()
        self.out: set[int] = set()
        self.trust = WorkerTrust(system.trust, system.numbers)
        self.stopped: str | None = None
        self.quickest = math.inf
        self._idle: list[int] = []
        self._steps: dict[int, int] = {}
        self._queue: deque[int] = deque()
        self._order: deque[str] = deque()
        self._fruitless = 0
        self._record: tuple[int, ArrayRecord] | None = None
        self.figures = RoundFigures()
        self.wire = Wire()
        self._meet()
        self.workers = system.devices or len(self.nodes)
        if not self.workers:
            raise ValueError("grid: no worker is connected; accepted: at least one, or the system's devices")

    @property
    def now(self) -> float:
        """Seconds since the run began, by the grid's clock."""
        return self.mailbox.now

    @property
    def arrived(self) -> int:
        """Updates that have come in this round, whatever became of them."""
        return self.figures.arrived

    def perform(self, rounds: int, evaluate: Callable[[int, ArrayRecord], MetricRecord | None] | None) -> Result:
        """Go on until `rounds` rounds are over; `evaluate` is called after each, and before the first."""
        result = Result()

        def note() -> None:
            result.arrays = self.model()
            metrics = evaluate(self.round, result.arrays) if evaluate else None
            if metrics is not None:
                result.evaluate_metrics_serverapp[self.round] = metrics

        if self.round == 0 and self.replies == 0:  # else it was noted before the run was killed
            note()
        keep_at = self._next_keep()
        while self.round < rounds and self.stopped is None:
            self._give_work()
            self._wait()
            self._give_up_the_silent()
            self._meet()
            self._leave_out()
            if over := self.stopped is not None or self.system.round_is_over(self):
                self._close_round()
                note()
            if self.replies >= keep_at:
                keep_at = self._next_keep()
                self._keep(over)
        return result

    def _next_keep(self) -> float:
        """After how many replies the state is to be kept next."""
        every = self.system.keep_every
        return (self.replies // every + 1) * every

    def _keep(self, over: bool) -> None:
        if self.system.on_keep is not None:
            self.system.on_keep(over)

    def model(self) -> ArrayRecord:
        """The model as Flower's record; the same one until the model moves."""
        if self._record is None or self._record[0] != self.version:
            here = self.mailbox.timed is not None
            self._record = self.version, FlatModel(self.form, self.x) if here else self.form.pack(self.x)
        return self._record[1]

    def may_still_come(self) -> int:
        """How many updates for the present round are being worked at, or about to be."""
        return self.working.of_round[self.round] + sum(self.system.may_begin(self, node) for node in self._idle)

    def too_long(self, updates: Mapping[int, Vector]) -> list[int]:
        """Nodes whose updates, accepted in this round, are beyond belief beside each other; they count as refused."""
        failures = self.trust.too_long(updates)
        for failure in failures:
            self.figures.withdraw(failure)
            self.trust.judge(self.round + 1, failure, self.nodes - self.out)
        return [failure.device for failure in failures]

    def stop(self, reason: str) -> None:
        """End the run after this event."""
        self.stopped = reason

    def _give_work(self) -> None:
        if self.waiting and self.system.wakes(self):
            self._idle += self.waiting
            self.waiting.clear()
            self._leave_out()
        for node in sorted(set(self._idle)):
            (self._queue.append if self.system.may_begin(self, node) else self.waiting.add)(node)
        self._idle.clear()
        room = min(len(self._queue), self.system.concurrency - len(self.working))
        if room <= 0:
            return
        chosen = sorted(self._queue.popleft() for _ in range(int(room)))
        messages = [self._message(node) for node in chosen]
        if self.mailbox.timed is None:
            self.wire.count(messages, ())
        ids = list(self.grid.push_messages(messages))
        for node, message_id in zip(chosen, ids, strict=True):
            work = Work(node, self._steps[node], self.version, self.round, self.now, self.x)
            self.working.add(message_id, work)
            self._order.append(message_id)

    def _leave_out(self) -> None:
        """Of idle workers those in quarantine, as long as somebody else is connected who is not."""
        over = self.round + 1
        bad = [node for node in set(self._idle) if self.trust.out(node, over) is not None]
        if not bad or all(self.trust.out(node, over) is not None for node in self.nodes):
            return
        self.out.update(bad)
        self._idle = [node for node in self._idle if node not in self.out]
        self.system.meet(self, (), sorted(bad))

    def _take_back(self, nodes: set[int]) -> None:
        """Whose quarantine is over is as one who joins."""
        self.out -= nodes
        self._idle += sorted(nodes)
        if nodes:
            self.system.meet(self, sorted(nodes), ())

    def _message(self, node: int) -> Message:
        step = self._steps[node] = self._steps.get(node, 0) + 1
        config = ConfigRecord({**self.config, "server-round": step})
        content = RecordDict({"arrays": self.model(), "config": config})
        if self.system.coding is not None:
            content[ORDER_KEY] = self.system.coding.record(node, step)
        return self.grid.create_message(content, MessageType.TRAIN, node, str(self.round + 1))

    def _wait(self) -> None:
        """For one reply, a deadline, somebody who comes or goes, or the end of somebody's time."""
        deadline, silent = self.system.deadline(self), self._next_silent()
        try:
            reply = self.mailbox.next(self.working.keys(), min(deadline, silent))
        except Standstill as error:
            self.stop(str(error))
            return
        if reply is not None:
            self._take(reply)
        elif self.now >= deadline:
            self.system.expire(self)

    def _take(self, reply: Message) -> None:
        self.replies += 1
        if self.mailbox.timed is None:
            self.wire.count((), [reply])
        answered = reply.metadata.reply_to_message_id
        work = self.working.take(answered) if answered in self.working else None
        if work is None or (reply.has_content() and reply.metadata.src_node_id != work.node):
            self.figures.strays += 1
            return
        self.quickest = min(self.quickest, self.now - work.begun)
        try:
            update = self._update(reply, work)
            self.trust.check(work.node, update)
        except BadPayload as bad:
            if bad.kind == NO_REPLY:  # the grid speaks for a worker that is gone: asked again, it would say so at once
                self.mailbox.look_again()
            self._go_without(Failure(work.node, str(bad), bad.kind))
            return
        self._fruitless = 0
        self._idle.append(work.node)
        staleness = self.version - work.version
        self.figures.take(reply, self.system.receive(self, work, update), staleness)

    def _update(self, reply: Message, work: Work) -> Vector:
        if self.system.coding is not None:
            return self.system.coding.read(reply, self.form, work.node, work.step)
        return read_update(reply, self.form, work.sent)

    def _next_silent(self) -> float:
        while self._order and self._order[0] not in self.working:
            self._order.popleft()
        return self.working[self._order[0]].begun + self.timeout if self._order else math.inf

    def _give_up_the_silent(self) -> None:
        while self._next_silent() <= self.now:
            work = self.working.take(self._order.popleft())
            self._go_without(Failure(work.node, f"no reply in {self.timeout:g} s", NO_REPLY))

    def _go_without(self, failure: Failure) -> None:
        """A worker has brought nothing; it is idle again."""
        self.figures.fail(failure)
        self.trust.judge(self.round + 1, failure, self.nodes - self.out)
        self._idle.append(failure.device)
        self.system.give_up(self, failure.device)
        self._fruitless += 1
        if self._fruitless > PATIENCE * max(1, len(self.nodes - self.out)):
            self.stop(f"{self._fruitless} times in a row a worker brought nothing, the last one: {failure.reason}")

    def _meet(self) -> None:
        nodes = self.mailbox.nodes()
        if nodes is None or nodes == self.nodes:
            return
        joined, left = sorted(nodes - self.nodes), self.nodes - nodes
        self.nodes = set(nodes)
        for message_id in [i for i, work in self.working.items() if work.node in left] if left else ():
            self.figures.fail(Failure(self.working.take(message_id).node, "disconnected while at work", NO_REPLY))
        self.waiting -= left
        self._queue = deque(node for node in self._queue if node not in left)
        self._idle = [node for node in self._idle if node not in left] + joined
        self.system.meet(self, joined, sorted(left - self.out))
        self.out -= left
        if self.out and all(self.trust.out(node, self.round + 1) is not None for node in self.nodes):
            self._take_back(set(self.out))

    def _close_round(self) -> None:
        self.round += 1
        figures: Figures = {"model_version": self.version, "connected": len(self.nodes)}
        figures |= self.wire.figures() | self.figures.told() | self.system.figures(self)
        figures |= self.trust.figures(self.out, self.round)
        if self.stopped is not None:
            figures["stopped"] = self.stopped
        self.figures = RoundFigures()
        self._take_back({node for node in self.out if self.trust.out(node, self.round + 1) is None})
        if self.system.on_round is not None:
            self.system.on_round(figures)

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs between two events."""
        return {
            "x": self.x,
            "version": self.version,
            "now": self.now,
            "replies": self.replies,
            "wire": [self.wire.down, self.wire.up],
            "workers": self.workers,
            "nodes": sorted(self.nodes),
            "waiting": sorted(self.waiting),
            "out": sorted(self.out),
            "trust": self.trust.state(),
            "idle": sorted(self._idle),
            "queue": list(self._queue),
            "steps": [list(item) for item in sorted(self._steps.items())],
            "fruitless": self._fruitless,
            "quickest": None if math.isinf(self.quickest) else self.quickest,
            "stopped": self.stopped,
            "figures": self.figures.state(),
            "system": self.system.memory(),
        } | kept_work(self.working)

    def restore(self, round: int, state: Mapping[str, Any]) -> None:
        """Go on after `round` from a :meth:`state`; without a clock of its own the grid's workers begin anew."""
        self.round = round
        self.x = state["x"].copy()
        self.version, self.workers = state["version"], state["workers"]
        self._steps = {int(node): int(step) for node, step in state["steps"]}
        self.quickest = math.inf if state["quickest"] is None else state["quickest"]
        self._record = None
        # What older versions did not keep is as at the beginning of a round: nobody in quarantine, nothing counted.
        self.replies, self.stopped = state.get("replies", 0), state.get("stopped")
        self.wire = Wire(*state.get("wire", ()))
        if "trust" in state:
            self.trust.restore(state["trust"])
        figures = RoundFigures.kept(state["figures"]) if "figures" in state else RoundFigures()
        if self.mailbox.timed is None:
            if self.system.begin_anew(state["system"]):
                self.figures = figures
            self._leave_out()
            return
        self.figures = figures
        self.nodes, self.waiting = set(state["nodes"]), set(state["waiting"])
        self.out = set(state.get("out", ()))
        self._idle, self._queue = list(state["idle"]), deque(state["queue"])
        self._fruitless = state["fruitless"]
        self.working = work_from(state)
        self._order = deque(self.working)
        self.system.remember(state["system"])
