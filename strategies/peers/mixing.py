"""How fast a graph mixes: the matrix of an exchange in the mean, and its spectral gap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from strategies.peers.graph import Graph

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
    graph is in parts. For :math:`\bar W` of a ring :math:`(1 - \cos(2\pi/p)) / 2`, of a complete graph
    p / (2 (p - 1)), of a torus of sides a <= b, a >= 3, :math:`(1 - \cos(2\pi/b)) / 4`.

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
