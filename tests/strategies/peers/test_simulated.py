"""Simulated peers: time, order, and waiting for ever."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from clients.device_profiles import shipped_profiles
from fedmac.clock.fleet import Fleet
from strategies.peers.gossip import Gossip
from strategies.peers.graph import ring
from strategies.peers.peer import Held, Peer, PeerLost, Vector
from strategies.peers.simulated import consensus_distance, run_simulated
from strategies.peers.times import RateMatrix
from tests.strategies.peers.quadratics import apart, no_step


class Program:
    """Peer 0 sends; peer 1 does something with it."""

    together = False

    def __init__(self, sent: list[Vector], like: Vector) -> None:
        self.sent, self.like = sent, like

    def check(self, peers: int) -> None:
        """Any number is right."""

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Send all, or receive two."""
        if peer.number == 0:
            for vector in self.sent:
                peer.send(1, vector)
                vector += 1.0  # what was sent is sent
            return held
        return Held(np.stack([await peer.receive(0, self.like), await peer.receive(0, self.like)]))


def test_messages_come_in_order_as_they_were_sent() -> None:
    run = run_simulated(Program([np.zeros(2), np.full(2, 5.0)], np.zeros(2)), no_step, apart(2, 2), 0)
    np.testing.assert_array_equal(run.held[1].model, [[0, 0], [5, 5]])


def test_a_senders_messages_queue_on_its_own_link() -> None:
    clock = RateMatrix([[1, 128.0], [1, 1]], 0.25, lambda *_: 0.0)
    run = run_simulated(Program([np.zeros(2), np.zeros(2)], np.zeros(2)), no_step, apart(2, 2), 0, clock)
    assert run.seconds == [0.0, 2.25]  # two messages of 128 bits, and the latency of the last


def test_waiting_for_a_message_that_nobody_sends_is_an_error() -> None:
    with pytest.raises(PeerLost, match="nobody sends: peer 1 for peer 0"):
        run_simulated(Program([np.zeros(2)], np.zeros(2)), no_step, apart(2, 2), 0)


def test_a_vector_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"peer 0 sent peer 1 a vector of \(3,\) float64: accepted: \(2,\) float64"):
        run_simulated(Program([np.zeros(3)], np.zeros(2)), no_step, apart(2, 2), 0)


def test_a_step_that_fails_ends_the_run_with_its_own_error() -> None:
    def step(peer: int, number: int, x: Vector) -> Vector:
        raise OverflowError("too large")

    with pytest.raises(OverflowError, match="too large"):
        run_simulated(Gossip(ring(3)), step, apart(3, 2), 1)


def test_the_clocks_fleet_gives_a_steps_time() -> None:
    fleet = Fleet([shipped_profiles()["laptop"]], 3, seed=1, jitter=0.3)
    clock = RateMatrix(np.full((3, 3), 1e6), 0.0, lambda peer, step: fleet.seconds(peer, step, 1e9))
    run = run_simulated(Gossip(ring(3), every=5), no_step, apart(3, 2), 4, clock)
    assert run.seconds == [sum(fleet.seconds(peer, step, 1e9) for step in range(1, 5)) for peer in range(3)]


def test_consensus_distance_is_the_spread_around_the_mean() -> None:
    assert consensus_distance(np.array([[0.0, 0.0], [6.0, 8.0]])) == 5.0
    assert consensus_distance(np.ones((4, 3))) == 0.0


def test_a_single_vector_for_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"initial has shape \(3,\): accepted: \(p, d\)"):
        run_simulated(Gossip(ring(3)), no_step, np.zeros(3), 1)


@pytest.mark.parametrize(
    ("rates", "latency", "named"),
    [([[1, 0], [1, 1]], 0.0, r"rates_bps\[0, 1\] = 0.0"), ([1, 1], 0.0, "shape"), (np.ones((2, 2)), -1.0, "latency_s")],
)
def test_links_without_a_rate_are_refused(rates: object, latency: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RateMatrix(rates, latency, lambda *_: 0.0)  # type: ignore[arg-type]
