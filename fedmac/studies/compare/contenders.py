"""What is compared: each series' name, the seeds of it that count, and what it is measured against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from fedmac.budget import Budget, budget_of
from fedmac.record import RecordError
from fedmac.scenario_errors import ScenarioError, meant, shown
from fedmac.studies.compare.curves import Points, Rounds, points
from fedmac.studies.compare.gathering import Runs

_MOST_LISTED = 12
_NO_FIGURES = ("seed", "round", "exchange", "samples", "parameters", "training_examples")


@dataclass(frozen=True)
class Contender:
    """A variant's runs under the seeds that count.

    Attributes
    ----------
    name : str
        Unique label.
    runs : Runs
        All that was found of it.
    y : str
        The figure compared.
    seeds : mapping of int to Rounds
        Finished seeds, or all if none is.
    """

    name: str
    runs: Runs
    y: str
    seeds: Mapping[int, Rounds]

    @cached_property
    def diverged(self) -> tuple[int, ...]:
        """Seeds whose y was finite and is not in the end."""
        return tuple(seed for seed, rounds in self.seeds.items() if _diverged(rounds, self.y))

    @cached_property
    def finite(self) -> dict[int, Rounds]:
        """The other seeds."""
        return {seed: rounds for seed, rounds in self.seeds.items() if seed not in self.diverged}

    @cached_property
    def finals(self) -> dict[int, float]:
        """y after the last round under each seed that has it."""
        return self.last(self.y)

    def last(self, key: str) -> dict[int, float]:
        """The last finite value of a key under each seed that did not diverge and has one."""
        values = {seed: _finite(rounds, key) for seed, rounds in self.finite.items()}
        return {seed: own[-1] for seed, own in values.items() if own}

    def curves(self, axis: str) -> list[Points]:
        """The curves of y over an axis, of the seeds that did not diverge."""
        found = (points(rounds, axis, self.y) for rounds in self.finite.values())
        return [curve for curve in found if curve is not None]

    @cached_property
    def budget(self) -> Budget:
        """What it may spend over all its rounds, as its scenario and the first seed's round 0 tell.

        Of a strategy whose exchanges depend on how the run goes, what it has spent.

        Raises
        ------
        RecordError
            If the record does not say how long an update is.
        """
        start: dict[str, float] = {}
        for rounds in self.runs.seeds.values():
            start = {**rounds[0], **start}
        if not math.isfinite(start.get("parameters", math.nan)):
            raise RecordError(f"{self.runs.source.folder}: {self.name} has no round 0 that says its parameters")
        examples = start.get("training_examples", math.nan)
        known = int(examples) if math.isfinite(examples) else None
        budget = budget_of(self.runs.variant.scenario, int(start["parameters"]), known)
        if budget.channel_uses is not None:
            return budget
        uses, energies = (list(self.last(key).values()) for key in ("channel_uses", "energy_j_per_device_mean"))
        return Budget(round(fmean(uses)), fmean(energies), known) if uses and energies else budget


def contenders(runs: Sequence[Runs], y: str, only: Sequence[str], notices: list[str]) -> list[Contender]:
    """Name the runs, choose those asked for, and leave out seeds that are not finished.

    Parameters
    ----------
    runs : sequence of Runs
    y : str
        The figure compared.
    only : sequence of str
        Names of series or variants; all if empty.
    notices : list of str
        Grows by what was left out.

    Raises
    ------
    ScenarioError
        If `only` names what is not there.
    """
    named = dict(zip(series_names(runs), runs, strict=True))
    known = [*named, *(own.variant.name for own in runs)]
    for word in only:
        if word not in known:
            raise _no_such("only", word, known)
    chosen = {name: own for name, own in named.items() if not only or name in only or own.variant.name in only}
    return [Contender(name, own, y, _counted(name, own, notices)) for name, own in chosen.items()]


def series_names(runs: Sequence[Runs]) -> list[str]:
    """Unique labels, no longer than need be: ``rlc``; ``snr_db=0, ratio=0.05: rlc``; ``folder: rlc``."""
    cells = [", ".join(f"{key.rsplit('.', 1)[-1]}={brief(value)}" for key, value in r.settings.items()) for r in runs]
    if len(set(zip(cells, (r.cell for r in runs), strict=True))) > len(set(cells)):
        cells = [r.cell for r in runs]
    variants = [r.variant.name for r in runs]
    single = len(set(variants)) == 1 and all(cells)
    names = [": ".join(filter(None, (cell, "" if single else v))) for cell, v in zip(cells, variants, strict=True)]
    if max(Counter(names).values(), default=0) == 1:
        return names
    folders = [r.source.name for r in runs]
    if single or (len(set(variants)) == 1 and max(Counter(folders).values()) == 1):
        return [": ".join(filter(None, (folder, cell))) for folder, cell in zip(folders, cells, strict=True)]
    return [f"{folder}: {name}" for folder, name in zip(folders, names, strict=True)]


def brief(value: Any) -> str:
    """A swept value as it reads in a label: six digits of a number, a text without quotes."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else shown(value)


def baselines(those: Sequence[Contender], baseline: str | None) -> tuple[str, list[Contender]]:
    """What each is measured against, and its name.

    A series' name: all against that one. A variant's: in each cell of a sweep, and each folder, against that variant
    there. By default the latter with the first variant where a sweep has several in each cell, else the first series.

    Raises
    ------
    ScenarioError
        If there is no such series or variant, or a cell lacks the variant.
    """
    names = {own.name: own for own in those}
    variants = list(dict.fromkeys(own.runs.variant.name for own in those))
    if baseline is None:
        by_cell = all(own.runs.cell for own in those) and len(variants) > 1 and len(_places(those, variants[0])) > 1
        complete = by_cell and {_place(own) for own in those} == _places(those, variants[0]).keys()
        baseline = variants[0] if complete else those[0].name
    if baseline in names:
        return baseline, [names[baseline]] * len(those)
    if baseline not in variants:
        raise _no_such("baseline", baseline, [*names, *variants])
    there = _places(those, baseline)
    for own in those:
        if _place(own) not in there:
            raise ScenarioError(f"baseline = {baseline!r}: {own.name} has none beside it; accepted: {_listed(names)}")
    return baseline, [there[_place(own)] for own in those]


def numeric_keys(those: Sequence[Contender]) -> list[str]:
    """The figures of the rounds that are finite somewhere; not what numbers the rounds."""
    rows = (row for own in those for rounds in own.seeds.values() for row in rounds)
    keys = dict.fromkeys(key for row in rows for key, value in row.items() if math.isfinite(value))
    return [key for key in keys if key not in _NO_FIGURES]


def not_recorded(option: str, key: str, known: Sequence[str]) -> ScenarioError:
    """What to say of a figure that no record has."""
    unique = list(dict.fromkeys(known))
    return ScenarioError(f"{option} = {key!r}: not recorded; {meant(key, unique)}accepted: {', '.join(unique)}")


def _place(own: Contender) -> tuple[str, str]:
    return own.runs.source.name, own.runs.cell


def _places(those: Sequence[Contender], variant: str) -> dict[tuple[str, str], Contender]:
    return {_place(own): own for own in those if own.runs.variant.name == variant}


def _counted(name: str, runs: Runs, notices: list[str]) -> dict[int, Rounds]:
    """The finished seeds; all of them if none is."""
    length = runs.variant.scenario.rounds
    finished = {
        seed: rounds for seed, rounds in runs.seeds.items() if rounds[-1]["round"] >= length or seed in runs.ended
    }
    begun = {seed: int(rounds[-1]["round"]) for seed, rounds in runs.seeds.items() if seed not in finished}
    if begun:
        how_far = ", ".join(f"seed {seed} at round {at} of {length}" for seed, at in begun.items())
        then = "left out" if finished else "compared as far as they go"
        notices.append(f"{name}: unfinished, {then} ({how_far})")
    return finished or dict(runs.seeds)


def _finite(rounds: Rounds, key: str) -> list[float]:
    return [row[key] for row in rounds if math.isfinite(row.get(key, math.nan))]


def _diverged(rounds: Rounds, key: str) -> bool:
    recorded = [row[key] for row in rounds if key in row]
    return bool(recorded) and not math.isfinite(recorded[-1]) and any(map(math.isfinite, recorded))


def _no_such(field: str, word: str, known: Sequence[str]) -> ScenarioError:
    unique = list(dict.fromkeys(known))
    return ScenarioError(f"{field} = {word!r}: no such series; {meant(word, unique)}accepted: {_listed(unique)}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
