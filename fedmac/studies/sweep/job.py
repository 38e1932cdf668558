"""A job of a sweep: the run of a cell under one seed, for a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedmac.studies.task import Send, Task


@dataclass(frozen=True)
class Job:
    """A run, and what its process needs.

    Parameters
    ----------
    name : str
        Tells it from the sweep's others.
    content : mapping
        The scenario, with one seed, as plain data.
    folder : Path
        Its run folder; what is there of the run is kept.
    only : tuple of str
        Variants to run; all if empty.
    log : Path
        Gets what the process prints; removed when the run has succeeded.
    threads : int
        Threads of its computations outside the engine's workers.
    """

    name: str
    content: Mapping[str, Any]
    folder: Path
    only: tuple[str, ...]
    log: Path
    threads: int = 1

    @property
    def task(self) -> Task:
        """The job as work for a process."""
        return Task(self.name, partial(_perform, self), self.log, self.threads)


def _perform(job: Job, _send: Send) -> None:
    from fedmac.runs import perform_scenario
    from fedmac.scenario import Scenario

    _clear_half_made(job.folder)
    perform_scenario(
        Scenario.load(job.content),
        job.folder,
        only=job.only,
        overwrite=False,
        resume=True,
        progress=None,
        sinks=(),
        report=False,
    )


def _clear_half_made(folder: Path) -> None:
    """Remove a run folder that a kill has caught while it was being made: with no rounds in it, and not complete."""
    made = {"scenario.toml", "environment.json"}
    if folder.is_dir():
        there = {path.name for path in folder.iterdir()}
        if not made <= there and {name.removesuffix(".part") for name in there} <= made:
            shutil.rmtree(folder)
