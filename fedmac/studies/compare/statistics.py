"""What figures of a few seeds allow to say: a mean and its confidence, and whether two variants differ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from fedmac.report.over_seeds import CONFIDENCE, half_width

LEVEL = 1 - CONFIDENCE
_ROUNDING = 1e-12  # of the values compared: what double precision may leave of a difference that is none


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how well they pin it down.

    Attributes
    ----------
    mean : float
        Mean of the finite values; nan if there is none.
    half_width : float or None
        Half the 95 % confidence interval ``t_{0.975, n-1} s / sqrt(n)`` by Student's t, s the standard deviation of
        the sample; None for fewer than two values.
    n : int
        Number of finite values.
    """

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval; nan for fewer than two values."""
        return self.mean - (math.nan if self.half_width is None else self.half_width)

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval; nan for fewer than two values."""
        return self.mean + (math.nan if self.half_width is None else self.half_width)

    def __str__(self) -> str:
        """``0.8932 ± 0.0042``: both to two digits of the half width; four digits of the mean if there is none."""
        if not math.isfinite(self.mean):
            return "\N{EN DASH}"
        if not self.half_width:
            return _four_digits(self.mean)
        decimals = 1 - math.floor(math.log10(self.half_width))
        if decimals > 9 or self.half_width >= 1e9:
            return f"{self.mean:.4g} ± {self.half_width:.2g}"
        mean, half_width = (round(value, decimals) for value in (self.mean, self.half_width))
        places = max(0, decimals)
        return f"{mean:,.{places}f} ± {half_width:,.{places}f}"

    def precise(self) -> str:
        """As ``str``, but at least three digits of a small mean: ``0.000441 ± 0.012``, ``4.41e-07 ± 1.2e-07``."""
        if not self.half_width or not 0 < abs(self.mean) < 0.1:
            return str(self)
        known = math.floor(math.log10(abs(self.mean))) - math.floor(math.log10(self.half_width)) + 2
        return f"{self.mean:#.{max(3, known)}g} ± {self.half_width:#.2g}"


@dataclass(frozen=True)
class Contrast:
    """What to compare: a series' figure under each seed, and its baseline's."""

    name: str
    baseline: str
    values: Mapping[int, float]
    reference: Mapping[int, float]


@dataclass(frozen=True)
class Pair:
    """A series less its baseline, over the seeds both have.

    Attributes
    ----------
    name, baseline : str
        The two series.
    difference : Estimate
        Of the differences seed by seed.
    t_p, wilcoxon_p, holm_p : float or None
        p of the paired t test and of Wilcoxon's signed-rank test, two-sided, and the former by Holm over all pairs;
        None where a test is not defined.
    sentence : str
        What that says.
    """

    name: str
    baseline: str
    difference: Estimate
    t_p: float | None
    wilcoxon_p: float | None
    holm_p: float | None
    sentence: str


def estimate(values: Iterable[float]) -> Estimate:
    """Mean and 95 % confidence half width of the finite ones of `values`."""
    sample = np.asarray(list(values), dtype=np.float64)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return Estimate(math.nan, None, 0)
    half_width = half_widths(sample[:, np.newaxis])
    return Estimate(float(sample.mean()), None if half_width is None else float(half_width[0]), len(sample))


def half_widths(samples: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Half the 95 % interval of each column's mean by Student's t; None for fewer than two rows.

    Parameters
    ----------
    samples : ndarray, shape (seeds, points)

    Returns
    -------
    ndarray, shape (points,), or None
    """
    n = len(samples)
    if n < 2:
        return None
    deviation = samples.std(axis=0, ddof=1)
    deviation[np.ptp(samples, axis=0) <= _ROUNDING * np.abs(samples).max(axis=0)] = 0.0
    return half_width(deviation, n)


def paired(contrasts: Sequence[Contrast], quantity: str) -> tuple[Pair, ...]:
    """The paired difference of each contrast, tested, and adjusted for their number by Holm's method.

    Parameters
    ----------
    contrasts : sequence of Contrast
        What to compare with what.
    quantity : str
        What the figures are, for the sentences: "test accuracy".

    Notes
    -----
    The same seed means the same data split, initial model and channel in both, so differences seed by seed scatter
    less than the figures do. With 5 seeds the signed-rank test cannot go below p = 2 / 2**5 = 0.0625, whatever the
    differences: at 5 % it can speak from 6 seeds on. Claims therefore rest on the t test.
    """
    pairs = [_tested(contrast) for contrast in contrasts]
    adjusted = iter(holm([pair.t_p for pair in pairs if pair.t_p is not None]))
    pairs = [replace(pair, holm_p=next(adjusted) if pair.t_p is not None else None) for pair in pairs]
    family = sum(pair.t_p is not None for pair in pairs)
    return tuple(replace(pair, sentence=_sentence(pair, quantity, family)) for pair in pairs)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: sorted ``p_(i)`` to ``max_{j<=i} min(1, (m - j + 1) p_(j))``, in the order given.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statistics 6 (1979).
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.minimum(1.0, values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(stepped)
    return [float(value) for value in adjusted]


def _tested(contrast: Contrast) -> Pair:
    values, reference = contrast.values, contrast.reference
    both = [k for k in sorted(values.keys() & reference.keys()) if math.isfinite(values[k] - reference[k])]
    first, second = (np.array([side[k] for k in both], dtype=np.float64) for side in (values, reference))
    # Differences that only rounding tells apart are ties, and those that it alone makes are none.
    grain = _ROUNDING * float(np.abs([first, second]).max(initial=0.0)) or 1.0
    differences = np.round((first - second) / grain) * grain
    t_p, wilcoxon_p = _tests(differences)
    return Pair(contrast.name, contrast.baseline, estimate(differences), t_p, wilcoxon_p, None, "")


def _tests(differences: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """p of the paired t test and of the signed-rank test; None where one is not defined."""
    if len(differences) < 2 or not differences.any():
        return None, None
    t_p = float(stats.ttest_1samp(differences, 0.0).pvalue) if np.ptp(differences) > 0 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties and zeros, which scipy allows for
        return t_p, float(stats.wilcoxon(differences).pvalue)


def _sentence(pair: Pair, quantity: str, family: int) -> str:
    seeds = f"{pair.difference.n} seed{'s' if pair.difference.n != 1 else ''}"
    if pair.difference.n == 0:
        return f"{pair.name} and {pair.baseline} have no seed in common: no test."
    what = f"{_difference(pair)} in {quantity}"
    if pair.difference.n == 1:
        return f"{what} (1 seed: no test; run with --seeds 5)."
    if pair.wilcoxon_p is None:  # not one difference
        return f"{what} under every one of {seeds}."
    by_rank = f"Wilcoxon p {_p(pair.wilcoxon_p)}"
    if pair.t_p is None or pair.holm_p is None:
        return f"{what} under every one of {seeds}, without spread: the t test is not defined ({by_rank})."
    adjusted = f", Holm {_p(pair.holm_p).removeprefix('= ')}" if family > 1 else ""
    claim = "the difference can be claimed" if pair.holm_p < LEVEL else "no difference can be claimed"
    return f"{what} ({seeds}; paired t p {_p(pair.t_p)}{adjusted}; {by_rank}): {claim} at 5 %."


def _difference(pair: Pair) -> str:
    mean, half_width = pair.difference.mean, pair.difference.half_width
    if mean == 0.0:
        return f"{pair.name} is the same as {pair.baseline}" + (f" ± {half_width:.2g} on average" if half_width else "")
    size = Estimate(abs(mean), half_width, pair.difference.n)
    return f"{pair.name} is {'higher' if mean > 0 else 'lower'} than {pair.baseline} by {size}"


def _four_digits(value: float) -> str:
    value = float(f"{value:.4g}") if abs(value) < 1e4 else value
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"
