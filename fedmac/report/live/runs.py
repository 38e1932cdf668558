"""What a folder holds at the moment: its runs and how far they are, its sweeps, its comparisons."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedmac.report.live.found import SWEEP, Found, find, refuse_outside, version_of
from fedmac.report.live.state import QUIET_S, RunState, State, read_state

if TYPE_CHECKING:
    from fedmac.studies.sweep.folder import Cell as PlannedCell


@dataclass(frozen=True)
class ServedRun:
    """A run: its key (path below the folder served), what its folder says, and what that means now."""

    key: str
    folder: Path
    version: str
    facts: RunState
    state: State


@dataclass(frozen=True)
class Job:
    """A cell of a sweep under one seed: its run if it has started, and why it failed if it did."""

    seed: int | None  # None where the plan cannot be read
    run: ServedRun | None
    failure: str = ""

    @property
    def state(self) -> str:
        """A run's state, ``failed`` or ``waiting``."""
        if self.failure:
            return "failed"
        return self.run.state.value if self.run else "waiting"


@dataclass(frozen=True)
class Cell:
    """A cell of a sweep with a job for each seed."""

    name: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class ServedSweep:
    """A sweep and its cells, in the order of its plan; `error` says why it cannot be read."""

    key: str
    name: str
    cells: tuple[Cell, ...]
    error: str = ""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The jobs of all cells."""
        return tuple(job for cell in self.cells for job in cell.jobs)

    @property
    def written(self) -> float:
        """When a job last wrote, in seconds since 1970; 0 if none has started."""
        return max((job.run.facts.written for job in self.jobs if job.run), default=0.0)

    def state(self, now: float) -> State:
        """Finished: no job is left. Running: one is, or one wrote lately and others wait. Interrupted: otherwise."""
        if self.error:
            return State.broken
        counts = Counter(job.state for job in self.jobs)
        if counts["finished"] + counts["failed"] == len(self.jobs):
            return State.finished
        lately = counts["waiting"] and now - self.written <= QUIET_S
        return State.running if counts["running"] or lately else State.interrupted


@dataclass(frozen=True)
class Snapshot:
    """All that is below a folder at one moment; `version` changes when anything a reader sees does."""

    runs: tuple[ServedRun, ...]  # outside sweeps, the last one started first
    sweeps: tuple[ServedSweep, ...]
    comparisons: tuple[str, ...]
    version: str
    now: float


class RunsBelow:
    """The runs below a folder; what has not changed since the last look is not read again.

    Parameters
    ----------
    root : Path
        The folder; nothing outside it is read, also not through links.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._read: dict[str, ServedRun] = {}

    def look(self) -> tuple[Found, dict[str, ServedRun], Snapshot]:
        """Return what is there now: the places, every run by its key, and the order in which to show them."""
        found, now = find(self.root), time.time()
        runs = {key: self._run(key, folder, now) for key, folder in found.runs.items()}
        self._read = runs
        at = {run.folder: run for run in runs.values()}
        sweeps = tuple(_sweep(key, folder, self.root, at) for key, folder in found.sweeps.items())
        in_sweeps = {job.run.key for sweep in sweeps for job in sweep.jobs if job.run}
        alone = [run for key, run in runs.items() if key not in in_sweeps]
        alone.sort(key=lambda run: (-run.facts.started, run.key))
        comparisons = tuple(found.comparisons)
        seen = repr((
            [(key, run.version, run.state) for key, run in runs.items()],
            [(sweep.key, sweep.error, sweep.state(now), [job.state for job in sweep.jobs]) for sweep in sweeps],
            comparisons,
        ))  # fmt: skip
        version = hashlib.sha256(seen.encode(errors="surrogateescape")).hexdigest()[:16]
        return found, runs, Snapshot(tuple(alone), sweeps, comparisons, version, now)

    def _run(self, key: str, folder: Path, now: float) -> ServedRun:
        try:
            version = version_of(folder, self.root)
        except (OSError, ValueError) as error:
            facts = RunState(folder.name, (), 0.0, 0.0, error=str(error))
            return ServedRun(key, folder, "", facts, State.broken)
        known = self._read.get(key)
        facts = known.facts if known and known.version == version else read_state(folder)
        return ServedRun(key, folder, version, facts, facts.state(now))


def _sweep(key: str, folder: Path, root: Path, at: Mapping[Path, ServedRun]) -> ServedSweep:
    """A sweep's jobs as its plan lists them; if the plan cannot be read, the runs that lie in its folder."""
    from fedmac.studies.sweep.folder import read_sweep

    try:
        refuse_outside(folder / SWEEP, root)
        sweep = read_sweep(folder)
        cells = [Cell(c.name, tuple(_job(c, seed, root, at) for seed in sweep.seeds)) for c in sweep.cells]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        inside = {place.relative_to(folder): run for place, run in at.items() if place.is_relative_to(folder)}
        cells = [Cell(str(place), (Job(None, run),)) for place, run in inside.items()]
        return ServedSweep(key, folder.name, tuple(cells), error=str(error))
    return ServedSweep(key, sweep.name, tuple(cells))


def _job(cell: PlannedCell, seed: int, root: Path, at: Mapping[Path, ServedRun]) -> Job:
    run, failure = at.get(cell.run_folder(seed)), cell.failure(seed)
    if not failure.is_file() or not failure.resolve().is_relative_to(root):
        return Job(seed, run)
    return Job(seed, run, failure.read_text(encoding="utf-8", errors="replace").strip() or "no reason was recorded")
