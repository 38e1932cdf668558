"""Means over seeds with their confidence, and the numbers of a column that can be averaged or drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


def half_width(std: ArrayLike, seeds: ArrayLike) -> NDArray[np.float64]:
    r"""Return the half width of the 95 % confidence interval of a mean, by Student's t.

    .. math:: t_{0.975, n - 1} \, s / \sqrt{n}

    Parameters
    ----------
    std
        s, standard deviation of the sample (n - 1).
    seeds
        n, its size; for one the half width is NaN.
    """
    n = np.asarray(seeds, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        quantile = stdtrit(np.where(n > 1, n - 1, np.nan), 0.5 + CONFIDENCE / 2)
        return np.asarray(quantile * np.asarray(std, dtype=np.float64) / np.sqrt(n))


def mean_over_seeds(rows: pd.DataFrame, value: str, x: str = "round") -> pd.DataFrame:
    """Average one variant's `value` and `x` over seeds, round by round.

    Returns
    -------
    DataFrame
        Columns ``round``, ``x``, ``mean``, ``half_width`` (see :func:`half_width`; NaN for one seed) and
        ``seeds``, for the rounds in which `value` and `x` are finite for at least one seed.
    """
    number, cost, score = (numbers(rows[column]) for column in ("round", x, value))
    # Before training nothing was sent: a cost that round 0 does not carry is zero.
    cost = np.where((number == 0) & np.isnan(cost), 0.0, cost)
    known = np.isfinite(number) & np.isfinite(cost) & np.isfinite(score)
    number, cost, score = number[known], cost[known], score[known]
    rounds, place, seeds = np.unique(number, return_inverse=True, return_counts=True)
    mean = np.bincount(place, score) / seeds
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = np.sqrt(np.bincount(place, (score - mean[place]) ** 2) / (seeds - 1))
    columns = {"round": rounds, "x": np.bincount(place, cost) / seeds, "mean": mean}
    return pd.DataFrame(columns | {"half_width": half_width(deviation, seeds), "seeds": seeds})


def welch_p(mean: float, std: float, seeds: int, other_mean: float, other_std: float, other_seeds: int) -> float:
    r"""Return the two-sided p value of Welch's t test of equal means.

    .. math:: t = (m_1 - m_2) / \sqrt{v_1 + v_2}, \quad v_i = s_i^2 / n_i, \quad
        \nu = (v_1 + v_2)^2 / (v_1^2 / (n_1 - 1) + v_2^2 / (n_2 - 1))

    The same as ``scipy.stats.ttest_ind_from_stats(..., equal_var=False)``, without importing all of that package,
    which would take longer than the rest of a page. Without any deviation equal means have p = 1, others 0.
    """
    first, second = std**2 / seeds, other_std**2 / other_seeds
    variance = first + second
    if variance == 0.0:
        return float(mean == other_mean)
    freedom = variance**2 / (first**2 / (seeds - 1) + second**2 / (other_seeds - 1))
    return float(2.0 * stdtr(freedom, -abs(mean - other_mean) / np.sqrt(variance)))


def thin(length: int, limit: int) -> NDArray[np.intp]:
    """Return at most `limit` evenly spaced indices into a sequence of `length`, first and last included."""
    return np.unique(np.linspace(0, length - 1, min(length, limit)).round()).astype(np.intp)


def numbers(column: Any) -> NDArray[np.float64]:
    """Return a column as float64, null as NaN."""
    return np.asarray(pd.to_numeric(column), dtype=np.float64)


def finite(column: Any) -> NDArray[np.float64]:
    """Return the finite values of a column."""
    values = numbers(column)
    return values[np.isfinite(values)]
