"""Who averages with whom in one exchange of gossip: drawn by name, so that every peer knows it without asking."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from channel.randomness import generator
from strategies.peers.graph import Graph
from strategies.peers.mixing import Matrix, metropolis

Mode = Literal["push", "pull", "symmetric"]
MODES: tuple[str, ...] = get_args(Mode)

Sources = tuple[tuple[int, ...], ...]
"""By peer, from whom it receives, in the order of numbers."""


@lru_cache(maxsize=256)
def sources(graph: Graph, mode: Mode, seed: int, step: int) -> Sources:
    """By peer, from whom it receives in the exchange after `step`.

    *Pull*: each peer chooses another (see :func:`metropolis`) and receives from it. *Push*: each chooses one and sends
    to it, so that a peer may receive from several or from none. *Symmetric*: pairs, each peer in one at most; peers
    in a drawn order choose among the neighbours that are still free, all equally likely.

    Parameters
    ----------
    graph : Graph
        Who may talk to whom.
    mode : {"push", "pull", "symmetric"}
        As above.
    seed, step : int
        Name the draws.
    """
    draws = generator(seed, f"gossip {mode}", step)
    if mode == "symmetric":
        return _pairs(graph, draws)
    choice = _choices(graph, draws)
    if mode == "pull":
        return tuple(() if j == k else (j,) for k, j in enumerate(choice))
    return tuple(tuple(k for k, j in enumerate(choice) if j == to != k) for to in range(graph.peers))


def exchange_matrix(sources: Sources) -> Matrix:
    r"""W of an exchange, shape (p, p): X becomes W X.

    A peer that receives from :math:`S_k`, not empty, gets :math:`(x_k + \frac{1}{|S_k|} \sum_{j \in S_k} x_j) / 2`.
    """
    matrix = np.eye(len(sources))
    for k, received in enumerate(sources):
        if received:
            matrix[k, k] = 0.5
            matrix[k, list(received)] = 0.5 / len(received)
    return matrix


@lru_cache(maxsize=8)
def _cumulative(graph: Graph) -> Matrix:
    """Choices' probabilities summed up, row by row."""
    return np.asarray(np.cumsum(metropolis(graph), axis=1))


def _choices(graph: Graph, draws: np.random.Generator) -> list[int]:
    """Whom each peer chooses; itself to sit it out."""
    sums = _cumulative(graph)
    # A draw times the sum, which rounding leaves beside 1, is always below the sum: the choice is a possible one.
    points = draws.random(graph.peers) * sums[:, -1]
    return [int(np.searchsorted(row, point, side="right")) for row, point in zip(sums, points, strict=True)]


def _pairs(graph: Graph, draws: np.random.Generator) -> Sources:
    """Disjoint edges, as many as fit."""
    free = np.ones(graph.peers, dtype=bool)
    received: list[tuple[int, ...]] = [()] * graph.peers
    for k in draws.permutation(graph.peers).tolist():
        candidates = graph.neighbours[k][free[graph.neighbours[k]]]
        if free[k] and len(candidates):
            j = int(draws.choice(candidates))
            received[k], received[j] = (j,), (k,)
            free[[k, j]] = False
    return tuple(received)
