"""Peers in one process, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from strategies.peers.peer import Held, LocalStep, PeerLost, PeerSystem, Traffic, Vector, check_peers
from strategies.peers.simulation import PeerSimulation
from strategies.peers.times import NoTime, PeerTimes
from strategies.peers.work import OneByOne


@dataclass(frozen=True)
class PeersRun:
    """What peers came to.

    Attributes
    ----------
    held : list of Held
        By peer, in the end.
    traffic : list of Traffic
        By peer.
    seconds : list of float
        By peer, when it was done.
    """

    held: list[Held]
    traffic: list[Traffic]
    seconds: list[float]

    @property
    def models(self) -> Vector:
        """The replicas of those that train, shape (workers, d)."""
        return np.stack([held.model for held in self.held if held.model is not None])


def consensus_distance(models: Vector) -> float:
    r"""How far replicas are apart: :math:`\sqrt{\frac1p \sum_k \|x_k - \bar x\|^2}` of models of shape (p, d)."""
    return float(np.sqrt(np.mean(np.sum((models - models.mean(axis=0)) ** 2, axis=1))))


def run_simulated(
    system: PeerSystem,
    local_step: LocalStep,
    initial: Vector,
    steps: int,
    times: PeerTimes | None = None,
    on_step: Callable[[int, int, float, Held], None] | None = None,
) -> PeersRun:
    """Run a system on p simulated peers.

    Events happen in the order of time; equal times break by the peer's number, then in the order in which they were
    fixed. Equal arguments give results equal to the bit.

    Parameters
    ----------
    system : PeerSystem
        What every peer runs.
    local_step : callable
        A peer's step.
    initial : ndarray of shape (p, d)
        Where each begins.
    steps : int
        How many each takes, >= 0.
    times : PeerTimes, default none passes
        Seconds of steps and messages.
    on_step : callable, optional
        Called after each step of each peer, see :class:`Peer`.

    Raises
    ------
    ValueError
        If there are too few peers, or `initial` has another shape.
    PeerLost
        If peers wait for messages that nobody will send.
    """
    if initial.ndim != 2:
        raise ValueError(f"initial has shape {initial.shape}: accepted: (p, d), where each of p peers begins")
    check_peers(len(initial))
    system.check(len(initial))
    begins = [Held(x.copy()) for x in initial]
    simulation = PeerSimulation(system, OneByOne(local_step), begins, steps, times or NoTime(), on_step=on_step)
    try:
        simulation.begin()
        while simulation.happen():
            pass
        if any(peer.runs for peer in simulation.peers):
            raise PeerLost(f"nothing can happen any more; {simulation.why_not()}")
    finally:
        simulation.close()
    peers = simulation.peers
    return PeersRun([peer.held for peer in peers], [peer.traffic for peer in peers], simulation.seconds)
