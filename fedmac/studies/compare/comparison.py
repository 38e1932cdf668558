"""Comparing runs: curves over any cost, what it took to get there, and which differences can be claimed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmac.axes import AXES, best_direction, label
from fedmac.scenario_errors import ScenarioError, meant
from fedmac.studies.compare.contenders import Contender, baselines, contenders, not_recorded, numeric_keys
from fedmac.studies.compare.curves import (
    Curve,
    Target,
    cost,
    cost_to_target,
    height,
    mean_curve,
    shared_range,
)
from fedmac.studies.compare.fairness import require_same_task, unequal_budgets
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.gathering import Runs, Source, gather
from fedmac.studies.compare.pareto import Pareto, pareto_front
from fedmac.studies.compare.samples import SAMPLES, with_samples
from fedmac.studies.compare.statistics import Contrast, Estimate, Pair, estimate, paired

__all__ = ["Comparison", "Curve", "Estimate", "Pair", "Pareto", "Series", "Source", "Target", "compare"]


def compare(
    folders: Sequence[str | Path],
    x: str = "round",
    y: str | None = None,
    to: tuple[str, float] | None = None,
    baseline: str | None = None,
    unequal: bool = False,
    pareto: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Comparison:
    """Compare the runs in one or more folders.

    Parameters
    ----------
    folders : sequence of path
        Run folders, sweep folders, or folders that hold some of them.
    x : str
        Cost to compare over: round, exchange, samples (:func:`~fedmac.studies.compare.samples.with_samples`),
        channel_uses, bits, energy, air_time, clock, wall.
    y : str, optional
        Any number in the records' rounds: test_accuracy, test_loss, train_loss, mse_measured, ... By default
        test_accuracy, or test_loss where no model has an accuracy (autoencoders).
    to : (str, float), optional
        A target: key and value. Accuracies reach it from below, everything else from above.
    baseline : str, optional
        Name of a series, or of a variant that each cell of a sweep has. By default the first.
    unequal : bool
        Unequal budgets are wanted: they are not labelled.
    pareto : sequence of str
        Two or three of: an axis, y, "area", "target" (cost to reach it), a number in the records.
    only : sequence of str
        Names of the series or variants to compare; all if empty.

    Returns
    -------
    Comparison

    Raises
    ------
    ScenarioError
        If the records have no such axis or figure, or do not tell the samples asked for, a name is not there, or the
        folders' data or model differ.
    RecordError
        If a folder holds no run, or a record cannot be read.
    """
    found = gather(folders)
    notices = list(found.notices)
    y = y or _default_figure(found.runs)
    those = contenders(found.runs, y, only, notices)
    if not those:
        raise ScenarioError(f"{', '.join(map(str, folders))}: no round is recorded yet; accepted: runs that have begun")
    scenarios: dict[str, list[Any]] = {}
    for own in those:
        scenarios.setdefault(own.runs.source.name, []).append(own.runs.variant.scenario)
    require_same_task(scenarios, found.swept)
    if SAMPLES in (x, *pareto):
        those = with_samples(those, "x" if x == SAMPLES else "pareto")
    return _Weighing(those, x, y, to, notices).comparison(baseline, unequal, pareto, found.sources)


def _default_figure(runs: Sequence[Runs]) -> str:
    recorded = {key for own in runs for rounds in own.seeds.values() for row in rounds for key in row}
    return "test_loss" if "test_loss" in recorded and "test_accuracy" not in recorded else "test_accuracy"


class _Weighing:
    """The steps of a comparison of contenders over x."""

    def __init__(
        self, those: list[Contender], x: str, y: str, to: tuple[str, float] | None, notices: list[str]
    ) -> None:
        self.those, self.x, self.y, self.to, self.notices = those, x, y, to, notices
        self.keys = numeric_keys(those)
        for option, key in (("y", y), ("to", to[0] if to else y)):
            if key not in self.keys:
                raise not_recorded(option, key, self.keys)
        if to and not math.isfinite(to[1]):
            raise ScenarioError(f"to = {to[0]}={to[1]}: accepted: a finite number")
        self.units = {own.runs.variant.scenario.channel.units for own in those}
        self.curves = {own.name: self._curves(own) for own in those}
        self.axes = self._axes()

    def comparison(
        self, baseline: str | None, unequal: bool, pareto: Sequence[str], sources: tuple[Source, ...]
    ) -> Comparison:
        """All of it."""
        name, measures = baselines(self.those, baseline)
        budgets = [self._unequal(own, measure) for own, measure in zip(self.those, measures, strict=True)]
        span = self._span()
        series = tuple(
            self._series(own, measure, () if unequal else differs, span)
            for own, measure, differs in zip(self.those, measures, budgets, strict=True)
        )
        front = self._pareto(pareto, series) if pareto else None
        contrasts = [
            Contrast(own.name, measure.name, own.finals, measure.finals)
            for own, measure in zip(self.those, measures, strict=True)
            if own is not measure
        ]
        self._note_seeds()
        self._note_cells(list({id(measure): measure for measure in measures}.values()))
        return Comparison(
            x=self.x,
            y=self.y,
            baseline=name,
            series=series,
            pairs=paired(contrasts, self._label(self.y)),
            target=self.to,
            pareto=front,
            notices=tuple(dict.fromkeys(self.notices)),
            equal=not any(budgets),
            labels={key: self._label(key) for key in (*self.axes, self.y, *pareto)},
            axes=self.axes,
            sources=sources,
            shared=span,
        )

    def _curves(self, own: Contender) -> dict[str, Curve]:
        curves = {axis: mean_curve(own.curves(axis)) for axis in self._possible_axes()}
        return {axis: curve for axis, curve in curves.items() if curve is not None}

    def _possible_axes(self) -> list[str]:
        return [axis for axis in AXES if axis != "energy" or len(self.units) == 1]

    def _axes(self) -> tuple[str, ...]:
        """The axes that some series has, x first; refuses an x that none has."""
        there = [axis for axis in AXES if any(axis in curves for curves in self.curves.values())]
        if self.x not in AXES:
            known = list(dict.fromkeys([*there, SAMPLES]))  # which is counted only when it is asked for
            raise ScenarioError(f"x = {self.x!r}: no such axis; {meant(self.x, known)}accepted: {', '.join(known)}")
        if len(self.units) > 1:
            reason = "some runs are in physical units (J), others in normalised ones"
            if self.x == "energy":
                raise ScenarioError(f"x = 'energy': {reason}; accepted: {', '.join(there)}")
            self.notices.append(f"{reason}: their energies cannot be compared")
        if self.x not in there:
            reason = f"{self.y} is recorded at one {self._label(self.x)} only, or none"
            raise ScenarioError(f"x = {self.x!r}: {reason}; accepted: {', '.join(there) or 'runs with more rounds'}")
        self._note_absences(there)
        return (self.x, *(axis for axis in there if axis != self.x))

    def _note_absences(self, there: Sequence[str]) -> None:
        absent: dict[tuple[str, ...], list[str]] = {}
        for own in self.those:
            if own.finals:
                axes = tuple(axis for axis in there if axis not in self.curves[own.name])
                absent.setdefault(axes, []).append(own.name)
            elif not own.diverged:
                self.notices.append(f"{own.name}: no {self._label(self.y)} recorded")
        for axes, names in absent.items():
            if axes:
                over = ", ".join(self._label(axis) for axis in axes)
                self.notices.append(
                    f"{', '.join(names)}: not drawn over {over}, of which the record has at most one value"
                )

    def _note_seeds(self) -> None:
        for own in self.those:
            for seed in own.diverged:
                self.notices.append(f"{own.name}: seed {seed} diverged ({self._label(self.y)} not finite), left out")
        single = [own.name for own in self.those if len(own.seeds) == 1]
        if single:
            which = "" if len(single) == len(self.those) else f"{', '.join(single)}: "
            self.notices.append(f"{which}one seed: no band, no test; run with --seeds 5")

    def _note_cells(self, measures: Sequence[Contender]) -> None:
        """Where each cell has its own baseline, what a cell may spend can still differ from another's."""
        differs = {text for own in measures for text in self._unequal(own, measures[0])}
        if differs:
            words = ", ".join(sorted({re.split(r" [^a-z]", text)[0] for text in differs}))
            self.notices.append(f"budgets are measured within each cell; from cell to cell they differ ({words})")

    def _unequal(self, own: Contender, measure: Contender) -> tuple[str, ...]:
        return unequal_budgets(own.budget, measure.budget, energy=len(self.units) == 1)

    def _span(self) -> tuple[float, float] | None:
        """The range of x that all series share which are drawn over it."""
        span = shared_range([curve for own in self.those for curve in own.curves(self.x)])
        if span is None:
            self.notices.append(f"no area: the series share no range of {self._label(self.x)}")
        return span

    def _series(
        self, own: Contender, measure: Contender, unequal: tuple[str, ...], span: tuple[float, float] | None
    ) -> Series:
        heights = [height(curve, *span) for curve in own.curves(self.x)] if span else []
        return Series(
            name=own.name,
            settings=dict(own.runs.settings),
            variant=own.runs.variant.name,
            folder=own.runs.source.folder,
            seeds=tuple(own.seeds),
            budget=own.budget,
            unequal=unequal,
            curves=self.curves[own.name],
            final=estimate(own.finals.values()),
            costs=self._costs(own),
            target=self._target(own),
            is_baseline=own is measure,
            area=estimate(heights) if heights else None,
        )

    def _costs(self, own: Contender) -> dict[str, Estimate]:
        costs = {axis: [cost(rounds, axis) for rounds in own.seeds.values()] for axis in self._possible_axes()}
        known = {axis: [float(c[-1]) for c in each if c is not None] for axis, each in costs.items()}
        return {axis: estimate(values) for axis, values in known.items() if values}

    def _target(self, own: Contender) -> Target | None:
        if self.to is None:
            return None
        return cost_to_target(list(own.finite.values()), self.x, *self.to, diverged=len(own.diverged))

    def _pareto(self, columns: Sequence[str], series: Sequence[Series]) -> Pareto:
        if len(columns) not in (2, 3) or len(set(columns)) < len(columns):
            raise ScenarioError(f"pareto = {','.join(columns)}: accepted: two or three different columns")
        known = [*self.axes, self.y, "area", *(["target"] if self.to else []), *self.keys]
        for column in columns:
            if column not in known:
                raise not_recorded("pareto", column, known)
        values = [[self._figure(s, own, c) for c in columns] for s, own in zip(series, self.those, strict=True)]
        best = [best_direction(self.y if column == "area" else column) for column in columns]
        front = pareto_front([s.name for s in series], columns, values, best)
        left_out = [s.name for s in series if s.name not in set(front.points["name"])]
        if left_out:
            self.notices.append(f"{', '.join(left_out)}: not in the Pareto plot, for a figure is missing")
        return front

    def _figure(self, series: Series, own: Contender, column: str) -> float:
        if column == "area":
            found = series.area
        elif column == "target":
            found = series.target.cost if series.target else None
        elif column in AXES:
            found = series.costs.get(column)
        else:
            found = estimate(own.last(column).values())
        return found.mean if found is not None else math.nan

    def _label(self, key: str) -> str:
        unit = "J" if self.units == {"physical"} else "normalised"
        if key == "area":
            return f"mean {label(self.y, unit)} over {label(self.x, unit)}"
        if key == "target" and self.to:
            return f"{label(self.x, unit)} to {label(self.to[0], unit)} {self.to[1]:g}"
        return label(key, unit)
