"""Peers as processes on this machine."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

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

POLL_SECONDS = 0.05
"""Between two looks at what processes have returned."""


def run_processes(
    system: PeerSystem,
    local_step: LocalStep,
    initial: Vector,
    steps: int,
    timeout_s: float = 60.0,
    device: str | None = None,
) -> PeersRun:
    """Run a system on p processes of this machine.

    Parameters are those of :func:`strategies.peers.simulated.run_simulated` and :func:`start_peers`; system and step
    must be picklable. The iterates are those of a simulation without jitter, on CPUs to the bit.

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
    told = start_peers(partial(_run, system, initial, steps), local_step, len(initial), timeout_s, device)
    return PeersRun([held for held, _, _ in told], [traffic for _, traffic, _ in told], [end for _, _, end in told])


def start_peers(
    work: Callable[[CollectivePeer], T],
    local_step: LocalStep,
    peers: int,
    timeout_s: float = 60.0,
    device: str | None = None,
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
    device : {"cuda", "cpu"}, optional
        As of :func:`~strategies.peers.collective.joined`; of several GPUs each peer takes the next.

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
    pipes = [multiprocessing.get_context("spawn").Pipe(duplex=False) for _ in range(peers)]
    ours, theirs = [ours for ours, _ in pipes], [theirs for _, theirs in pipes]
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        given = (peers, folder, theirs, work, local_step, timeout_s, device)
        context: ProcessContext = start_processes(_peer, given, peers, join=False, daemon=True)  # type: ignore[no-untyped-call]
        try:
            for end in theirs:
                end.close()
            told = _wait(context, ours)
        finally:
            for process in context.processes:
                process.kill()
                process.join()
            for end in ours:
                end.close()
    return [told[number] for number in range(peers)]


def _wait(context: ProcessContext, ends: Sequence[Connection]) -> dict[int, Any]:
    """Wait for all, and read what they return as it comes; at the first failure say whose it was."""
    told: dict[int, Any] = {}
    try:
        ended = False
        while not ended:
            ended = context.join(timeout=POLL_SECONDS)
            for number, end in enumerate(ends):
                if number not in told and end.poll():
                    with suppress(EOFError):  # one that died before it had said all: the next look at it raises
                        told[number] = end.recv()
    except ProcessExitedException as error:
        ending = error.signal_name or f"exit code {error.exit_code}"
        raise PeerLost(f"the process of peer {error.error_index} ended with {ending}") from error
    except ProcessRaisedException as error:
        reason = str(error).strip().splitlines()[-1]
        raise PeerLost(f"peer {error.error_index} failed: {reason}") from error
    return told


def _peer(
    number: int,
    peers: int,
    folder: str,
    ends: Sequence[Connection],
    work: Callable[[CollectivePeer], object],
    step: LocalStep,
    timeout_s: float,
    device: str | None,
) -> None:
    """What one process does."""
    for other, end in enumerate(ends):
        if other != number:
            end.close()
    torch.set_num_threads(1)
    meeting = Path(folder, "meeting").as_uri()
    own = None if device is None else torch.device(device)
    if own is not None and own.type == "cuda":
        own = torch.device("cuda", number % torch.cuda.device_count())
        torch.cuda.set_device(own)
    with joined(step, timeout_s, meeting=meeting, number=number, peers=peers, device=own) as peer:
        told = work(peer)
    ends[number].send(told)


def _run(system: PeerSystem, initial: Vector, steps: int, peer: CollectivePeer) -> tuple[Held, Traffic, float]:
    """One peer's part of a run."""
    held = run_as_peer(system, peer, Held(initial[peer.number].copy()), range(1, steps + 1))
    return held, peer.traffic, peer.now
