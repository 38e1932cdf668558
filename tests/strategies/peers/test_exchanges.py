"""Messages that wait for their receivers, as those of NCCL do: exchanges come to their end on every graph."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strategies.peers.collective import CollectivePeer, run_as_peer
from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.exchange import MODES
from strategies.peers.gossip import Gossip
from strategies.peers.graph import Graph
from strategies.peers.messages import DeviceMessages, HostMessages, cause, look_until_done
from strategies.peers.own_devices import Own, own_device, why_shared
from strategies.peers.peer import Held, Peer, PeerSystem, Traffic, Vector, held_model
from strategies.peers.ring_all_reduce import RingAllReduce
from strategies.peers.simulated import run_simulated
from tests.strategies.peers.quadratics import apart

STEPS = 4


class Standstill(Exception):
    """Everybody waits."""


class MeetingPoint:
    """Where a peer's batch waits until each of its messages is in a batch of the other side too.

    Parameters
    ----------
    peers : int
        How many there are.
    """

    def __init__(self, peers: int) -> None:
        self.awake = peers
        self.stands_still = False
        self._changed = threading.Condition()
        self._left = [0] * peers
        self._sent: defaultdict[tuple[int, int], deque[Tensor]] = defaultdict(deque)
        self._wanted: defaultdict[tuple[int, int], deque[Tensor]] = defaultdict(deque)

    def exchange(self, peer: int, sent: Sequence[tuple[int, Tensor]], wanted: Sequence[tuple[int, Tensor]]) -> None:
        """Wait until all of a batch is done."""
        with self._changed:
            self._fall_asleep(peer, len(sent) + len(wanted))
            for to, tensor in sent:
                self._sent[peer, to].append(tensor)
                self._carry(peer, to)
            for source, tensor in wanted:
                self._wanted[source, peer].append(tensor)
                self._carry(source, peer)
            self._look()
            self._changed.wait_for(lambda: self.stands_still or not self._left[peer])
            if self._left[peer]:
                raise Standstill

    def leave(self, peer: int) -> None:
        """A peer has come to its end."""
        with self._changed:
            self._fall_asleep(peer, 0)
            self._look()

    def _fall_asleep(self, peer: int, messages: int) -> None:
        self._left[peer] = messages
        self.awake -= 1

    def _carry(self, source: int, to: int) -> None:
        if self._sent[source, to] and self._wanted[source, to]:
            self._wanted[source, to].popleft().copy_(self._sent[source, to].popleft())
            for peer in (source, to):
                self._left[peer] -= 1
                self.awake += not self._left[peer]

    def _look(self) -> None:
        self.stands_still |= not self.awake and any(self._left)
        self._changed.notify_all()


class MeetingMessages(DeviceMessages):
    """Messages of a GPU, whose batches go to a meeting point."""

    def __init__(self, number: int, peers: int, point: MeetingPoint) -> None:
        self.number, self.peers = number, peers
        self._point, self._device = point, torch.device("cpu")
        self._waiting: list[tuple[int, Tensor]] = []

    def check_step(self, *_step: object) -> None:
        """Nothing of a step stays behind when it is over: processes may meet then."""
        assert not self._waiting

    def _exchange(self, received: Sequence[tuple[int, Tensor]]) -> None:
        sent, self._waiting = self._waiting, []
        self._point.exchange(self.number, sent, received)


def a_step(peer: int, step: int, x: Vector) -> Vector:
    """Of arrays and tensors alike, and the same to the bit."""
    return x - 0.25 * (x - float(peer + step))


def run_meeting(system: PeerSystem, initial: Vector) -> tuple[list[Held], list[Traffic]]:
    """Run a system where messages wait for their receivers; a peer is a thread."""
    peers = len(initial)
    point = MeetingPoint(peers)

    def run(number: int) -> tuple[Held, Traffic]:
        messages = MeetingMessages(number, peers, point)
        peer = CollectivePeer(a_step, HostMessages(number, peers, 1.0), messages, messages.check_step)
        try:
            messages.begin()
            held = run_as_peer(system, peer, Held(initial[number]), range(1, STEPS + 1))
            messages.finish()
        finally:
            point.leave(number)
        return held, peer.traffic

    with ThreadPoolExecutor(peers) as pool:
        told = list(pool.map(run, range(peers)))
    return [held for held, _ in told], [traffic for _, traffic in told]


@st.composite
def systems(draw: st.DrawFn) -> tuple[PeerSystem, int]:
    """A system, and for how many peers."""
    peers = draw(st.integers(2, 7))
    kind = draw(st.sampled_from(["ring", "elastic", "gossip"]))
    if kind == "ring":
        return RingAllReduce(), peers
    every = draw(st.integers(1, 2))
    if kind == "elastic":
        server = peers > 2 and draw(st.booleans())
        return ElasticAveraging(every=every, server=server), peers
    pairs = [(i, j) for j in range(peers) for i in range(j)]
    chain = [(i, i + 1) for i in range(peers - 1)]
    edges = chain + draw(st.lists(st.sampled_from(pairs), max_size=len(pairs)))
    return Gossip(Graph(peers, edges), draw(st.sampled_from(MODES)), every=every, seed=draw(st.integers(0, 99))), peers


@settings(deadline=None)
@given(systems(), st.sampled_from([1, 3, 11]))
def test_nobody_waits_for_ever_and_iterates_are_the_simulated_ones(chosen: tuple[PeerSystem, int], size: int) -> None:
    system, peers = chosen
    held, traffic = run_meeting(system, apart(peers, size))
    simulated = run_simulated(system, a_step, apart(peers, size), STEPS)
    assert traffic == simulated.traffic
    for mine, theirs in zip(held, simulated.held, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


class OneByOne:
    """Peers 0 and 3 send to each other, after something from 1 and 2 for which each of them waits first."""

    together = False

    def check(self, peers: int) -> None:
        """Any number."""

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Receive from one after the other."""
        x = held_model(held)
        if peer.number in (1, 2):
            peer.send(0 if peer.number == 1 else 3, x)
        else:
            other, before = 3 - peer.number, 1 if peer.number == 0 else 2
            peer.send(other, x)
            await peer.receive(before, x)
            await peer.receive(other, x)
        peer.note(1, held)
        return held


def test_receiving_one_by_one_would_stand_still() -> None:
    with pytest.raises(Standstill):
        run_meeting(OneByOne(), apart(4, 3))


def test_processes_without_gpus_of_their_own_are_named() -> None:
    gpus = [Own("cuda a"), Own("cuda b"), Own("cuda a")]
    assert why_shared(gpus[:2]) is None
    assert why_shared(gpus) == "peers 0 and 2 share a GPU"
    assert why_shared([Own("cuda a"), own_device(1, None)]) == "peer 1 uses no GPU"
    assert why_shared([own_device(number, torch.device("cpu")) for number in range(3)]) is None


class Transfer:
    """Something under way that is done after so many looks."""

    def __init__(self, looks: int, error: str = "") -> None:
        self.looks, self.error = looks, error

    def is_completed(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def wait(self) -> None:
        if self.error:
            raise RuntimeError(self.error)


def test_what_is_under_way_is_looked_at_until_it_is_done_has_failed_or_takes_too_long() -> None:
    look_until_done(cast("dist.Work", Transfer(3)), timeout_s=60.0)
    with pytest.raises(RuntimeError, match="of its own"):
        look_until_done(cast("dist.Work", Transfer(3, "an error of its own")), timeout_s=60.0)
    with pytest.raises(RuntimeError, match="NCCL has not carried"):
        look_until_done(cast("dist.Work", Transfer(10**9)), timeout_s=0.01)


def test_a_cause_is_the_first_line_and_the_last_error_of_nccl() -> None:
    assert cause(RuntimeError("[/a/b.cc:7] Timed out\nand more")) == "Timed out"
    said = "NCCL error in: x.cpp:3, unhandled system error\nncclSystemError: a call failed.\nLast error:\nno socket\n"
    assert cause(RuntimeError(said)) == "NCCL error in: x.cpp:3, unhandled system error; no socket"


def test_what_waits_to_be_sent_may_be_changed() -> None:
    point = MeetingPoint(2)
    sender, receiver = (MeetingMessages(number, 2, point) for number in range(2))
    vector = torch.ones(3)
    sender.send(1, cast("Vector", vector))
    vector.zero_()
    with ThreadPoolExecutor(1) as other:
        came = other.submit(receiver.receive, [0], cast("Vector", torch.empty(3)))
        sender.end_step()
        assert torch.as_tensor(came.result()[0]).tolist() == [1.0, 1.0, 1.0]
