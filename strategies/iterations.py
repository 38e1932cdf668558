"""A run of iterations, each several exchanges with the same devices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from strategies.air_grid import AirGrid
from strategies.mean_exchange import MeanExchange, Means, Traffic, Vector

Figures = dict[str, Any]
"""What an iteration tells: JSON-ready values by name."""


class Vanished(Exception):
    """Some devices did not answer in the middle of an iteration; `nodes` are those who did."""

    def __init__(self, nodes: frozenset[int]) -> None:
        super().__init__(f"{len(nodes)} devices left")
        self.nodes = nodes


class NobodyAnswers(RuntimeError):
    """No device answered: there is no mean to go on with."""


@dataclass(frozen=True)
class Look:
    """The mean objective and gradient of `nodes` at an iterate."""

    objective: float
    gradient: Vector
    nodes: frozenset[int]

    @property
    def gradient_norm(self) -> float:
        """Of the mean gradient; infinite if it overflows."""
        with np.errstate(over="ignore"):
            return float(np.linalg.norm(self.gradient))

    @property
    def diverged(self) -> str | None:
        """Why no method can go on from here, or None if objective and gradient are finite."""
        if math.isfinite(self.objective) and bool(np.isfinite(self.gradient).all()):
            return None
        return "diverged: the objective or its gradient is not finite any more; take smaller steps"


class Iterations(ABC):
    """The iterations of one run, each with one set of devices from its beginning to its end.

    Parameters
    ----------
    name : str
        Of the method, for messages.
    exchange : MeanExchange
        Reaches the devices.
    w : ndarray of shape (d,)
        The initial model.

    Attributes
    ----------
    w : ndarray of shape (d,)
        The iterate.
    nodes : frozenset of int
        Who takes part in the iteration; after it, whose copy of the iterate is up to date.
    communication_rounds, rounds_before : int
        Broadcasts and reductions so far, and before the iteration; each is one round, however much it carries.
    stopped : bool
        Whether an iteration said that it was the last.
    """

    def __init__(self, name: str, exchange: MeanExchange, w: Vector) -> None:
        self.name = name
        self.exchange = exchange
        self.w = w
        self.nodes: frozenset[int] = frozenset()
        self.communication_rounds = 0
        self.rounds_before = 0
        self.stopped = False

    @abstractmethod
    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration with `nodes`, or None if there is nothing left to gain.

        The iterate moves only once all exchanges are made: if a device vanishes, :class:`Vanished` is raised on the
        way, and the iteration is attempted anew with those who are left. Figures with the entry ``stopped``, a text
        that says why, are those of the last iteration.
        """

    def iterate(self, iteration: int) -> Figures | None:
        """One iteration, whoever vanishes on the way; its figures, or None if there is nothing left to gain."""
        nodes = frozenset(self.exchange.grid.get_node_ids())
        self.exchange.config["server-round"] = iteration + 1
        self.rounds_before = self.communication_rounds
        while True:
            try:
                figures = self.attempt(iteration, nodes)
            except Vanished as vanished:
                nodes = vanished.nodes
            else:
                self.stopped = figures is None or "stopped" in figures
                return figures

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs after an iteration; a subclass adds what it remembers itself."""
        return {
            "w": self.w,
            "nodes": sorted(self.nodes),
            "communication_rounds": self.communication_rounds,
            "traffic": vars(self.exchange.traffic).copy(),
            "stopped": self.stopped,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` of the same iterations; without the devices' own copies no ``nodes`` are kept."""
        self.w = state["w"].copy()
        self.nodes = frozenset(state["nodes"])
        self.communication_rounds = state["communication_rounds"]
        self.exchange.traffic = Traffic(**state["traffic"])
        self.stopped = state["stopped"]

    def look(
        self,
        nodes: Collection[int],
        action: str = "gradient",
        vectors: Mapping[str, Vector] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Look:
        """Objective and gradient of all who answer; by default they get the whole model, whatever they have missed."""
        first = self.communication_rounds == 0
        vectors = {"model": self.w} if vectors is None else vectors
        means = self.exchange.ask(
            action, nodes, wanted={"gradient": 1}, scalars={"objective": 1}, vectors=vectors, config=config or {}
        )
        if not means.nodes:
            raise self._nobody(len(nodes), action, means)
        self.communication_rounds += 1 if first else 2  # all begin at the same model: nothing is broadcast
        self.nodes = means.nodes
        return Look(float(means.scalars["objective"]), means.vectors["gradient"], means.nodes)

    def look_unless_diverged(self, nodes: Collection[int], *given: Any) -> Look:
        """As :meth:`look`; where nobody has a finite gradient to send, what :meth:`monitor` says."""
        try:
            return self.look(nodes, *given)
        except NobodyAnswers:
            seen = self.monitor(nodes)
            if seen.diverged is None:
                raise
            return seen

    def monitor(self, nodes: Collection[int]) -> Look:
        """Objective and gradient at the iterate for who watches the run: exact, and outside of everything counted.

        Devices are asked over the control channel, and neither the ledger nor the traffic knows of it: no method may
        take a step by it. Unlike what an exchange brings it need not be finite.
        """
        grid = self.exchange.grid
        if isinstance(grid, AirGrid):  # it would charge for the answers
            grid = grid.grid
        aside = MeanExchange(grid, self.exchange.size, self.exchange.config, self.exchange.timeout)
        means = aside.ask("monitor", nodes, wanted={}, vectors={"model": self.w})
        if not means.nodes:
            raise self._nobody(len(nodes), "monitor", means)
        return Look(float(means.scalars["objective"]), np.atleast_1d(means.scalars["gradient"]), means.nodes)

    def ask(self, action: str, wanted: Mapping[str, int], **given: Any) -> Means:
        """An exchange with exactly those who take part in the iteration: a broadcast and a reduction.

        Raises
        ------
        Vanished
            If some of them do not answer.
        NobodyAnswers
            If none does.
        """
        means = self.exchange.ask(action, self.nodes, wanted=wanted, **given)
        self.communication_rounds += 2
        if means.nodes != self.nodes:
            if not means.nodes:
                raise self._nobody(len(self.nodes), action, means)
            raise Vanished(means.nodes)
        return means

    def _nobody(self, asked: int, action: str, means: Means) -> NobodyAnswers:
        reasons = "; ".join(means.reasons) or "nobody was heard"
        return NobodyAnswers(f"{self.name}: none of {asked} devices answered to {action!r}: {reasons}")

    def figures(self, iteration: int, look: Look, step_size: float, **more: Any) -> Figures:
        """An iteration's figures: the iterate before its step, the step, and what all iterations have cost by now."""
        norm = look.gradient_norm
        return {
            "iteration": iteration,
            "objective": look.objective if math.isfinite(look.objective) else None,
            "gradient_norm": norm if math.isfinite(norm) else None,
            "step_size": step_size,
            **more,
            "communication_rounds": self.rounds_before,
            **self.traffic(),
        }

    def traffic(self) -> Figures:
        """What has gone over the links of one device so far."""
        return {name: count for name, count in vars(self.exchange.traffic).items() if name != "exchanges"}
