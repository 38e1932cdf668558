"""The levels by which a density is quantised with the least squared error."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import NDArray

Density = Literal["normal", "uniform"]


@lru_cache(maxsize=256)
def lloyd_max(count: int, density: Density = "normal", *, folded: bool = False) -> NDArray[np.float64]:
    r"""Levels of the density whose mean square is 1, rising; read-only.

    Each level is the mean of those it is nearest to [1]_ [2]_. With cells between the midpoints of levels, the mean of
    the normal density over (s, t) is :math:`(\varphi(s) - \varphi(t)) / (\Phi(t) - \Phi(s))`; those of a uniform
    density are cells of equal width, and their middles.

    Parameters
    ----------
    count : int
        How many, >= 1.
    density : {"normal", "uniform"}
        Standard normal, or uniform on :math:`[-\sqrt3, \sqrt3]`.
    folded : bool
        That of the magnitude instead: of what is never negative.

    References
    ----------
    .. [1] S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 28(2), 1982.
    .. [2] J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6(1), 1960.
    """
    middles = (np.arange(count) + 0.5) / count
    uniform: NDArray[np.float64] = np.sqrt(3) * (middles if folded else 2 * middles - 1)
    levels = uniform if density == "uniform" else _normal_levels(middles, folded)
    levels.flags.writeable = False
    return levels


def _normal_levels(middles: NDArray[np.float64], folded: bool) -> NDArray[np.float64]:
    # The best density of many levels goes with the cube root of the density, a normal one of variance 3: start there.
    levels: NDArray[np.float64] = np.sqrt(3) * scipy.special.ndtri((1 + middles) / 2 if folded else middles)
    ends = np.array([0.0 if folded else -np.inf]), np.array([np.inf])
    for _ in range(100_000):
        bounds = np.concatenate([ends[0], (levels[1:] + levels[:-1]) / 2, ends[1]])
        heights = np.exp(-(bounds**2) / 2) / np.sqrt(2 * np.pi)
        means = -np.diff(heights) / np.diff(scipy.special.ndtr(bounds))
        if np.max(np.abs(means - levels)) < 1e-10:
            break
        levels = means
    return levels
