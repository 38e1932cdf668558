"""How the processes of a system without a server carry vectors to each other: sent at once, or exchanged in one go."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from strategies.peers.peer import Held, PeerLost, Vector

MOST_UNDER_WAY = 8
"""Messages on their way to one peer before sending the next waits for the oldest of them."""

LOOK_SECONDS = 50e-6
"""Between two looks whether NCCL is done."""


class Messages(ABC):
    """What carries a process's vectors; a peer that does not answer is a :class:`~strategies.peers.peer.PeerLost`.

    Parameters
    ----------
    number, peers : int
        Whose, and how many there are.
    timeout_s : float
        How long to wait for a peer (s).

    Attributes
    ----------
    backend : {"gloo", "nccl"}
        Of ``torch.distributed``.
    """

    backend = "gloo"

    def __init__(self, number: int, peers: int, timeout_s: float) -> None:
        self.number, self.peers, self.timeout_s = number, peers, timeout_s
        self._limit = timedelta(seconds=timeout_s)

    @abstractmethod
    def begin(self) -> None:
        """All processes are there; called by all."""

    @abstractmethod
    def vector(self, numbers: Tensor) -> Vector:
        """A copy of these numbers as a vector that it carries."""

    @abstractmethod
    def send(self, to: int, vector: Vector) -> None:
        """Send a copy."""

    @abstractmethod
    def receive(self, sources: Sequence[int], like: Vector) -> list[Vector]:
        """Wait for the next vector of each of these peers, of the shape and type of `like`."""

    @abstractmethod
    def end_step(self) -> None:
        """The peer's step is over."""

    @abstractmethod
    def finish(self) -> None:
        """Wait until all that was sent has been taken."""

    @abstractmethod
    def abort(self) -> None:
        """Wait for nobody any more."""


class HostMessages(Messages):
    """Arrays of the host's memory, sent at once, by gloo.

    Sending waits only once :data:`MOST_UNDER_WAY` messages to the same peer are on their way; who sends all of a step
    before receiving anything of it can never be held up for good by that. Parameters are those of :class:`Messages`.
    """

    def __init__(self, number: int, peers: int, timeout_s: float) -> None:
        super().__init__(number, peers, timeout_s)
        self._under_way: defaultdict[int, deque[tuple[Any, Tensor]]] = defaultdict(deque)

    def begin(self) -> None:
        """Processes are connected when they join."""

    def vector(self, numbers: Tensor) -> Vector:
        """A copy in the host's memory."""
        return numbers.numpy(force=True).copy()

    def send(self, to: int, vector: Vector) -> None:
        """Put a copy on its way."""
        content = torch.from_numpy(np.array(vector, order="C"))
        with waiting_for([to], self.number, self.timeout_s):
            under_way = self._under_way[to]
            while len(under_way) >= MOST_UNDER_WAY:
                under_way.popleft()[0].wait(self._limit)
            # The tensor is kept beside its message: nobody else holds what is being sent.
            under_way.append((dist.isend(content, to), content))

    def receive(self, sources: Sequence[int], like: Vector) -> list[Vector]:
        """Wait for one after the other."""
        received = [np.empty_like(like, order="C") for _ in sources]
        for source, array in zip(sources, received, strict=True):
            with waiting_for([source], self.number, self.timeout_s):
                work: Any = dist.irecv(torch.from_numpy(array), source)
                work.wait(self._limit)
        return received

    def end_step(self) -> None:
        """What was sent stays on its way."""

    def finish(self) -> None:
        """Wait for the other side."""
        for to, under_way in self._under_way.items():
            with waiting_for([to], self.number, self.timeout_s):
                while under_way:
                    under_way.popleft()[0].wait(self._limit)

    def abort(self) -> None:
        """Nothing is waited for."""


class DeviceMessages(Messages):
    """Tensors in the memory of GPUs, exchanged from GPU to GPU by NCCL.

    A message of NCCL waits for its receiver, so that two peers that send to each other before they receive would wait
    for ever. What is sent therefore stays here until the next receiving, or the end of the step, and goes with that as
    one batch, in which no order matters [1]_.

    That never comes to a standstill where peers go through the same turns, and each sends all of a turn and then
    receives all of it at once. Of the batches that wait take one of the earliest turn. Whatever it is to receive has
    been sent, as its sender is in that turn or a later one, and waits in a batch too; whatever it sends is of that turn
    or of an earlier one, its receiver has come to that turn, and so receives it now, or has done so.

    A peer so waits for those to which it sends as well, until they have come to receiving.

    Parameters
    ----------
    number, peers, timeout_s
        As of :class:`Messages`.
    device : torch.device
        The peer's own GPU; with the CPU the exchange is the same, by gloo.

    References
    ----------
    .. [1] NVIDIA Collective Communication Library, user guide, "Point-to-point communication".
    """

    def __init__(self, number: int, peers: int, timeout_s: float, device: torch.device) -> None:
        super().__init__(number, peers, timeout_s)
        self._device = device
        self._waiting: list[tuple[int, Tensor]] = []
        # torchrun asks PyTorch to end a process whose message takes too long, before that can say whose it was.
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
        if device.type == "cuda":
            self.backend = "nccl"
        self._group: Any = dist.new_group(backend=self.backend, timeout=self._limit)

    def begin(self) -> None:
        """Exchange a number with everybody: all have to take part in a group's first batch, which connects GPUs."""
        hello, others = self.vector(torch.zeros(1)), [other for other in range(self.peers) if other != self.number]
        for other in others:
            self.send(other, hello)
        try:
            self.receive(others, hello)
        except PeerLost as lost:
            raise PeerLost(f"the devices could not be connected by {self.backend}: {lost}") from lost

    def vector(self, numbers: Tensor) -> Vector:
        """A copy on the GPU."""
        return cast("Vector", numbers.to(self._device, copy=True))

    def send(self, to: int, vector: Vector) -> None:
        """Keep a copy for the next batch."""
        self._waiting.append((to, cast("Tensor", vector).clone()))

    def receive(self, sources: Sequence[int], like: Vector) -> list[Vector]:
        """Send what waits, and receive, in one batch."""
        received = [(source, torch.empty_like(cast("Tensor", like))) for source in sources]
        self._exchange(received)
        return [cast("Vector", tensor) for _, tensor in received]

    def end_step(self) -> None:
        """Send what waits."""
        if self._waiting:
            self._exchange([])

    def finish(self) -> None:
        """Send what waits."""
        self.end_step()

    def abort(self) -> None:
        """Give up what is under way: NCCL would wait for peers that are gone."""
        with suppress(RuntimeError):
            self._group.abort()

    def _exchange(self, received: Sequence[tuple[int, Tensor]]) -> None:
        """Send what waits and receive these, and wait until that is done."""
        sent, self._waiting = self._waiting, []
        operations = [dist.P2POp(dist.isend, tensor, to, self._group) for to, tensor in sent]
        operations += [dist.P2POp(dist.irecv, tensor, source, self._group) for source, tensor in received]
        others = sorted({other for other, _ in (*sent, *received)})
        with waiting_for(others, self.number, self.timeout_s):
            for work in dist.batch_isend_irecv(operations):
                if self.backend == "nccl":
                    look_until_done(work, self.timeout_s)
                else:
                    work.wait(self._limit)


def look_until_done(work: dist.Work, timeout_s: float) -> None:
    """Wait for NCCL: with a time-out its own ``wait`` would look every ten milliseconds only.

    Raises
    ------
    RuntimeError
        If it has failed, or is not done in time.
    """
    until = time.monotonic() + timeout_s
    while not work.is_completed():
        if time.monotonic() >= until:
            raise RuntimeError("NCCL has not carried the messages")
        time.sleep(LOOK_SECONDS)
    work.wait()


@contextmanager
def waiting_for(others: Sequence[int], number: int, timeout_s: float) -> Iterator[None]:
    """Say who is missing, in place of what the network says alone; nobody known if `others` is empty."""
    try:
        yield
    except RuntimeError as error:
        names = ", ".join(str(other) for other in others)
        who = {0: "a peer", 1: f"peer {names}"}.get(len(others), f"one of the peers {names}")
        reason = f"{who} is gone, or did not answer peer {number} within {timeout_s:g} s"
        raise PeerLost(f"{reason} ({cause(error)})") from error


def cause(error: BaseException) -> str:
    """What went wrong below: the first line, without where, and NCCL's last one."""
    first, _, rest = str(error).partition("\n")
    last = rest.rpartition("Last error:")[2].strip().partition("\n")[0] if "Last error:" in rest else ""
    return "; ".join(line[:200] for line in (first.rpartition("] ")[2], last) if line)


def arrays_held(held: Held) -> Held:
    """What a peer holds as arrays of the host's memory, wherever it lies."""
    return Held(*(cast("Tensor", one).numpy(force=True) if isinstance(one, Tensor) else one for one in held))
