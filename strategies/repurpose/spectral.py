r"""Owners to start from that put units together which belong together: spectral clustering with a number of places.

Units are nodes of a graph, :math:`A_{ij}` what is lost if i and j are apart. The P leading eigenvectors of
:math:`D^{-1/2} A D^{-1/2}` give each unit a point on the sphere; centres are found by a QR factorisation with pivots
(Damle, Minden and Ying, "Simple, direct and efficient multi-way spectral clustering", 2019), which needs no random
start, and units go to centres by the Hungarian algorithm, as many as each worker has places for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.linalg import qr

from strategies.repurpose.arrangement import Cut
from strategies.repurpose.assignment import assign
from strategies.repurpose.owners import EVERYWHERE, Owners, Real

ROUNDS = 10
"""Of moving centres to the mean of their units."""
SPARE, ITERATIONS = 8, 60
"""Of the subspace iteration: vectors more than are needed, and steps; a start need not be exact."""
TIE = 1e-9
"""Share of the mean affinity that every unit has with every other, so that none stands alone."""


def spectral_owners(
    cuts: Sequence[Cut], owners: Sequence[Owners], places: Sequence[Sequence[int]], workers: int
) -> list[Owners]:
    """Owners that keep strong connections inside a worker, whatever sending costs.

    Parameters
    ----------
    cuts : sequence of Cut
        What joins the units of the owners.
    owners : sequence of ndarray
        Those that begin with EVERYWHERE stay; of the others only the number of units counts.
    places : sequence of sequences of int
    workers : int
        P.
    """
    free = [number for number, own in enumerate(owners) if own[0] != EVERYWHERE]
    starts = dict(zip(free, np.cumsum([0, *(len(owners[number]) for number in free)]), strict=False))
    size = sum(len(owners[number]) for number in free)
    if workers < 2 or size <= workers + 1 or not cuts:
        return [np.array(own) for own in owners]
    points = _points(cuts, starts, size, workers)
    return _grouped(points, owners, starts, places, workers)


def _points(cuts: Sequence[Cut], starts: dict[int, int], size: int, workers: int) -> Real:
    """A point on the sphere for each unit, shape (units of all owners, P)."""
    blocks = [(starts[cut.before], starts[cut.after], cut.loss.T / cut.loss.mean()) for cut in cuts if cut.loss.any()]
    degree = np.full(size, TIE * size)
    for units, rows, loss in blocks:
        degree[units : units + loss.shape[0]] += loss.sum(1)
        degree[rows : rows + loss.shape[1]] += loss.sum(0)
    root = 1.0 / np.sqrt(degree)

    def affinity(vectors: Real) -> Real:
        scaled = root[:, None] * vectors
        found = np.tile(TIE * scaled.sum(0), (size, 1))
        for units, rows, loss in blocks:
            found[units : units + loss.shape[0]] += loss @ scaled[rows : rows + loss.shape[1]]
            found[rows : rows + loss.shape[1]] += loss.T @ scaled[units : units + loss.shape[0]]
        return np.asarray(root[:, None] * found)

    vectors = _leading(affinity, size, workers)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def _leading(affinity: Callable[[Real], Real], size: int, count: int) -> Real:
    """Leading eigenvectors by subspace iteration, which, unlike Lanczos', finds eigenvalues that are alike."""
    vectors = np.random.default_rng(0).standard_normal((size, min(size, count + SPARE)))
    for _ in range(ITERATIONS):
        # A and I are added because eigenvalues of a bipartite graph come in pairs of either sign.
        vectors, _ = np.linalg.qr(vectors + affinity(vectors))
    values, rotation = np.linalg.eigh(vectors.T @ affinity(vectors))
    return np.asarray(vectors @ rotation[:, np.argsort(values)[::-1][:count]])


def _grouped(
    points: Real, owners: Sequence[Owners], starts: dict[int, int], places: Sequence[Sequence[int]], workers: int
) -> list[Owners]:
    _, pivots = qr(points.T, mode="r", pivoting=True)
    centres = points[pivots[:workers]]
    found = [np.array(own) for own in owners]
    for _ in range(ROUNDS):
        before = found.copy()
        sums = np.zeros_like(centres)
        for number, start in starts.items():
            own = points[start : start + len(owners[number])]
            found[number] = assign(-own @ centres.T, places[number])
            np.add.at(sums, found[number], own)
        if all(np.array_equal(old, new) for old, new in zip(before, found, strict=True)):
            break
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 1e-12, sums / np.maximum(lengths, 1e-12), centres)
    return found
