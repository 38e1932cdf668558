"""Servers and their workers in scenarios/scaling.py: rules, clock and steps of `fedmac run`, without its messages.

Flower's messages are nine tenths of what a run of so small a model costs. Here a message is a model and a number. The
strategies, the clock and the order of all that happens are the classes that `fedmac run` uses, and so are the figures,
to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType
from scaling_learning import Learning

from fedmac.clock.build_clock import build_fleet, build_network
from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.order import Order, id_of
from fedmac.scenario import Scenario
from fedmac.scenario_clock import DevicesSection
from strategies.names import STRATEGIES
from strategies.peers.peer import Vector
from strategies.systems.server_run import ServerRun
from strategies.systems.server_system import ACCEPTED, LATE


class Sent:
    """A model on its way to a worker, for its step of this number; has of a message what the clock looks at."""

    def __init__(self, node: int, step: int, model: Vector) -> None:
        self.metadata = SimpleNamespace(dst_node_id=node, message_type=MessageType.TRAIN)
        self.content: dict[str, Any] = {}
        self.node, self.step, self.model = node, step, model


@dataclass(frozen=True)
class Trained:
    """The model after it."""

    number: int
    model: Vector


class QuietGrid(ClockedGrid):
    """The simulated clock, with :class:`Sent` for messages.

    Parameters
    ----------
    scenario : Scenario
        Has the tables of the clock.
    learning : Learning
        What devices compute.
    """

    def __init__(self, scenario: Scenario, learning: Learning) -> None:
        workers = scenario.data.devices
        super().__init__(
            SimpleNamespace(get_node_ids=lambda: list(range(workers))),  # type: ignore[arg-type]
            build_fleet(scenario.devices or DevicesSection(), workers, learning.seed),
            build_network(scenario, learning.seed),
            learning.flops,
        )
        self.bits = 8.0 * learning.initial.nbytes
        self.learning = learning
        self._devices = self  # type: ignore[assignment]

    def _bits_of(self, message: Any) -> float:
        return self.bits

    def answer(self, orders: Sequence[Order]) -> None:
        """Let devices take their steps."""
        for order in orders:
            sent: Any = order.message
            trained: Any = Trained(order.number, self.learning.step(sent.node, sent.step, sent.model))
            order.reply = trained


class QuietRun(ServerRun):
    """A run of a server and its workers with such messages."""

    def _message(self, node: int) -> Message:
        step = self._steps[node] = self._steps.get(node, 0) + 1
        message: Any = Sent(node, step, self.x)
        return message  # type: ignore[no-any-return]

    def _take(self, reply: Any) -> None:
        work = self.working.take(id_of(reply.number))
        self.quickest = min(self.quickest, self.now - work.begun)
        self._idle.append(work.node)
        staleness = self.version - work.version
        verdict = self.system.receive(self, work, reply.model - work.sent)
        self.figures.verdicts[verdict] += 1
        if verdict != LATE:
            self.figures.staleness[staleness] += 1


def run_server(scenario: Scenario, learning: Learning, reached: Callable[[int, Vector], bool]) -> dict[str, Any]:
    """Run a system of a server until `reached` says so of a round's model; what it took, from the clock and the rules.

    Parameters
    ----------
    scenario : Scenario
        Without variants.
    learning : Learning
        Of its devices, at its learning rate.
    reached : callable
        Called with each round's number and model.
    """
    system = STRATEGIES[scenario.strategy.name].load()(devices=scenario.data.devices, **scenario.strategy.parameters)
    grid = QuietGrid(scenario, learning)
    initial = ArrayRecord({name: Array(array) for name, array in learning.arrays.items()})
    run = system.run = QuietRun(system, grid, initial, ConfigRecord(), scenario.engine.round_timeout_s)
    rounds: list[dict[str, Any]] = []
    system.on_round = rounds.append
    system.begin(run)

    def note(number: int, _: ArrayRecord) -> None:
        if number and reached(number, run.x):
            run.stop("the target is reached")

    run.perform(scenario.rounds, note)
    staleness: list[int] = []
    for counts in (one["staleness"] for one in rounds):
        staleness += [0] * (len(counts) - len(staleness))
        for place, count in enumerate(counts):
            staleness[place] += count
    taken = {name: sum(one[name] for one in rounds) for name in (ACCEPTED, "rejected")}
    return grid.used().record() | {"staleness": staleness, "rejected": taken["rejected"] / max(1, sum(taken.values()))}
