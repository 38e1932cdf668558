"""Find the runs in folders, sweeps and folders of runs, and read their rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmac.record import ENVIRONMENT, ROUNDS, SCENARIO, NoRunHere, RecordError, folder_of, model_path, read_rounds
from fedmac.scenario import Scenario, Variant
from fedmac.studies.compare.curves import Rounds
from fedmac.studies.sweep.folder import PLAN, Sweep, is_sweep, read_sweep

_FIRST_FEW = 3


@dataclass(frozen=True)
class Source:
    """What was run: one of the folders given, or found in one.

    Attributes
    ----------
    name : str
        Of the folder; with as much of its path as tells it from the others.
    folder : Path
    scenario : str
        TOML text: a run's ``scenario.toml``, a sweep's ``sweep.toml``.
    environment : mapping
        Content of ``environment.json`` (of a sweep: of its first run); empty if there is none.
    """

    name: str
    folder: Path
    scenario: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Runs:
    """A variant's rounds under its seeds.

    Attributes
    ----------
    variant : Variant
    source : Source
    cell : str
        Name of the cell in a sweep; empty outside.
    settings : mapping
        Swept keys of the cell.
    seeds : mapping of int to Rounds
        In the order of seeds.
    files : mapping of int to Path
        Where the lines of each seed are.
    ended : frozenset of int
        Seeds that came to their end, which may be before the last round: some strategies stop by themselves.
    """

    variant: Variant
    source: Source
    cell: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    seeds: Mapping[int, Rounds] = field(default_factory=dict)
    files: Mapping[int, Path] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Gathered:
    """All runs found, where, and what was odd about them."""

    runs: tuple[Runs, ...]
    sources: tuple[Source, ...]
    swept: frozenset[str]
    notices: tuple[str, ...]


def gather(folders: Sequence[str | Path]) -> Gathered:
    """Read the runs in `folders`: run folders, sweep folders, or folders that hold some of them.

    Raises
    ------
    NoRunHere
        If a folder is none of these.
    RecordError
        If a record cannot be read.
    """
    notices: list[str] = []
    places = [place for folder in folders for place in _expanded(Path(folder))]
    unique = {place.resolve(): place for place in reversed(places)}
    homes = [place for place in dict.fromkeys(places) if unique[place.resolve()] == place]
    if len(homes) < len(places):
        notices.append("a folder was given twice: it counts once")
    sources: list[Source] = []
    runs: list[Runs] = []
    swept: set[str] = set()
    for home, name in zip(homes, _short_names(homes), strict=True):
        if is_sweep(home):
            sweep = read_sweep(home)
            swept |= set(sweep.grid)
            source = _source(home, name, home / PLAN, _first_run(sweep))
            runs += _runs_of_sweep(sweep, source, notices)
        else:
            source = _source(home, name, home / SCENARIO, home)
            runs += _runs_of_folder(home, source, notices)
        sources.append(source)
    return Gathered(tuple(runs), tuple(sources), frozenset(swept), tuple(notices))


def _expanded(folder: Path) -> list[Path]:
    """The folder itself if it is a run or a sweep, else those in it."""
    if _holds_runs(folder):
        return [folder]
    inside = sorted(path for path in folder.iterdir() if _holds_runs(path)) if folder.is_dir() else []
    if not inside:
        reason = "no run or sweep here" if folder.is_dir() else "no such folder"
        raise NoRunHere(f"{folder}: {reason}; accepted: a run folder, a sweep folder, or a folder of some")
    return inside


def _holds_runs(folder: Path) -> bool:
    return folder.is_dir() and (is_sweep(folder) or (folder / SCENARIO).is_file())


def _runs_of_sweep(sweep: Sweep, source: Source, notices: list[str]) -> Iterator[Runs]:
    for cell in sweep.cells:
        seeds: dict[str, dict[int, Rounds]] = {}
        files: dict[str, dict[int, Path]] = {}
        ended: dict[str, frozenset[int]] = {}
        variants: dict[str, Variant] = {}
        for seed, folder in cell.runs().items():
            for part in _runs_of_folder(folder, source, notices) if seed in sweep.seeds else ():
                variants.setdefault(part.variant.name, part.variant)
                seeds.setdefault(part.variant.name, {}).update(part.seeds)
                files.setdefault(part.variant.name, {}).update(part.files)
                ended[part.variant.name] = ended.get(part.variant.name, frozenset()) | part.ended
        for name, variant in variants.items():
            yield Runs(variant, source, cell.name, cell.settings, seeds[name], files[name], ended[name])
    notices += [f"{source.name}: {line}" for line in _not_done(sweep)]


def _not_done(sweep: Sweep) -> Iterator[str]:
    """A line for the runs that failed, one for those unfinished, one for those missing."""
    jobs: dict[str, list[str]] = {}
    for cell, seed in sweep.jobs:
        status = sweep.state(cell, seed).status
        if status != "done":
            jobs.setdefault(status, []).append(f"{cell.name} seed {seed}")
    for word, those in sorted(jobs.items()):
        shown = "; ".join(those[:_FIRST_FEW]) + ("; …" if len(those) > _FIRST_FEW else "")
        yield f"{len(those)} of {len(sweep.jobs)} runs {word}: {shown}"


def _runs_of_folder(folder: Path, source: Source, notices: list[str]) -> Iterator[Runs]:
    scenario = Scenario.load(folder / SCENARIO)
    for variant in scenario.resolve():
        path = folder_of(scenario, folder, variant.name) / ROUNDS
        if path.is_file():
            seeds = read_numbers(path, notices)
            if seeds:
                ended = frozenset(seed for seed in seeds if model_path(path.parent, variant, seed).is_file())
                yield Runs(variant, source, seeds=seeds, files=dict.fromkeys(seeds, path), ended=ended)


def read_numbers(path: Path, notices: list[str]) -> dict[int, Rounds]:
    """The numbers of each seed's rounds in a ``rounds.jsonl``: no lists, null as nan.

    Raises
    ------
    RecordError
        If a line is not valid; the last one may be cut short, which is noted in `notices`.
    """
    records = read_rounds(path)
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell():
            file.seek(-1, 2)
            if file.read() != b"\n":
                notices.append(f"{path}: the last line is cut short")
    seeds: dict[int, list[dict[str, float]]] = {}
    for record in records:
        try:
            seeds.setdefault(int(record["seed"]), []).append(_numbers(record))
        except (KeyError, TypeError, ValueError):
            raise RecordError(f"{path}: a line without seed and round; accepted: a record of fedmac") from None
    return {seed: sorted(rows, key=lambda row: row["round"]) for seed, rows in sorted(seeds.items())}


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    numbers = {
        key: math.nan if value is None else float(value)
        for key, value in record.items()
        if value is None or isinstance(value, int | float)
    }
    if not math.isfinite(numbers["round"]):
        raise ValueError
    return numbers


def _source(folder: Path, name: str, scenario: Path, run: Path | None) -> Source:
    environment: Mapping[str, Any] = {}
    path = run / ENVIRONMENT if run else None
    if path is not None and path.is_file():
        try:
            environment = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordError(f"{path}: not valid JSON: {error}") from None
    return Source(name, folder, scenario.read_text(encoding="utf-8"), environment)


def _first_run(sweep: Sweep) -> Path | None:
    return next((folder for cell in sweep.cells for folder in cell.runs().values()), None)


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and of those that share it as many more as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1 and length < len(own):
            length += 1
        names.append("/".join(own[-length:]))
    return names
