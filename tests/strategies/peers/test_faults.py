"""Peers that go, come back or hang, and lost messages: gossip heals, a ring is formed anew, nobody waits for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.exchange import exchange_matrix, sources
from strategies.peers.gossip import Gossip
from strategies.peers.graph import complete, ring
from strategies.peers.peer import Held, PeerSystem, Vector
from strategies.peers.ring_all_reduce import RingAllReduce
from strategies.peers.simulation import PeerRound, PeerSimulation
from tests.strategies.peers.quadratics import apart, no_step, noisy_step
from tests.strategies.peers.trouble import TIMEOUT_S, Trouble, rounds_of, simulation_of

NEVER = math.inf
SYSTEMS: dict[str, PeerSystem] = {
    "ring": RingAllReduce(),
    "symmetric gossip": Gossip(complete(5), seed=3),
    "pulling gossip": Gossip(ring(5), "pull", every=2, seed=3),
    "pushing gossip": Gossip(complete(5), "push", seed=3),
    "elastic": ElasticAveraging(every=2),
    "elastic with a server": ElasticAveraging(server=True),
}


def models(over: PeerRound) -> Vector:
    """What those who took part held, shape (participants, d)."""
    return np.stack([held.model for held in over.held.values() if held.model is not None])


def assert_equal(one: Held, other: Held) -> None:
    """That two peers hold the same to the bit."""
    for mine, theirs in zip(one, other, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, theirs)


def without(matrix: Vector, gone: int) -> Vector:
    """An exchange's matrix without one peer: who would have averaged with it alone keeps what it has."""
    w = matrix.copy()
    for k in range(len(w)):
        others = np.flatnonzero(w[k]).tolist()
        if gone in others and k != gone:
            left = [j for j in others if j not in (k, gone)]
            w[k] = 0.0
            w[k, k] = 0.5 if left else 1.0
            w[k, left] = 0.5 / len(left) if left else 0.0
    return w


@pytest.mark.parametrize("mode", ["push", "pull", "symmetric"])
def test_exchanges_with_a_peer_that_is_gone_are_skipped_and_nothing_else(mode: str) -> None:
    system = Gossip(complete(5), mode, seed=1)  # type: ignore[arg-type]
    x = expected = apart(5, 3)
    rounds = rounds_of(simulation_of(system, no_step, x, 4, Trouble(gone={2: (0.5, NEVER)})))
    others = [0, 1, 3, 4]
    for number, over in enumerate(rounds, 1):
        expected = without(exchange_matrix(sources(system.graph, system.mode, 1, number)), 2) @ expected
        assert list(over.held) == others
        np.testing.assert_allclose(models(over), expected[others], atol=1e-14)  # numbers of size 1


def test_nobody_waits_for_a_peer_that_is_known_to_be_gone() -> None:
    simulation = simulation_of(Gossip(complete(5)), no_step, apart(5, 3), 6, Trouble(gone={2: (0.5, NEVER)}))
    rounds_of(simulation)
    assert 6.0 < simulation.now < 6.6 + 1e-9  # steps of 1 s, and at most a message each
    assert simulation.failures == [(2, "disconnected while at work")]
    assert simulation.stopped is None


def test_a_peer_that_is_back_goes_on_from_what_it_held_at_the_step_of_the_others() -> None:
    steps: list[tuple[int, int]] = []

    def step(peer: int, number: int, x: Vector) -> Vector:
        steps.append((peer, number))
        return x + 1.0

    simulation = simulation_of(Gossip(ring(4), every=100), step, np.zeros((4, 1)), 6, Trouble(gone={1: (1.5, 3.2)}))
    rounds = rounds_of(simulation)
    # Its second step is lost, and so is its third: the others finish that one before it is back.
    assert [number for peer, number in steps if peer == 1] == [1, 4, 5, 6]
    assert [list(over.held) for over in rounds] == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3], *[[0, 1, 2, 3]] * 3]
    assert models(rounds[-1]).ravel().tolist() == [6, 4, 6, 6]


def test_one_that_is_back_is_pulled_to_the_others() -> None:
    x = np.zeros((6, 1))
    x[2] = 100.0
    simulation = simulation_of(Gossip(complete(6)), no_step, x, 40, Trouble(gone={2: (0.5, 20.0)}))
    rounds = rounds_of(simulation)
    assert models(rounds[15]).max() == 0
    spread = np.ptp(models(rounds[-1]))
    # Twenty exchanges in pairs of six, each halving a difference between two.
    assert 0 <= spread < 1
    assert models(rounds[-1]).mean() == pytest.approx(100 / 6)  # and the mean is kept


def test_a_lost_message_is_waited_for_and_then_gone_without() -> None:
    x = apart(2, 3)
    simulation = simulation_of(Gossip(complete(2)), no_step, x, 1, Trouble(lost=[(0, 0)]))
    (over,) = rounds_of(simulation)
    np.testing.assert_allclose(models(over), [(x[0] + x[1]) / 2, x[1]], atol=1e-15)
    assert (simulation.mail.lost, simulation.mail.missed) == (1, 1)
    assert simulation.now == pytest.approx(1.0 + TIMEOUT_S)


def test_a_message_that_comes_too_late_is_no_later_ones() -> None:
    """Peer 1 is slow once; its message of that step is not taken for one of the next."""
    x = np.array([[0.0], [8.0]])
    trouble = Trouble(hangs={(1, 1): 3.0})
    simulation = simulation_of(Gossip(complete(2), "pull"), no_step, x, 3, trouble, timeout_s=2.5)
    rounds = rounds_of(simulation)
    assert (1, "still computing after 2.5 s") in simulation.failures
    assert list(rounds[0].held) == [0]
    assert models(rounds[0]).tolist() == [[0.0]]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_step_that_never_ends_holds_the_others_up_no_longer_than_the_timeout(name: str) -> None:
    simulation = simulation_of(SYSTEMS[name], noisy_step, apart(5, 3), 6, Trouble(hangs={(3, 2): NEVER}))
    rounds = rounds_of(simulation)
    assert simulation.stopped is None
    assert len(rounds) == 6
    assert all(3 not in over.held for over in rounds[1:])
    assert simulation.now < TIMEOUT_S + 6 * 3  # a ring takes one step twice


def test_a_ring_without_one_that_is_gone_is_the_ring_of_the_others() -> None:
    x = np.zeros((4, 5))
    simulation = simulation_of(RingAllReduce(), noisy_step, x, 6, Trouble(gone={1: (2.5, NEVER)}))
    rounds = rounds_of(simulation)
    here = np.zeros(5)
    for number, over in enumerate(rounds, 1):
        present = [0, 1, 2, 3] if over.held.keys() >= {1} else [0, 2, 3]
        here = here + np.mean([noisy_step(k, number, here) - here for k in present], axis=0)
        np.testing.assert_allclose(
            models(over), np.broadcast_to(here, (len(present), 5)), atol=1e-14
        )  # a few roundings
    assert (len(rounds), len(rounds[-1].held), simulation.reformed) == (6, 3, 1)


def test_who_comes_back_to_a_ring_gets_the_present_model() -> None:
    simulation = simulation_of(RingAllReduce(), noisy_step, np.zeros((4, 5)), 8, Trouble(gone={1: (1.0, 8.0)}))
    rounds = rounds_of(simulation)
    assert list(rounds[-1].held) == [0, 1, 2, 3]
    assert np.ptp(models(rounds[-1]), axis=0).max() == 0.0
    assert simulation.stopped is None


def test_a_ring_that_has_lost_a_message_takes_the_step_again() -> None:
    clean = rounds_of(simulation_of(RingAllReduce(), noisy_step, np.zeros((4, 5)), 3, Trouble()))
    simulation = simulation_of(RingAllReduce(), noisy_step, np.zeros((4, 5)), 3, Trouble(lost=[(2, 7)]))
    rounds = rounds_of(simulation)
    np.testing.assert_array_equal(models(rounds[-1]), models(clean[-1]))
    assert (simulation.mail.lost, simulation.mail.missed, simulation.reformed) == (1, 1, 1)


def test_a_ring_may_stop_instead_and_says_why() -> None:
    gone = simulation_of(RingAllReduce("stop"), noisy_step, np.zeros((4, 5)), 6, Trouble(gone={1: (2.5, NEVER)}))
    assert len(rounds_of(gone)) == 1
    assert gone.stopped == "peer 2 waited in vain: peer 1 is gone"
    lost = simulation_of(RingAllReduce("stop"), noisy_step, np.zeros((4, 5)), 6, Trouble(lost=[(0, 0)]))
    rounds_of(lost)
    assert lost.stopped == "peer 1 waited in vain: no message in 5 s"


def test_a_ring_that_never_gets_round_gives_up_and_says_why() -> None:
    always = Trouble(lost=[(2, number) for number in range(100)])
    simulation = simulation_of(RingAllReduce(), noisy_step, np.zeros((4, 5)), 3, always)
    assert rounds_of(simulation) == []
    assert simulation.stopped == (
        "a step was broken off 10 times in a row, the last time as peer 3 waited in vain: no message in 5 s"
    )


def test_workers_go_on_by_themselves_while_the_centre_is_away() -> None:
    simulation = simulation_of(ElasticAveraging(), noisy_step, apart(4, 3), 8, Trouble(gone={0: (2.5, 5.5)}))
    rounds = rounds_of(simulation)
    away = [over for over in rounds if 0 not in over.held]
    assert len(rounds) == 8
    assert 0 < len(away) < 7
    assert rounds[-1].held[0].centre is not None
    assert simulation.stopped is None


def test_a_centre_that_is_gone_for_good_ends_the_run() -> None:
    simulation = simulation_of(ElasticAveraging(), noisy_step, apart(4, 3), 8, Trouble(gone={0: (2.5, NEVER)}))
    assert len(rounds_of(simulation)) < 8
    assert simulation.stopped == "peer 0, which keeps the centre, is gone for good"


def test_a_centre_that_hangs_ends_the_run_only_if_it_never_comes_back() -> None:
    for hangs, stopped in ((NEVER, "peer 0, which keeps the centre, hangs for good"), (TIMEOUT_S + 1.0, None)):
        simulation = simulation_of(ElasticAveraging(), noisy_step, apart(4, 3), 20, Trouble(hangs={(0, 3): hangs}))
        rounds = rounds_of(simulation)
        assert simulation.stopped == stopped
        assert (len(rounds) == 20, 0 in rounds[-1].held) == (stopped is None, stopped is None)


@pytest.mark.parametrize("name", ["ring", "symmetric gossip"])
def test_when_all_are_gone_for_good_the_run_ends_with_a_reason(name: str) -> None:
    trouble = Trouble(gone=dict.fromkeys(range(5), (1.5, NEVER)))
    simulation = simulation_of(SYSTEMS[name], noisy_step, apart(5, 3), 8, trouble)
    rounds_of(simulation)
    assert simulation.stopped == "nothing can happen any more: no peer is at work, and none will come back"


def test_one_that_joins_late_begins_with_the_step_of_the_others() -> None:
    simulation = simulation_of(Gossip(complete(4)), noisy_step, np.zeros((4, 2)), 6, Trouble(gone={3: (0.0, 3.0)}))
    rounds = rounds_of(simulation)
    assert [len(over.held) for over in rounds[:2]] == [3, 3]
    assert list(rounds[-1].held) == [0, 1, 2, 3]


OUTAGE = st.tuples(st.floats(0, 8), st.floats(0.1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@pytest.mark.parametrize("name", SYSTEMS)
@settings(max_examples=25, deadline=None)
@given(
    gone=st.dictionaries(st.integers(0, 3), OUTAGE, max_size=3),
    lost=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20)), max_size=3),
    hangs=st.dictionaries(st.tuples(st.integers(0, 3), st.integers(1, 5)), st.floats(0, 12), max_size=2),
    cut=st.integers(0, 4),
)
def test_whatever_goes_wrong_a_run_goes_on_from_its_state_as_the_unbroken_one(
    name: str,
    gone: dict[int, tuple[float, float]],
    lost: list[tuple[int, int]],
    hangs: dict[tuple[int, int], float],
    cut: int,
) -> None:
    def simulation() -> PeerSimulation:
        return simulation_of(SYSTEMS[name], noisy_step, apart(5, 3), 6, Trouble(gone, lost, hangs))

    states = []
    whole = simulation()
    rounds = rounds_of(whole, lambda over: states.append(whole.state()))
    assert whole.stopped is not None or len(rounds) == 6
    if cut >= len(states):
        return
    again = simulation()
    again.restore(states[cut])
    rest = rounds_of(again, begin=False)
    assert len(rest) == len(rounds) - cut - 1
    for one, other in zip(rest, rounds[cut + 1 :], strict=True):
        assert one.held.keys() == other.held.keys()
        for peer, held in one.held.items():  # a round can be of the server alone, which has no model, but the centre
            assert_equal(held, other.held[peer])
    assert (again.now, again.stopped) == (whole.now, whole.stopped)
