"""Who may talk to whom: complete, ring, grid, and geometric from positions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from strategies.peers.peer import check_peers

MOST_NAMED = 8
"""Components, and peers of each, that a message names."""


Edges = NDArray[np.intp]
"""Pairs of peers, shape (e, 2)."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph of peers.

    Parameters
    ----------
    peers : int
        p, >= 2.
    edges : iterable of (int, int), or array_like of shape (e, 2)
        Pairs that talk to each other, i != j; repeated ones count once. Kept as an array with i < j, in order.
    allow_disconnected : bool, default False
        Take a graph in parts, with a warning: averages do not spread from one part to another.

    Raises
    ------
    ValueError
        If there are fewer than two peers, an edge is none between peers, or the graph is in parts, which are named.
    """

    peers: int
    edges: Iterable[tuple[int, int]] | Edges
    allow_disconnected: bool = False

    def __post_init__(self) -> None:
        check_peers(self.peers)
        given = self.edges if isinstance(self.edges, np.ndarray) else list(self.edges)
        pairs = np.sort(np.asarray(given, dtype=np.intp).reshape(-1, 2), axis=1)
        for i, j in pairs[(pairs[:, 0] == pairs[:, 1]) | (pairs[:, 0] < 0) | (pairs[:, 1] >= self.peers)][:1].tolist():
            raise ValueError(f"edges: ({i}, {j}): accepted: two different peers from 0 to {self.peers - 1}")
        number = np.sort(pairs[:, 0] * self.peers + pairs[:, 1])
        edges = np.column_stack(np.divmod(number[np.diff(number, prepend=-1) > 0], self.peers))
        edges.setflags(write=False)
        object.__setattr__(self, "edges", edges)
        if len(parts := self.components) > 1:
            told = f"the graph is in {len(parts)} parts: {_named(parts)}"
            if not self.allow_disconnected:
                raise ValueError(f"edges: {told}; accepted: a connected graph, or allow_disconnected = true")
            warnings.warn(f"{told}; averages do not spread from one to another", stacklevel=3)

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """Who talks to whom, shape (p, p), symmetric."""
        matrix = np.zeros((self.peers, self.peers), dtype=bool)
        i, j = np.asarray(self.edges).T
        matrix[i, j] = matrix[j, i] = True
        return matrix

    @cached_property
    def neighbours(self) -> list[NDArray[np.intp]]:
        """By peer, whom it talks to, in the order of numbers."""
        return [np.flatnonzero(row) for row in self.adjacency]

    @property
    def components(self) -> list[list[int]]:
        """The parts that do not talk to each other, each in the order of numbers."""
        i, j = np.asarray(self.edges).T
        joined = coo_array((np.ones(len(i), dtype=bool), (i, j)), shape=(self.peers, self.peers))
        count, part = connected_components(joined, directed=False)
        return [np.flatnonzero(part == one).tolist() for one in range(count)]


@lru_cache(maxsize=4)
def complete(peers: int) -> Graph:
    """Everybody with everybody."""
    check_peers(peers)
    return Graph(peers, np.column_stack(np.triu_indices(peers, 1)))


@lru_cache(maxsize=4)
def ring(peers: int) -> Graph:
    """Each with the next, and the last with the first."""
    check_peers(peers)
    number = np.arange(peers)
    return Graph(peers, np.column_stack([number, np.roll(number, -1)]))


def grid(rows: int, columns: int, *, wrap: bool = True) -> Graph:
    """A rectangle, peer `row` · `columns` + `column`, each with the next to the right and below.

    Parameters
    ----------
    rows, columns : int
        >= 1, two peers at least.
    wrap : bool, default True
        Whether the last of a row or column is next to the first (a torus, on which all peers have equal parts).
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if value < 1:
            raise ValueError(f"{name} = {value!r}: accepted: an integer >= 1")
    number = np.arange(rows * columns).reshape(rows, columns)
    pairs = [(number[:, :-1], number[:, 1:]), (number[:-1], number[1:])]
    if wrap:
        pairs += [(number[:, -1:], number[:, :1]), (number[-1:], number[:1])]
    edges = np.concatenate([np.column_stack([a.ravel(), b.ravel()]) for a, b in pairs])
    return Graph(rows * columns, edges[edges[:, 0] != edges[:, 1]])


def geometric(positions_m: ArrayLike, radius_m: float, *, allow_disconnected: bool = False) -> Graph:
    """Those with those that are no further off than `radius_m`.

    Parameters
    ----------
    positions_m : array_like of shape (p, 2) or (p, 3)
        Where the devices are (m).
    radius_m : float
        How far they reach (m), > 0.
    allow_disconnected : bool, default False
        As of :class:`Graph`.
    """
    positions = np.asarray(positions_m, dtype=float)
    if positions.ndim != 2 or positions.shape[1] not in (2, 3) or not np.isfinite(positions).all():
        raise ValueError(f"positions_m has shape {positions.shape}: accepted: finite numbers, (p, 2) or (p, 3)")
    if not 0 < radius_m < math.inf:
        raise ValueError(f"radius_m = {radius_m!r}: accepted: a finite number > 0 (m)")
    check_peers(len(positions))
    return Graph(len(positions), KDTree(positions).query_pairs(radius_m, output_type="ndarray"), allow_disconnected)


def _named(parts: list[list[int]]) -> str:
    """Parts as a message names them."""
    told = [f"{{{_listed([str(peer) for peer in part])}}}" for part in parts]
    return _listed(told)


def _listed(names: list[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = [f"and {len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join(names[:MOST_NAMED] + more)
