"""How fast a graph mixes: the matrix of an exchange in the mean, and its spectral gap."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from strategies.peers.graph import Graph, grid

Matrix = NDArray[np.float64]


def metropolis(graph: Graph) -> Matrix:
    r"""Probabilities with which a peer chooses its partner, shape (p, p), row by row.

    .. math:: P_{kj} = \frac{1}{\max(d_k, d_j)} \text{ for neighbours } k, j, \qquad P_{kk} = 1 - \sum_{j \ne k} P_{kj}

    with degrees d [1]_. P is symmetric on every graph, and so a peer of many neighbours counts no more than others;
    where all degrees are equal, each neighbour is as likely, and nobody chooses itself, which means to sit it out.

    References
    ----------
    .. [1] L. Xiao, S. Boyd, "Fast linear iterations for distributed averaging", Systems & Control Letters 53, 2004.
    """
    degree = graph.adjacency.sum(axis=1)
    matrix = np.where(graph.adjacency, 1.0 / np.maximum(np.maximum(degree[:, None], degree), 1), 0.0)
    np.fill_diagonal(matrix, np.maximum(0.0, 1.0 - matrix.sum(axis=1)))
    return matrix


def mixing_matrix(graph: Graph) -> Matrix:
    r"""Matrix of an exchange in the mean, shape (p, p): :math:`\bar W = (I + P) / 2`, P of :func:`metropolis`.

    That is :math:`E\,W` of gossip by pull on any graph, and of symmetric gossip on a complete graph of even p.
    """
    return np.asarray((np.eye(graph.peers) + metropolis(graph)) / 2)


def spectral_gap(matrix: Matrix) -> float:
    r"""How much of the disagreement an exchange takes away: :math:`1 - \|W - \mathbf{1}\mathbf{1}^T / p\|_2`.

    For a symmetric W of row sums 1, whose largest eigenvalue is 1, that is 1 less the second largest modulus. 0 if the
    graph is in parts.

    Parameters
    ----------
    matrix : ndarray of shape (p, p)
        W.

    Raises
    ------
    ValueError
        If it is not symmetric with rows that sum to 1.
    """
    ones = np.ones(len(matrix))
    if not np.allclose(matrix, matrix.T) or not np.allclose(matrix @ ones, ones):
        raise ValueError("matrix: not a symmetric one with rows that sum to 1; accepted: one of mixing_matrix")
    rest = eigvalsh(matrix - np.outer(ones, ones) / len(matrix))
    return float(max(0.0, 1.0 - np.abs(rest).max()))


def graph_gap(graph: Graph) -> float:
    r"""The :func:`spectral_gap` of a graph's :func:`mixing_matrix`: in closed form where there is one.

    That is p / (2 (p - 1)) of a complete graph, :math:`(1 - \cos(2\pi/p)) / 2` of a ring of p > 2, and
    :math:`(1 - \cos(2\pi/b)) / 4` of a torus of sides :math:`3 \le a \le b`; in general, of a torus whose peers have
    d neighbours, :math:`\min_n \lambda_n / (2 d)` over its sides n > 1, with the gap :math:`\lambda_n` of the Laplacian
    of a ring, 2 (1 - cos(2 pi / n)), or 2 of a pair.
    """
    p, edges = graph.peers, len(np.asarray(graph.edges))
    if edges == p * (p - 1) // 2:
        return p / (2 * (p - 1))
    if edges <= 2 * p:
        for rows in (a for a in range(1, p) if p % a == 0):
            if np.array_equal(np.asarray(graph.edges), np.asarray(grid(rows, p // rows).edges)):
                return _torus_gap(rows, p // rows)
    return spectral_gap(mixing_matrix(graph))


def _torus_gap(*sides: int) -> float:
    around = [n for n in sides if n > 1]
    neighbours = sum(min(2, n - 1) for n in around)
    # 1 - cos(2 x) = 2 sin(x)^2, which keeps its digits where x is small.
    return min(2.0 if n == 2 else 4 * math.sin(math.pi / n) ** 2 for n in around) / (2 * neighbours)
