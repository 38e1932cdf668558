"""Peers as processes of their own, over torch.distributed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from strategies.peers.messages import DeviceMessages, HostMessages, Messages, arrays_held, cause, waiting_for
from strategies.peers.own_devices import own_device, why_not_all
from strategies.peers.peer import Held, LocalStep, Peer, PeerLost, PeerSystem, Vector


class CollectivePeer(Peer):
    """This process among those of a ``torch.distributed`` group; made by :func:`joined`. Time is real.

    Parameters
    ----------
    local_step : callable
        A peer's step; takes and gives tensors where vectors lie on GPUs.
    host : HostMessages
        For what is no message of the system; says who this is.
    messages : Messages, optional
        What carries the system's vectors; `host` too if not given.
    on_step : callable, optional
        As of :class:`Peer`.
    why_host : str, optional
        Why vectors lie in the host's memory, if they do.
    """

    def __init__(
        self,
        local_step: LocalStep,
        host: HostMessages,
        messages: Messages | None = None,
        on_step: Callable[[int, int, float, Held], None] | None = None,
        why_host: str | None = None,
    ) -> None:
        super().__init__(host.number, host.peers, on_step)
        self.host, self.messages, self.why_host = host, messages or host, why_host
        self._local_step = local_step
        self._begin = time.monotonic()

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
            If the peer is gone, or takes nothing for too long.
        """
        self.traffic.count(vector)
        self.messages.send(to, vector)

    async def receive(self, source: int, like: Vector, step: int = 0) -> Vector:
        """Wait for the next vector of `source`, not for ever."""
        (received,) = self.messages.receive([source], like)
        return received

    async def receive_all(self, sources: Sequence[int], like: Vector, step: int = 0) -> list[Vector]:
        """Wait for the next vector of each, not for ever."""
        return self.messages.receive(sources, like) if sources else []

    def note(self, step: int, held: Held) -> None:
        """Tell what the peer holds after a step."""
        self.messages.end_step()
        super().note(step, held)

    def finish(self) -> None:
        """Wait until all that was sent has been taken, and all peers are done.

        Raises
        ------
        PeerLost
            If one does not come so far in time.
        """
        self.messages.finish()
        self.host.finish()
        within = self.host.timeout_s
        with waiting_for([], self.number, within):
            dist.monitored_barrier(timeout=timedelta(seconds=within), wait_all_ranks=True)


@contextmanager
def joined(
    local_step: LocalStep,
    timeout_s: float = 60.0,
    on_step: Callable[[int, int, float, Held], None] | None = None,
    meeting: str = "env://",
    number: int = -1,
    peers: int = -1,
    join_s: float = 300.0,
    device: torch.device | None = None,
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
    device : torch.device, optional
        A GPU. Where every process has one of its own, vectors lie there and go from GPU to GPU by NCCL; otherwise they
        are arrays of the host's memory and go by gloo. A CPU serves as well, with tensors by gloo.

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
        raise PeerLost(f"not all peers joined within {join_s:g} s ({cause(error)})") from error
    try:
        number, peers = dist.get_rank(), dist.get_world_size()
        own = own_device(number, device)
        with waiting_for([], number, join_s):
            why_host = why_not_all(own)
        host = HostMessages(number, peers, timeout_s)
        on_device = None if why_host or device is None else DeviceMessages(number, peers, timeout_s, device)
        peer = CollectivePeer(local_step, host, on_device, on_step, why_host)
        try:
            peer.messages.begin()
            yield peer
            peer.finish()
        except BaseException:
            peer.messages.abort()
            raise
    finally:
        dist.destroy_process_group()


def run_as_peer(system: PeerSystem, peer: CollectivePeer, held: Held, steps: Iterable[int]) -> Held:
    """Take these steps of a system, numbered from 1, as one peer among processes; what the peer holds in the end.

    `held` and what is returned are arrays, wherever vectors lie meanwhile.

    Raises
    ------
    ValueError
        If the system cannot run with so many peers.
    PeerLost
        If a peer is gone.
    """
    system.check(peer.peers)
    placed = Held(*(None if array is None else peer.messages.vector(torch.tensor(array)) for array in held))
    program = system.run(peer, placed, steps)
    try:
        program.send(None)  # nothing in it gives its turn away: it runs to its end
    except StopIteration as end:
        return arrays_held(end.value)
    program.close()
    raise TypeError(f"{type(system).__name__} waits for something else than its peer")
