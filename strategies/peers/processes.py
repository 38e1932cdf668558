"""Peers as processes on this machine."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from strategies.peers.collective import CollectivePeer, joined, run_as_peer
from strategies.peers.peer import Held, LocalStep, PeerLost, PeerSystem, Traffic, Vector, check_peers
from strategies.peers.simulated import PeersRun

T = TypeVar("T")


def run_processes(
    system: PeerSystem, local_step: LocalStep, initial: Vector, steps: int, timeout_s: float = 60.0
) -> PeersRun:
    """Run a system on p processes of this machine; parameters as of :func:`strategies.peers.simulated.run_simulated`.

    The iterates are those of a simulation without jitter, to the bit. System and step must be picklable.

    Raises
    ------
    ValueError
        If there are too few peers, or `initial` has another shape.
    PeerLost
        If a process ends early, fails, or does not answer within `timeout_s`.
    """
    if initial.ndim != 2:
        raise ValueError(f"initial has shape {initial.shape}: accepted: (p, d), where each of p peers begins")
    check_peers(len(initial))
    system.check(len(initial))
    told = start_peers(partial(_run, system, initial, steps), local_step, len(initial), timeout_s)
    return PeersRun([held for held, _, _ in told], [traffic for _, traffic, _ in told], [end for _, _, end in told])


def start_peers(
    work: Callable[[CollectivePeer], T], local_step: LocalStep, peers: int, timeout_s: float = 60.0
) -> list[T]:
    """Start processes that join each other and do the same work, each as a peer of its own.

    They find each other through a file, and not at a port that another program could take meanwhile. Each computes with
    one thread. When one ends early or fails, the others are ended too.

    Parameters
    ----------
    work : callable
        What each does; picklable, and so is what it returns.
    local_step : callable
        A peer's step, picklable.
    peers : int
        How many, >= 2.
    timeout_s : float, default 60
        How long a peer waits for another (s), > 0.

    Returns
    -------
    list
        What they returned, by peer.

    Raises
    ------
    ValueError
        If there are fewer than two peers.
    PeerLost
        As of :func:`run_processes`.
    """
    check_peers(peers)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        given = (peers, folder, work, local_step, timeout_s)
        context: ProcessContext = start_processes(_peer, given, peers, join=False, daemon=True)  # type: ignore[no-untyped-call]
        try:
            _wait(context)
        finally:
            for process in context.processes:
                process.kill()
                process.join()
        return [pickle.loads(_told(folder, number).read_bytes()) for number in range(peers)]


def _wait(context: ProcessContext) -> None:
    """Wait for all; at the first failure say whose it was."""
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        ending = error.signal_name or f"exit code {error.exit_code}"
        raise PeerLost(f"the process of peer {error.error_index} ended with {ending}") from error
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise PeerLost(f"peer {error.error_index} failed: {reason}") from error


def _peer(
    number: int, peers: int, folder: str, work: Callable[[CollectivePeer], object], step: LocalStep, timeout_s: float
) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    meeting = Path(folder, "meeting").as_uri()
    with joined(step, timeout_s, meeting=meeting, number=number, peers=peers) as peer:
        told = work(peer)
    _told(folder, number).write_bytes(pickle.dumps(told))


def _told(folder: str, number: int) -> Path:
    """Where a process leaves what its work returned; only this program's own processes write there."""
    return Path(folder, f"told-{number}")


def _run(system: PeerSystem, initial: Vector, steps: int, peer: CollectivePeer) -> tuple[Held, Traffic, float]:
    """One peer's part of a run."""
    held = run_as_peer(system, peer, initial[peer.number], steps)
    return held, peer.traffic, peer.now
