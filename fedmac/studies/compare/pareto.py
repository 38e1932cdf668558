"""The Pareto front: which points no other beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Pareto:
    """Which series no other beats.

    Attributes
    ----------
    columns : tuple of str
        The two or three figures.
    best : tuple of str
        For each, "low" or "high".
    points : DataFrame
        A row per series that has all of them: ``name``, the columns, ``on_front`` (bool).
    """

    columns: tuple[str, ...]
    best: tuple[str, ...]
    points: pd.DataFrame


def on_front(values: ArrayLike, best: Sequence[str]) -> NDArray[np.bool_]:
    """Which points are on the Pareto front.

    A point is dominated by another that is as good in every column and better in one; those that none dominates are
    the front. Equal points do not dominate each other: ties are on it together.

    Parameters
    ----------
    values : array_like, shape (points, columns)
        Finite.
    best : sequence of {"low", "high"}
        What is good, for each column.

    Returns
    -------
    ndarray of bool, shape (points,)
    """
    costs = np.asarray(values, dtype=np.float64) * [1.0 if direction == "low" else -1.0 for direction in best]
    no_worse = (costs[:, np.newaxis] <= costs).all(axis=2)  # [i, j]: i is as good as j everywhere
    better = (costs[:, np.newaxis] < costs).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def pareto_front(names: Sequence[str], columns: Sequence[str], values: ArrayLike, best: Sequence[str]) -> Pareto:
    """The front of named points; those with a value that is not finite are left out.

    Parameters
    ----------
    names : sequence of str
    columns : sequence of str
    values : array_like, shape (names, columns)
    best : sequence of {"low", "high"}
        For each column.
    """
    points = pd.DataFrame(np.asarray(values, dtype=np.float64).reshape(len(names), len(columns)), columns=[*columns])
    points.insert(0, "name", list(names))
    points = points.loc[np.isfinite(points[[*columns]].to_numpy()).all(axis=1)].reset_index(drop=True)
    points["on_front"] = on_front(points[[*columns]].to_numpy(), best)
    return Pareto(tuple(columns), tuple(best), points)
