"""Graphs of peers, and how fast they mix."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel.randomness import generator
from strategies.peers.graph import Graph, complete, geometric, grid, ring
from strategies.peers.mixing import graph_gap, metropolis, mixing_matrix, spectral_gap
from strategies.peers.named_gossip import NamedGossip

ROUNDING = 1e-12  # of eigenvalues of size 1


@given(st.integers(3, 30))
def test_gap_of_a_ring(peers: int) -> None:
    closed = (1 - math.cos(2 * math.pi / peers)) / 2
    assert spectral_gap(mixing_matrix(ring(peers))) == pytest.approx(closed, abs=ROUNDING)


@given(st.integers(2, 30))
def test_gap_of_a_complete_graph(peers: int) -> None:
    closed = 1.0 if peers == 2 else peers / (2 * (peers - 1))
    assert spectral_gap(mixing_matrix(complete(peers))) == pytest.approx(closed, abs=ROUNDING)


@given(st.integers(3, 6), st.integers(3, 6))
def test_gap_of_a_torus(rows: int, columns: int) -> None:
    closed = (1 - math.cos(2 * math.pi / max(rows, columns))) / 4
    assert spectral_gap(mixing_matrix(grid(rows, columns))) == pytest.approx(closed, abs=ROUNDING)


@given(st.integers(2, 30))
def test_gap_of_a_path(peers: int) -> None:
    closed = (1 - math.cos(math.pi / peers)) / 2 if peers > 2 else 1.0
    assert spectral_gap(mixing_matrix(grid(1, peers, wrap=False))) == pytest.approx(closed, abs=ROUNDING)


@given(st.integers(2, 12), st.floats(0.2, 2.0), st.integers(0, 100))
def test_choices_are_doubly_stochastic_on_any_graph(peers: int, radius: float, seed: int) -> None:
    positions = generator(seed, "positions").random((peers, 2))
    near = np.linalg.norm(positions[:, None] - positions, axis=2) <= radius
    edges = [(i, j) for i in range(peers) for j in range(i) if near[i, j]]
    chain = [(i, i + 1) for i in range(peers - 1)]
    matrix = metropolis(Graph(peers, edges + chain))
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix, matrix.T, atol=ROUNDING)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=ROUNDING)


def pairs(graph: Graph) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in graph.edges]


def test_edges_are_in_order_and_each_there_once() -> None:
    graph = Graph(4, [(3, 2), (1, 0), (0, 1), (1, 3)])
    assert pairs(graph) == [(0, 1), (1, 3), (2, 3)]
    assert [near.tolist() for near in graph.neighbours] == [[1], [0, 3], [3], [1, 2]]
    assert pairs(complete(4)) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pairs(ring(4)) == [(0, 1), (0, 3), (1, 2), (2, 3)]


@given(st.integers(1, 7), st.integers(2, 7), st.booleans())
def test_the_gap_of_a_graph_is_that_of_its_matrix_whatever_the_way_to_it(rows: int, columns: int, wrap: bool) -> None:
    peers = rows * columns
    star = Graph(peers, [(0, k) for k in range(1, peers)])
    for graph in (complete(peers), ring(peers), grid(rows, columns, wrap=wrap), star):
        assert graph_gap(graph) == pytest.approx(spectral_gap(mixing_matrix(graph)), abs=ROUNDING)


@pytest.mark.parametrize("make", [complete, ring, lambda p: grid(p // 40, 40)])
def test_no_matrix_is_made_for_the_gap_of_a_complete_graph_a_ring_or_a_torus(
    make: Callable[[int], Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand times a thousand numbers and their eigenvalues: seconds, where the gap is known."""

    def refuse(graph: Graph) -> None:
        raise AssertionError(f"a matrix of {graph.peers} peers")

    monkeypatch.setattr("strategies.peers.mixing.mixing_matrix", refuse)
    assert 0 < graph_gap(make(1000)) < 1
    with pytest.raises(AssertionError):
        graph_gap(grid(25, 40, wrap=False))


def test_a_graph_that_seeds_share_is_built_once() -> None:
    gossip = NamedGossip()
    assert gossip.among(50, seed=0).graph is gossip.among(50, seed=1).graph


def test_geometric_joins_those_that_are_near() -> None:
    graph = geometric([[0, 0], [3, 0], [3, 4], [9, 4]], 6.0)
    assert pairs(graph) == [(0, 1), (0, 2), (1, 2), (2, 3)]
    assert pairs(geometric([[0, 0, 0], [0, 0, 5]], 5.0)) == [(0, 1)]


def test_a_grid_has_neighbours_right_and_below_and_round_the_edge() -> None:
    assert pairs(grid(2, 3, wrap=False)) == [(0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5)]
    assert [len(near) for near in grid(3, 4).neighbours] == [4] * 12
    assert pairs(grid(1, 5)) == pairs(ring(5))


def test_a_graph_in_parts_is_refused_naming_them() -> None:
    with pytest.raises(
        ValueError, match=r"in 3 parts: \{0, 2\}, \{1\}, \{3, 4\}; accepted: a connected graph, or allow"
    ):
        Graph(5, [(0, 2), (4, 3)])


def test_a_graph_in_parts_is_allowed_with_a_warning_and_has_no_gap() -> None:
    with pytest.warns(UserWarning, match=r"in 2 parts: \{0, 1\}, \{2, 3\}; averages do not spread"):
        graph = geometric([[0, 0], [1, 0], [50, 0], [51, 0]], 2.0, allow_disconnected=True)
    assert spectral_gap(mixing_matrix(graph)) == pytest.approx(0, abs=ROUNDING)


def test_many_parts_are_not_all_named() -> None:
    with pytest.raises(ValueError, match=r"\{7\}, and 12 more; accepted"):
        Graph(20, [])


@pytest.mark.parametrize("make", [complete, ring, lambda p: grid(1, p), lambda p: geometric(np.zeros((p, 2)), 1.0)])
def test_one_peer_is_refused_with_a_reason(make: object) -> None:
    with pytest.raises(ValueError, match=r"peers = 1: a peer alone has nobody to average with; accepted: an integer"):
        make(1)  # type: ignore[operator]


@pytest.mark.parametrize("edge", [(0, 0), (0, 3), (-1, 2)])
def test_an_edge_to_nobody_is_refused(edge: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"accepted: two different peers from 0 to 2"):
        Graph(3, [(0, 1), (1, 2), edge])


@pytest.mark.parametrize(
    ("positions", "radius", "named"),
    [([[0, 0], [0, 1]], 0.0, "radius_m = 0.0"), ([0, 1], 1.0, "positions_m"), ([[0, 0], [0, math.nan]], 1.0, "finite")],
)
def test_bad_positions_are_refused(positions: list[object], radius: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        geometric(positions, radius)  # type: ignore[arg-type]


def test_the_gap_of_a_matrix_that_does_not_mix_is_refused() -> None:
    with pytest.raises(ValueError, match="symmetric"):
        spectral_gap(np.array([[0.5, 0.5], [0.0, 1.0]]))
