"""Peers as processes of their own, over torch.distributed."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from strategies.peers.peer import Held, LocalStep, Peer, PeerLost, PeerSystem, Vector

MOST_UNDER_WAY = 8
"""Messages on their way to one peer before sending the next waits for the oldest of them."""


class CollectivePeer(Peer):
    """This process among those of a ``torch.distributed`` group; made by :func:`joined`.

    Vectors go from process to process over gloo. Sending waits only once :data:`MOST_UNDER_WAY` messages to the same
    peer are on their way; who sends all of a step before receiving anything of it can never be held up for good by
    that. Time is real.

    Parameters
    ----------
    local_step : callable
        A peer's step.
    timeout_s : float
        How long to wait for a peer.
    on_step : callable, optional
        As of :class:`Peer`.
    """

    def __init__(
        self,
        local_step: LocalStep,
        timeout_s: float,
        on_step: Callable[[int, int, float, Held], None] | None = None,
    ) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size(), on_step)
        self.timeout_s = timeout_s
        self._limit = timedelta(seconds=timeout_s)
        self._local_step = local_step
        self._begin = time.monotonic()
        self._under_way: defaultdict[int, deque[tuple[Any, torch.Tensor]]] = defaultdict(deque)

    @property
    def now(self) -> float:
        """Real seconds since the group was joined."""
        return time.monotonic() - self._begin

    async def step(self, x: Vector, step: int) -> Vector:
        """Take the step."""
        return self._local_step(self.number, step, x)

    def send(self, to: int, vector: Vector, step: int = 0) -> None:
        """Put a copy on its way.

        Raises
        ------
        PeerLost
            If the peer is gone, or takes nothing for `timeout_s`.
        """
        self.traffic.count(vector)
        content = torch.from_numpy(np.array(vector, order="C"))
        with self._waiting_for(to):
            under_way = self._under_way[to]
            while len(under_way) >= MOST_UNDER_WAY:
                under_way.popleft()[0].wait(self._limit)
            # The tensor is kept beside its message: nobody else holds what is being sent.
            under_way.append((dist.isend(content, to), content))

    async def receive(self, source: int, like: Vector, step: int = 0) -> Vector:
        """Wait for the next vector of `source`, at most `timeout_s`."""
        return self.hear(source, like)

    def hear(self, source: int, like: Vector) -> Vector:
        """Wait for the next vector of `source`, of the shape and type of `like`.

        Raises
        ------
        PeerLost
            If it does not come within `timeout_s`.
        """
        received = np.empty_like(like, order="C")
        with self._waiting_for(source):
            work: Any = dist.irecv(torch.from_numpy(received), source)
            work.wait(self._limit)
        return received

    def finish(self) -> None:
        """Wait until all that was sent has been taken, and all peers are done.

        Raises
        ------
        PeerLost
            If one does not come so far within `timeout_s`.
        """
        for to, under_way in self._under_way.items():
            with self._waiting_for(to):
                while under_way:
                    under_way.popleft()[0].wait(self._limit)
        with self._waiting_for(None):
            dist.monitored_barrier(timeout=self._limit, wait_all_ranks=True)

    @contextmanager
    def _waiting_for(self, other: int | None) -> Iterator[None]:
        """Say who is missing, in place of what the network says alone."""
        try:
            yield
        except RuntimeError as error:
            who = "a peer" if other is None else f"peer {other}"
            reason = f"{who} is gone, or did not answer peer {self.number} within {self.timeout_s:g} s"
            raise PeerLost(f"{reason} ({_short(error)})") from error


@contextmanager
def joined(
    local_step: LocalStep,
    timeout_s: float = 60.0,
    on_step: Callable[[int, int, float, Held], None] | None = None,
    meeting: str = "env://",
    number: int = -1,
    peers: int = -1,
    join_s: float = 300.0,
) -> Iterator[CollectivePeer]:
    """Join the other processes as a peer, and leave them at the end.

    Where the processes meet and who this one is comes from the environment that ``torchrun`` sets, on one host or
    several, if nothing else is given. At the end of the block this waits for the others, unless the block has failed.

    Parameters
    ----------
    local_step : callable
        The peer's step.
    timeout_s : float, default 60
        How long to wait for a message (s), > 0.
    on_step : callable, optional
        As of :class:`Peer`.
    meeting : str, default "env://"
        Where processes find each other: an address of ``torch.distributed`` such as ``tcp://host:port``.
    number, peers : int, optional
        Go with an address of another kind than ``env://``.
    join_s : float, default 300
        How long to wait for the others to join (s), > 0: programs start more slowly than messages travel.

    Raises
    ------
    ValueError
        If there is but one process, or a time-out is out of range.
    PeerLost
        If a peer does not join or is gone.
    """
    for name, value in (("timeout_s", timeout_s), ("join_s", join_s)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} = {value!r}: accepted: a finite number > 0 (s)")
    limit = timedelta(seconds=join_s)
    try:
        dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=peers, timeout=limit)
    except RuntimeError as error:
        raise PeerLost(f"not all peers joined within {join_s:g} s ({_short(error)})") from error
    try:
        peer = CollectivePeer(local_step, timeout_s, on_step)
        yield peer
        peer.finish()
    finally:
        dist.destroy_process_group()


def run_as_peer(system: PeerSystem, peer: CollectivePeer, held: Held, steps: Iterable[int]) -> Held:
    """Take these steps of a system, numbered from 1, as one peer among processes; what the peer holds in the end.

    Raises
    ------
    ValueError
        If the system cannot run with so many peers.
    PeerLost
        If a peer is gone.
    """
    system.check(peer.peers)
    program = system.run(peer, held, steps)
    try:
        program.send(None)  # nothing in it gives its turn away: it runs to its end
    except StopIteration as end:
        ended: Held = end.value
        return ended
    program.close()
    raise TypeError(f"{type(system).__name__} waits for something else than its peer")


def _short(error: BaseException) -> str:
    """The first line of what went wrong below, without where."""
    return str(error).partition("\n")[0].rpartition("] ")[2][:200]
