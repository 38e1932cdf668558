"""Gossip is X <- W X, and keeps the mean: symmetric always, pull and push in expectation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.peers.exchange import Mode, Sources, exchange_matrix, sources
from strategies.peers.gossip import Gossip
from strategies.peers.graph import Graph, complete, grid, ring
from strategies.peers.mixing import mixing_matrix
from strategies.peers.simulated import consensus_distance, run_simulated
from strategies.peers.times import RateMatrix
from tests.strategies.peers.quadratics import apart, exact_step, minimum, no_step, noisy_step

STAR = Graph(5, [(0, k) for k in range(1, 5)])
GRAPHS = {"ring": ring(6), "complete": complete(5), "torus": grid(3, 3), "star": STAR}
MODES: tuple[Mode, ...] = ("push", "pull", "symmetric")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GRAPHS)
def test_an_exchange_is_its_matrix(name: str, mode: Mode) -> None:
    graph = GRAPHS[name]
    x = expected = apart(graph.peers, 3)
    run = run_simulated(Gossip(graph, mode, seed=7), no_step, x, 4)
    for step in range(1, 5):
        expected = exchange_matrix(sources(graph, mode, 7, step)) @ expected
    np.testing.assert_allclose(run.models, expected, atol=1e-14)  # a few roundings of numbers of size 1


def test_a_fixed_pairing_is_its_matrix() -> None:
    with pytest.warns(UserWarning, match="2 parts"):
        pairs = Graph(4, [(0, 3), (1, 2)], allow_disconnected=True)
    x = apart(4, 3)
    w = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]) / 2
    run = run_simulated(Gossip(pairs), no_step, x, 1)
    np.testing.assert_allclose(run.models, w @ x, atol=1e-15)


@pytest.mark.parametrize("mode", MODES)
@given(seed=st.integers(0, 2**31), step=st.integers(1, 10**6), name=st.sampled_from(sorted(GRAPHS)))
def test_every_exchange_averages_along_edges(mode: Mode, seed: int, step: int, name: str) -> None:
    graph = GRAPHS[name]
    w = exchange_matrix(sources(graph, mode, seed, step))
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-15)
    assert (w >= 0).all()
    assert not (w.astype(bool) & ~graph.adjacency & ~np.eye(graph.peers, dtype=bool)).any()
    if mode == "symmetric":
        np.testing.assert_array_equal(w, w.T)
        np.testing.assert_array_equal(w @ w, w)  # a projection: pairs are disjoint
    if mode == "pull":
        assert ((w == 0.5) | (w == 0) | (w == 1)).all()


def test_symmetric_keeps_the_mean_exactly() -> None:
    # Whole numbers times 2^20: ten halvings lose no bit, and so the sum is kept to the last one.
    x = np.round(apart(6, 4) * 100) * 2.0**20
    run = run_simulated(Gossip(ring(6)), no_step, x, 10)
    np.testing.assert_array_equal(run.models.sum(axis=0), x.sum(axis=0))
    assert consensus_distance(run.models) < consensus_distance(x) / 2


def mean_matrix(graph: Graph, mode: Mode, draws: int = 4000) -> np.ndarray:
    """Mean over many exchanges of W."""
    draw = sources.__wrapped__  # not from the memory of those drawn before
    return np.mean([exchange_matrix(draw(graph, mode, 2, step)) for step in range(draws)], axis=0)


@pytest.mark.parametrize(("name", "mode"), [("ring", "pull"), ("star", "pull"), ("ring", "push"), ("complete", "push")])
def test_pull_and_push_keep_the_mean_in_expectation(name: str, mode: Mode) -> None:
    columns = mean_matrix(GRAPHS[name], mode).sum(axis=0)
    # A column's sum lies within 0 and 3, with a standard deviation below 0.7: five of its mean's over 4000 draws.
    np.testing.assert_allclose(columns, 1, atol=5 * 0.7 / np.sqrt(4000))


def test_push_counts_the_middle_of_a_star_for_too_much() -> None:
    columns = mean_matrix(STAR, "push").sum(axis=0)
    assert columns[0] - 1 > 5 * 0.7 / np.sqrt(4000)


@pytest.mark.parametrize(("name", "mode"), [("ring", "pull"), ("star", "pull"), ("even", "symmetric")])
def test_the_mixing_matrix_is_the_mean_exchange(name: str, mode: Mode) -> None:
    graph = complete(4) if name == "even" else GRAPHS[name]
    # Entries are 0, 1/2 or 1, with a standard deviation of at most 1/4 beside the diagonal and 1/2 on it.
    np.testing.assert_allclose(mean_matrix(graph, mode), mixing_matrix(graph), atol=5 * 0.5 / np.sqrt(4000))


def every_pull(graph: Graph) -> list[Sources]:
    """All that pull can come to on a graph of equal degrees, all equally likely."""
    choices = np.stack(np.meshgrid(*graph.neighbours), axis=-1).reshape(-1, graph.peers)
    return [tuple((int(j),) for j in choice) for choice in choices]


def test_push_and_pull_keep_the_mean_over_all_that_can_happen() -> None:
    graph = ring(5)
    pulls = every_pull(graph)
    pushes = [tuple(tuple(k for k in range(5) if one[k] == (to,)) for to in range(5)) for one in pulls]
    for outcomes in (pulls, pushes):
        mean = np.mean([exchange_matrix(one) for one in outcomes], axis=0)
        np.testing.assert_allclose(mean.sum(axis=0), 1, atol=1e-14)  # 32 matrices, summed
        assert any(not np.allclose(exchange_matrix(one).sum(axis=0), 1) for one in outcomes)
    assert {sources(graph, "push", 0, step) for step in range(2000)} == set(pushes)


def test_replicas_step_by_themselves_between_exchanges() -> None:
    peers, size = 4, 3
    x = apart(peers, size)
    alone = np.stack([exact_step(peer, 2, exact_step(peer, 1, x[peer])) for peer in range(peers)])
    assert np.array_equal(run_simulated(Gossip(ring(peers), every=3), exact_step, x, 2).models, alone)
    assert not np.array_equal(run_simulated(Gossip(ring(peers), every=2), exact_step, x, 2).models, alone)


def test_the_mean_of_replicas_goes_to_the_minimum_of_the_mean_loss() -> None:
    peers, size = 6, 3
    run = run_simulated(Gossip(ring(peers)), exact_step, apart(peers, size), 300)
    optimum = np.mean([minimum(peer, size) for peer in range(peers)], axis=0)
    # All losses have one curvature: the mean of the replicas makes the step of the mean loss, 0.8 per step.
    np.testing.assert_allclose(run.models.mean(axis=0), optimum, atol=1e-12)
    assert consensus_distance(run.models) > 0.01  # and each replica by itself stays off it


@pytest.mark.parametrize("mode", MODES)
def test_two_runs_under_one_seed_are_equal_to_the_bit_and_another_is_not(mode: Mode) -> None:
    def run(seed: int) -> np.ndarray:
        return run_simulated(Gossip(ring(6), mode, seed=seed), noisy_step, apart(6, 3), 20).models

    first = run(1)
    sources.cache_clear()
    np.testing.assert_array_equal(run(1), first)
    assert not np.array_equal(run(2), first)


def test_time_changes_when_and_never_what() -> None:
    x = apart(6, 3)
    rates = np.random.default_rng(0).uniform(1e2, 1e6, (6, 6))
    clock = RateMatrix(rates, 0.01, lambda peer, step: 0.1 * (1 + (peer * step) % 7))
    timed = run_simulated(Gossip(ring(6)), noisy_step, x, 10, clock)
    np.testing.assert_array_equal(timed.models, run_simulated(Gossip(ring(6)), noisy_step, x, 10).models)
    assert len(set(timed.seconds)) > 1


def test_a_slow_peer_holds_up_nobody_with_whom_it_does_not_average() -> None:
    clock = RateMatrix(np.full((40, 40), 1e9), 0.0, lambda peer, step: 100.0 if peer == 0 else 1.0)
    run = run_simulated(Gossip(ring(40)), no_step, apart(40, 2), 3, clock)
    # In three exchanges a delay gets no further than three peers round the ring.
    assert run.seconds[0] == pytest.approx(300)
    assert run.seconds[4:37] == pytest.approx([3.0] * 33)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mode": "shout"}, "mode = 'shout': accepted: push, pull, symmetric"),
        ({"every": 0}, "every = 0: accepted: an integer >= 1"),
        ({"every": 1.5}, r"every = 1\.5"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_parameters_are_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Gossip(ring(3), **given)  # type: ignore[arg-type]


def test_another_number_of_peers_than_the_graphs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"peers = 4: the graph has 3; accepted: 3"):
        run_simulated(Gossip(ring(3)), no_step, apart(4, 2), 1)
