"""What a comparison finds: plain facts, for tables, figures and pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmac.budget import Budget
from fedmac.studies.compare.curves import Curve, Target
from fedmac.studies.compare.gathering import Source
from fedmac.studies.compare.pareto import Pareto
from fedmac.studies.compare.statistics import Estimate, Pair


@dataclass(frozen=True)
class Series:
    """A variant's runs under all their seeds.

    Attributes
    ----------
    name : str
        Unique label: the variant; in a sweep its cell, and the variant where there are several; the folder too where
        several have the same.
    settings : mapping
        Swept keys of its cell; empty outside sweeps.
    variant : str
    folder : Path
        The folder given.
    seeds : tuple of int
        Those that count: finished ones, or all if none is.
    budget : Budget
        What it may spend over all rounds.
    unequal : tuple of str
        ``("energy +31 %", "channel uses −50 %")`` against its baseline; empty if equal within 2 %, or if that is
        wanted.
    curves : mapping of str to Curve
        By x axis, those it has.
    final : Estimate
        y after the last round.
    costs : mapping of str to Estimate
        By x axis, after the last round.
    target : Target or None
        What it cost to get there, if a target was given.
    is_baseline : bool
        Others are measured against it: no pair, and equal to itself.
    area : Estimate or None
        Mean height of the curve over the x range that all series share.
    """

    name: str
    settings: Mapping[str, Any]
    variant: str
    folder: Path
    seeds: tuple[int, ...]
    budget: Budget
    unequal: tuple[str, ...]
    curves: Mapping[str, Curve]
    final: Estimate
    costs: Mapping[str, Estimate]
    target: Target | None
    is_baseline: bool
    area: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """All figures behind a comparison; see :func:`fedmac.studies.compare.comparison.compare`.

    Attributes
    ----------
    x, y : str
        Axis and figure compared.
    baseline : str
        Name of a series; or of a variant, where in a sweep each cell's series are measured against that variant in
        the same cell (:attr:`Series.is_baseline` and :attr:`Pair.baseline` say which).
    series : tuple of Series
    pairs : tuple of Pair
        A line for each series that is no baseline.
    target : (str, float) or None
    pareto : Pareto or None
    notices : tuple of str
        What a reader must know: seeds left out, one seed only, series left out of an axis.
    equal : bool
        Whether all budgets are equal to their baseline's within 2 %, whatever was asked to be silenced. Of baselines
        that differ from cell to cell a notice tells.
    labels : mapping of str to str
        Label with unit of each axis, of y and of the Pareto columns.
    axes : tuple of str
        The axes that can be shown, `x` first.
    sources : tuple of Source
        What was run.
    shared : (float, float) or None
        The range of x that all series share, over which :attr:`Series.area` is the mean.
    """

    x: str
    y: str
    baseline: str
    series: tuple[Series, ...]
    pairs: tuple[Pair, ...]
    target: tuple[str, float] | None
    pareto: Pareto | None
    notices: tuple[str, ...]
    equal: bool
    labels: Mapping[str, str]
    axes: tuple[str, ...]
    sources: tuple[Source, ...]
    shared: tuple[float, float] | None = None
