"""One run of a system without a server, on a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from channel.layout import Layout
from clients.app import Workplace
from clients.parameters import model_arrays
from fedmac.build_peers import build_peer_system, count_peers
from fedmac.clock.clocked_grid import Span
from fedmac.clock.peer_build import build_peer_clock
from fedmac.clock.peer_clock import PeerClock
from fedmac.clock.peer_training import PeerTraining
from fedmac.engines.local import LocalGrid
from fedmac.engines.superlink import EngineError
from fedmac.journal import Journal, Keeper
from fedmac.learning_task import LearningTask
from fedmac.record import RoundRecord
from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.gossip import Gossip
from strategies.peers.peer import Held, PeerSystem, Vector, held_model
from strategies.peers.simulated import consensus_distance
from strategies.peers.simulation import PeerRound, PeerSimulation
from strategies.systems.model_form import FlatModel, ModelForm


def learn_peers(task: LearningTask, grid: Grid) -> dict[str, NDArray[Any]]:
    """Run one variant whose strategy is a system of peers; result and errors are :func:`fedmac.learn.learn`'s.

    A round is one step of each peer, and the model after it the mean of their replicas, or the centre where there is
    one.
    """
    if not isinstance(grid, LocalGrid):
        raise TypeError(f"grid: a {type(grid).__name__}; accepted: the local engine's, whose devices can be peers")
    scenario, seed, past = task.scenario, task.seed, task.past
    system = build_peer_system(scenario, seed)
    spans: list[Span] = []
    clock = build_peer_clock(scenario, seed, task.workplace, spans.append)
    model = task.initial()
    form, x = ModelForm(model), initial_vector(task.workplace)
    training = PeerTraining(grid.team, task.label)
    simulation = PeerSimulation(
        system,
        training,
        [Held(x)] * count_peers(scenario),
        scenario.rounds,
        clock,
        scenario.engine.round_timeout_s,
    )
    journal = Journal(task, mixing_record(system))
    after_round = Keeper(task, simulation, journal)
    if past is None:
        after_round(0, model)
        simulation.begin()
    else:
        if "replicas" in past.state:
            raise EngineError('engine.kind = "local": the run was begun in real time; accepted: "collective"')
        journal.restore(past.journal)
        simulation.restore(past.state)
    with closing(simulation):
        for over in _rounds(simulation):
            figures = _figures(over, simulation, clock, training, scenario.data.devices)
            if scenario.devices is not None and scenario.devices.spans:
                figures["spans"] = [list(span) for span in spans]
                spans.clear()
            model = FlatModel(form, model_of(over.held, simulation))
            journal.note_iteration(figures)
            after_round(over.number, model)
    return {name: array.numpy() for name, array in model.items()}


def _rounds(simulation: PeerSimulation) -> Iterator[PeerRound]:
    """All rounds; where the run stops early one more, of nobody."""
    while (over := simulation.next_round()) is not None:
        yield over
    if simulation.stopped is not None:
        yield PeerRound(simulation.round + 1, {})


def _figures(
    over: PeerRound, simulation: PeerSimulation, clock: PeerClock, training: PeerTraining, devices: int
) -> dict[str, Any]:
    """What a round tells; see docs/systems.md."""
    figures = {"connected": len(simulation.connected & set(range(devices)))} | round_figures(over.held)
    figures |= counts(simulation) | clock.used(simulation.now).record()
    if (loss := training.mean_loss(over.number)) is not None:
        figures["train_loss"] = loss
    if simulation.stopped is not None:
        figures["stopped"] = simulation.stopped
    return figures


def counts(simulation: PeerSimulation) -> dict[str, Any]:
    """Messages so far, and what went wrong with them; peers that were cut off since the last time."""
    failures = [{"device": peer, "reason": reason} for peer, reason in simulation.failures]
    simulation.failures.clear()
    return {
        "messages": sum(peer.traffic.messages for peer in simulation.peers),
        "messages_lost": simulation.mail.lost,
        "messages_missed": simulation.mail.missed,
        "reformed": simulation.reformed,
        "failures": failures,
    }


def mixing_record(system: PeerSystem) -> RoundRecord:
    """How fast the graph mixes, where there is one, for the record of round 0."""
    return {"spectral_gap": system.spectral_gap} if isinstance(system, Gossip) else {}


def initial_vector(workplace: Workplace) -> Vector:
    """The model that all peers begin with, shape (d,)."""
    arrays = model_arrays(workplace.trainer.model)
    return np.asarray(Layout.of_arrays(arrays).flatten(arrays))


def model_of(held: Mapping[int, Held], simulation: PeerSimulation) -> Vector:
    """The model after a round, shape (d,): the centre, as it was last known, or else the mean of the replicas."""
    here = {one.number: one.held for one in simulation.peers}
    system = simulation.system
    if isinstance(system, ElasticAveraging):
        keeper = system.keeper(simulation.size)
        kept = held.get(keeper, here[keeper])
        return held_model(kept) if kept.centre is None else kept.centre
    return mean_or_centre(held or here)


def mean_or_centre(held: Mapping[int, Held]) -> Vector:
    """The centre if one of the peers keeps it, or else the mean of their replicas, shape (d,)."""
    for one in held.values():
        if one.centre is not None:
            return one.centre
    models = np.stack([one.model for one in held.values() if one.model is not None])
    return np.asarray(np.mean(models, axis=0, dtype=np.float64), dtype=models.dtype)


def round_figures(held: Mapping[int, Held]) -> dict[str, Any]:
    """How many peers took the round's step, and how far apart it left them."""
    models = [one.model for one in held.values() if one.model is not None]
    figures: dict[str, Any] = {"participants": len(models), "heard": bool(held), "empty": not held}
    if models:
        figures["consensus_distance"] = consensus_distance(np.stack(models))
    return figures
