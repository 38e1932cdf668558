"""What the systems of a server and its workers have in common: rules that say who works, and what an arrival does."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from strategies.mean_exchange import Vector
from strategies.own_rounds import OwnRounds
from strategies.trust import Trust

if TYPE_CHECKING:
    from strategies.systems.coded_updates import CodedUpdates
    from strategies.systems.server_run import ServerRun
    from strategies.systems.work import Work

Figures = dict[str, Any]
"""What a round tells: JSON-ready values by name; see docs/systems.md."""

ACCEPTED, REJECTED, LATE = "accepted", "rejected", "late"
"""What becomes of an update: it moves the model, is too stale, or belongs to a round that is over."""


class ServerSystem(OwnRounds):
    """A server that gives its workers the model, and moves it by the updates that come back.

    A worker's message is the usual training message with the server's model, and its reply the model after the steps
    of the training table; the update is their difference. With :attr:`coding` the reply is the update's packet. What a
    subclass says is who may begin when, and what an update does. :class:`~strategies.systems.server_run.ServerRun`
    does the rest, by push and pull and without a barrier, on any Grid: on one with a simulated clock, or over a
    network in real time.

    Parameters
    ----------
    server_learning_rate : float
        By what updates are multiplied, > 0.
    devices : int, optional
        p, how many workers there are; without it as many as are connected at the start.

    Attributes
    ----------
    on_round : callable or None
        Called with each round's figures before the model is evaluated.
    on_keep : callable or None
        Called after every `keep_every` replies, when the rules are through with them, with whether a round has just
        ended; :meth:`state` is then that of this moment.
    keep_every : float
        Replies of any fate from one such call to the next, counted from the beginning of the run.
    run : ServerRun or None
        The run in progress; None before :meth:`start`.
    concurrency : float
        How many workers are at work at a time, at most; who has waited longest goes next.
    coding : CodedUpdates or None
        How workers send their updates; None for plain models.
    trust : Trust
        How far workers are believed. All count alike, so that shares of weights play no part.
    numbers : mapping of int to int
        The device of each node; one that is not there goes by its own number.

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """

    weighted_by_key = "num-examples"
    on_round: Callable[[Figures], None] | None = None
    on_keep: Callable[[bool], None] | None = None
    keep_every: float = math.inf
    run: ServerRun | None = None
    concurrency: float = math.inf
    coding: CodedUpdates | None = None
    trust: Trust = Trust()
    numbers: Mapping[int, int] = MappingProxyType({})
    _past: tuple[int, Mapping[str, Any]] | None = None

    def __init__(self, server_learning_rate: float = 1.0, devices: int | None = None) -> None:
        check_number("server_learning_rate", server_learning_rate, above_zero=True)
        if devices is not None:
            check_whole("devices", devices, 1)
        self.server_learning_rate = server_learning_rate
        self.devices = devices

    # What a subclass says. `x` and `version` of the run are its to change.

    @abstractmethod
    def receive(self, run: ServerRun, work: Work, update: Vector) -> str:
        """What an arrival does: ``accepted``, ``rejected`` or ``late``. Called once for each usable update."""

    def may_begin(self, run: ServerRun, node: int) -> bool:
        """Whether an idle worker gets the model now; one that does not waits until :meth:`wakes` says so."""
        return True

    def wakes(self, run: ServerRun) -> bool:
        """Whether those who wait are to be asked again; called after every event."""
        return False

    def round_is_over(self, run: ServerRun) -> bool:
        """Whether a round ends here; called after every event. By default p arrivals, about the work of one round."""
        return run.arrived >= run.workers

    def deadline(self, run: ServerRun) -> float:
        """When :meth:`expire` is to be called (s)."""
        return math.inf

    def expire(self, run: ServerRun) -> None:
        """The deadline has passed."""

    def give_up(self, run: ServerRun, node: int) -> None:
        """A worker has not answered in time, or with nothing usable; it is idle again."""

    def meet(self, run: ServerRun, joined: Iterable[int], left: Iterable[int]) -> None:
        """Workers have come and gone, or are in quarantine from now on (as gone) or no more."""

    def figures(self, run: ServerRun) -> Figures:
        """What a round tells beside what every system tells."""
        return {}

    def memory(self) -> dict[str, Any]:
        """What the rules remember between two events, as plain values; see :meth:`remember`."""
        return {}

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Go on from a :meth:`memory`."""

    def begin_anew(self, memory: Mapping[str, Any]) -> bool:
        """Go on from a :meth:`memory` with workers that all begin anew; whether the round that was on goes on."""
        return True

    def begin(self, run: ServerRun) -> None:
        """Forget what an earlier run left; called by :meth:`start`.

        Raises
        ------
        ValueError
            If the parameters do not go with the number of workers.
        """

    # What a Flower strategy has.

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run until `num_rounds` rounds are over, or nothing is to come; the parameters of ``Strategy.start``.

        A worker that does not answer for `timeout` seconds is given up and, if it is still connected, asked anew.
        Workers get the entry ``server-round`` with each message: the number of their own step, which names the
        examples that they draw.
        """
        from strategies.systems.server_run import ServerRun

        self.run = ServerRun(self, grid, initial_arrays, train_config or ConfigRecord(), timeout)
        if self._past is not None:
            self.run.mailbox.go_on_at(self._past[1].get("now", 0.0))
        self.begin(self.run)
        if self._past is not None:
            self.run.restore(*self._past)
        return self.run.perform(num_rounds, evaluate_fn)

    def state(self) -> dict[str, Any]:
        """What the run in progress remembers between two events; see :meth:`go_on_from`."""
        return {} if self.run is None else self.run.state()

    def go_on_from(self, round: int, state: Mapping[str, Any]) -> None:
        """Let :meth:`start` begin where a :meth:`state` of another run was taken: after this round, or in the next.

        On a simulated clock that is given its own state too, the run goes on as that one would have; over a network
        workers are sent the model anew, and the round that was on goes on unless the rules begin it anew.
        """
        self._past = (round, state)


def staleness_weight(staleness: int, exponent: float) -> float:
    """c(s) = (1 + s)^-q; 1 for q = 0."""
    return float((1.0 + staleness) ** -exponent)


def check_number(name: str, value: float, *, above_zero: bool = False, infinite: bool = False) -> None:
    """Refuse what is no number >= 0 (> 0), finite unless `infinite`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value > 0 if above_zero else value >= 0) or not (infinite or value < math.inf):
        kind = "number" if infinite else "finite number"
        raise ValueError(f"{name} = {value!r}: accepted: a {kind} {'> 0' if above_zero else '>= 0'}")


def check_whole(name: str, value: float, least: int, *, infinite: bool = False) -> None:
    """Refuse what is no whole number from `least` up, or infinity if `infinite`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if infinite and number and value == math.inf:
        return
    if not number or not least <= value < math.inf or value != int(value):
        raise ValueError(f"{name} = {value!r}: accepted: an integer >= {least}{', or infinity' if infinite else ''}")
