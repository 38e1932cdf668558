"""Sweeps: a scenario run in every cell of a grid under every seed, side by side, and gone on with after any end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmac.record import RecordError, write_atomically
from fedmac.studies.processes import run_in_processes
from fedmac.studies.sweep.folder import Cell, State, Sweep
from fedmac.studies.sweep.grid import check_grid
from fedmac.studies.sweep.job import Job
from fedmac.studies.sweep.start import check_sweep_folder, locked, plan_sweep, write_sweep_folder
from fedmac.studies.sweep.table import SweepTable
from fedmac.studies.task import Task

if TYPE_CHECKING:
    from fedmac.scenario import Scenario
    from fedmac.studies.sweep.progress import SweepProgress


def sweep(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    *,
    grid: Mapping[str, Iterable[Any]],
    seeds: int | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    only: Iterable[str] = (),
    engine: str | None = None,
    ray_address: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: SweepProgress | None = None,
) -> Sweep:
    """Run a scenario in every cell of a grid, and return the sweep.

    The same call again does what is missing: runs that are done are kept, those that failed or were cut off begin
    anew. A larger grid, more seeds or more variants add to what is there.

    Parameters
    ----------
    scenario : path, mapping or Scenario
        What all cells begin from; its variants run in every cell.
    grid : mapping
        Values by dotted key, ``{"channel.snr_db": [0, 10, 20]}``; the cells are all combinations.
    seeds, seed : int, optional
        Number of runs of each cell and the first one's seed, instead of the scenario's own.
    jobs : int, optional
        Runs side by side, each in a process of its own; one for each core if not given (one on the flower engine).
    out : path, optional
        The sweep's folder; ``runs/NAME-sweep`` if not given.
    only : iterable of str
        Variants to run; all if empty.
    engine : {"local", "flower"}, optional
        Instead of the scenario's own.
    ray_address : str, optional
        A running Ray cluster, for the flower engine.
    settings : mapping, optional
        Dotted keys to set in all cells.
    progress : SweepProgress, optional
        Shown while it runs; nothing by default.

    Returns
    -------
    Sweep
        With its ``table``; its ``failures`` say which runs failed and why.

    Raises
    ------
    ScenarioError
        If a cell cannot run, or the grid is none; before anything has started.
    FolderInTheWay
        If `out` holds something else, or a sweep is running in it.
    RecordError
        If the table cannot be written.

    Examples
    --------
    >>> import fedmac
    >>> s = fedmac.sweep("scenarios/quickstart.toml", grid={"uplink.ratio": [0.05, 0.1]}, seeds=5)  # doctest: +SKIP
    >>> s.table.groupby(["cell", "variant"])["test_accuracy"].mean()  # doctest: +SKIP
    """
    changes = sweep_settings(settings or {}, seed=seed, seeds=seeds, engine=engine, ray_address=ray_address)
    planned = plan_sweep(scenario, check_grid(grid), settings=changes, only=list(only), out=out)
    return perform_sweep(planned, jobs, progress)


def sweep_settings(
    settings: Mapping[str, Any],
    *,
    seed: int | None = None,
    seeds: int | None = None,
    engine: str | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Dotted settings with those that have an argument of their own."""
    own = {"seed": seed, "seeds": seeds, "engine.kind": engine, "engine.ray_address": ray_address}
    return {**settings, **{key: value for key, value in own.items() if value is not None}}


def perform_sweep(planned: Sweep, jobs: int | None = None, progress: SweepProgress | None = None) -> Sweep:
    """Run what a checked sweep still lacks; the table is written however it ends."""
    check_sweep_folder(planned)
    with locked(planned.folder):
        check_sweep_folder(planned)
        write_sweep_folder(planned)
        states = _Performance(planned, jobs, progress).run()
    return replace(planned, known=states)


def at_once(planned: Sweep, jobs: int | None, pending: int) -> tuple[int, int]:
    """How many runs go side by side, and how many workers the engine of each has (results depend on neither)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    flower = planned.cells[0].scenario.engine.kind == "flower"
    jobs = max(1, min(jobs or (1 if flower else cores), pending))
    return jobs, max(1, cores // jobs)


def job_of(planned: Sweep, cell: Cell, seed: int, workers: int) -> Job:
    """The run of a cell under a seed."""
    content = cell.run_scenario(seed).content()
    if cell.scenario.engine.kind == "local":
        content["engine"]["workers"] = workers
    threads = max(variant.scenario.training.threads for variant in planned.variants(cell))
    return Job(_job_name(cell, seed), content, cell.run_folder(seed), tuple(planned.only), cell.log(seed), threads)


def _job_name(cell: Cell, seed: int) -> str:
    return f"{cell.name} seed {seed}"


def commands(planned: Sweep) -> list[str]:
    """A shell command for each run that is not done, for a batch scheduler; the sweep's folder is written.

    When all have run, the sweep itself finds them done and makes the table.

    Raises
    ------
    FolderInTheWay, RecordError
        As :func:`sweep` does.
    """
    check_sweep_folder(planned)
    with locked(planned.folder):
        check_sweep_folder(planned)
        write_sweep_folder(planned)
    lines = []
    for cell, seed in planned.jobs:
        if planned.state(cell, seed).status != "done":
            words = ["fedmac", "run", str(cell.folder / "scenario.toml"), "--seed", str(seed), "--seeds", "1"]
            words += [word for name in planned.only for word in ("--only", name)]
            words += ["--out", str(cell.run_folder(seed)), "--resume", "--no-report"]
            lines.append(shlex.join(words))
    return lines


class _Performance:
    """A sweep while it runs: what the processes come to goes to the folder, the table and the progress."""

    def __init__(self, planned: Sweep, jobs: int | None, progress: SweepProgress | None) -> None:
        self.sweep = planned
        self.progress = progress
        self.table = SweepTable(planned)
        self.states = {(cell.name, seed): planned.state(cell, seed) for cell, seed in planned.jobs}
        pending = [job for job in planned.jobs if self.states[job[0].name, job[1]].status != "done"]
        self.at_once, workers = at_once(planned, jobs, len(pending))
        self.places = {_job_name(cell, seed): (cell, seed) for cell, seed in pending}
        self.tasks = [job_of(planned, cell, seed, workers).task for cell, seed in pending]

    def run(self) -> dict[tuple[str, int], State]:
        """Run what is pending; how far each run has come."""
        for cell, seed in self.sweep.jobs:
            self._take(cell, seed, self.states[cell.name, seed])
        if self.progress is not None:
            self.progress.begin(self.sweep, self.table, self.states)
        try:
            run_in_processes(self.tasks, self.at_once, begun=self._begun, ended=self._ended, poll=self._poll)
        except BaseException:
            # Why the sweep ends matters more than what may go wrong now, on a full disk for example.
            with suppress(RecordError):
                self._end()
            raise
        finally:
            if self.progress is not None:
                self.progress.end()
        self._end()
        return self.states

    def _take(self, cell: Cell, seed: int, state: State) -> None:
        self.states[cell.name, seed] = self.table.update(cell, seed, state)

    def _begun(self, task: Task) -> None:
        cell, seed = self.places[task.name]
        with suppress(OSError):
            cell.failure(seed).unlink(missing_ok=True)
        self.states[cell.name, seed] = State("unfinished")
        if self.progress is not None:
            self.progress.job_begun(cell, seed)

    def _ended(self, task: Task, reason: str | None) -> None:
        cell, seed = self.places[task.name]
        state = State("done") if reason is None else State("failed", reason)
        with suppress(RecordError):  # on a full disk the reason is still told at the end
            if reason is not None:
                write_atomically(cell.failure(seed), reason + "\n")
        self._take(cell, seed, state)
        with suppress(RecordError):  # it is written again at the end, when a failure is told
            self.table.write()
        if self.progress is not None:
            self.progress.job_ended(cell, seed, reason)

    def _poll(self) -> None:
        if self.progress is not None:
            self.progress.poll()

    def _end(self) -> None:
        """Bring the runs that were cut off into the table."""
        for cell, seed in self.sweep.jobs:
            if self.states[cell.name, seed].status == "unfinished":
                self._take(cell, seed, State("unfinished"))
        self.table.write()
