"""Systems without a server in scenarios/scaling.py, simulated as by `fedmac run`.

The ring's models are those of the synchronous server, to rounding, and what a round of it takes does not depend on
them: the models come from steps on the rows of all workers, and the clock from as many simulated rounds as are
affordable, as 2 p (p - 1) messages go round in each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaling_learning import Learning

from fedmac.build_peers import build_peer_system, count_peers
from fedmac.clock.peer_build import build_peer_clock
from fedmac.learn_peers import model_of, round_figures
from fedmac.scenario import Scenario
from strategies.peers.peer import Held, LocalStep, Vector
from strategies.peers.simulation import PeerSimulation
from strategies.peers.work import OneByOne

RING = "ring-all-reduce"
MOST_MESSAGES = 20_000
"""Of the ring's simulated rounds together, beyond the first."""


def run_peers(scenario: Scenario, learning: Learning, reached: Callable[[int, Vector], bool]) -> dict[str, Any]:
    """Run a system of peers until `reached` says so of a round's model; what it took, from the clock."""
    if scenario.strategy.name == RING:
        return _run_ring(scenario, learning, reached)
    simulation, used = _simulated(scenario, learning, learning.step, scenario.rounds)
    figures: dict[str, Any] = {}
    while (over := simulation.next_round()) is not None:
        figures = round_figures(over.held)
        if reached(over.number, model_of(over.held, simulation)):
            break
    return used() | {"consensus_distance": figures["consensus_distance"]}


def _simulated(
    scenario: Scenario, learning: Learning, step: LocalStep, rounds: int
) -> tuple[PeerSimulation, Callable[[], dict[str, Any]]]:
    clock = build_peer_clock(scenario, learning.seed, learning.work)
    begins = [Held(learning.initial)] * count_peers(scenario)
    simulation = PeerSimulation(
        build_peer_system(scenario, learning.seed), OneByOne(step), begins, rounds, clock,
        scenario.engine.round_timeout_s,
    )  # fmt: skip
    simulation.begin()
    return simulation, lambda: clock.used(simulation.now).record()


def _run_ring(scenario: Scenario, learning: Learning, reached: Callable[[int, Vector], bool]) -> dict[str, Any]:
    p, x, rounds = scenario.data.devices, learning.initial, 0
    while rounds < scenario.rounds:
        rounds += 1
        x = learning.mean_step(p, rounds, x)
        if reached(rounds, x):
            break
    timed = min(rounds, max(1, MOST_MESSAGES // (2 * p * (p - 1))))
    simulation, used = _simulated(scenario, learning, lambda peer, step, x: x, timed + 1)  # others go on meanwhile
    while (over := simulation.next_round()) is not None and over.number < timed:
        pass
    told = used()
    for key in (key for key in told if not key.startswith("utilisation")):
        told[key] *= rounds / timed
    return told | {"consensus_distance": 0.0}
