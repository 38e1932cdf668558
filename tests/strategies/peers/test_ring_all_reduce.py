"""Ring all-reduce is the mean, moves what it says, and takes as long as it says."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.peers.peer import Held, Peer, Vector, held_model
from strategies.peers.ring_all_reduce import RingAllReduce, ring_mean
from strategies.peers.simulated import PeersRun, run_simulated
from strategies.peers.times import RateMatrix
from tests.strategies.peers.quadratics import RATE, apart, no_step, noisy_step


class OneMean:
    """Each peer's vector becomes the mean of all."""

    together = True

    def check(self, peers: int) -> None:
        """Any number is right."""

    async def run(self, peer: Peer, held: Held, steps: Iterable[int]) -> Held:
        """Take one mean, which leaves the vector as it is."""
        x = held_model(held)
        before = x.copy()
        mean = await ring_mean(peer, x)
        np.testing.assert_array_equal(x, before)
        return Held(mean)


def means(vectors: Vector) -> PeersRun:
    """Run it."""
    return run_simulated(OneMean(), no_step, vectors, 0)


@given(st.integers(2, 9), st.integers(0, 40))
def test_every_peer_gets_the_mean_and_all_the_same(peers: int, size: int) -> None:
    vectors = apart(peers, size)
    got = means(vectors).models
    # A sum of p numbers of size about 1, in another order than NumPy's: p roundings.
    np.testing.assert_allclose(got[0], vectors.mean(axis=0), atol=peers * 1e-15, rtol=1e-14)
    np.testing.assert_array_equal(got, np.broadcast_to(got[0], got.shape))


@given(st.integers(2, 9), st.integers(0, 40))
def test_a_worker_sends_two_d_times_p_less_one_over_p_numbers(peers: int, size: int) -> None:
    sent = [traffic.numbers for traffic in means(apart(peers, size)).traffic]
    assert sum(sent) == 2 * size * (peers - 1)  # in the mean over workers exactly, whether or not p divides d
    if size % peers == 0:
        assert set(sent) == {2 * size * (peers - 1) // peers}
    assert all(abs(one - 2 * size * (peers - 1) / peers) < 2 for one in sent)


def test_single_precision_stays_single_and_counts_half_the_bits() -> None:
    vectors = apart(4, 8)
    single = means(vectors.astype(np.float32))
    assert single.models.dtype == np.float32
    assert [2 * traffic.bits for traffic in single.traffic] == [traffic.bits for traffic in means(vectors).traffic]


def test_it_is_gradient_descent_on_the_mean_of_the_gradients() -> None:
    peers, size, steps = 5, 7, 20
    x = np.zeros(size)
    for step in range(1, steps + 1):
        gradients = [(x - noisy_step(peer, step, x)) / RATE for peer in range(peers)]
        x = x - RATE * np.mean(gradients, axis=0)
    run = run_simulated(RingAllReduce(), noisy_step, np.zeros((peers, size)), steps)
    # Twenty steps, each with some ten roundings of numbers of size about 1.
    np.testing.assert_allclose(run.models[0], x, atol=1e-13)
    np.testing.assert_array_equal(run.models, np.broadcast_to(run.models[0], run.models.shape))


def test_it_takes_two_p_less_one_turns_of_a_part_each() -> None:
    peers, size, latency, rate = 4, 12, 0.01, 1e3
    clock = RateMatrix(np.full((peers, peers), rate), latency, lambda peer, step: 0.5)
    run = run_simulated(RingAllReduce(), noisy_step, apart(peers, size), 3, clock)
    turn = latency + 64 * size / peers / rate
    assert run.seconds == pytest.approx([3 * (0.5 + 2 * (peers - 1) * turn)] * peers)


def test_one_slow_link_slows_every_turn() -> None:
    peers, size = 4, 12
    rates = np.full((peers, peers), 1e9)
    rates[1, 2] = 1e3
    run = run_simulated(RingAllReduce(), no_step, apart(peers, size), 1, RateMatrix(rates, 0.0, lambda *_: 0.0))
    # The slow link carries 2 (p - 1) parts one after the other; the rest is a thousandth of a thousandth.
    assert max(run.seconds) == pytest.approx(2 * (peers - 1) * 64 * size / peers / 1e3, rel=1e-4)
