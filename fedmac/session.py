"""A session: the variants and seeds of a scenario, one run after the other, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid

from clients.app import Workplace
from fedmac.learn import learn
from fedmac.record import SUMMARY, RunFolder, write_json
from fedmac.scenario import Scenario, Variant
from fedmac.scenario_errors import ScenarioError

RoundRecord = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One variant under one seed, and the folder its rounds go to."""

    variant: Variant
    seed: int
    folder: RunFolder

    @property
    def done(self) -> bool:
        """Whether it came to its end already."""
        return self.folder.finished(self.seed)


def plan(scenario: Scenario, out: Path, only: Iterable[str] = ()) -> list[Job]:
    """The jobs of a scenario: each variant under each seed.

    Parameters
    ----------
    scenario : Scenario
        With or without variants.
    out : Path
        The run folder; several variants get a subfolder each.
    only : iterable of str
        Names of the variants to run; all if empty.

    Raises
    ------
    ScenarioError
        If `only` names a variant that is not there.
    """
    variants = scenario.resolve()
    names = [v.name for v in variants]
    wanted = list(only) or names
    for name in wanted:
        if name not in names:
            raise ScenarioError(f"only = {name!r}: no such variant; accepted: {', '.join(names)}")
    jobs = []
    for variant in variants:
        if variant.name in wanted:
            folder = RunFolder(out / variant.name if scenario.variants else out, variant)
            folder.drop_unfinished()
            first = variant.scenario.seed
            jobs += [Job(variant, seed, folder) for seed in range(first, first + variant.scenario.seeds)]
    return jobs


def perform(job: Job, grid: Grid, workplace: Workplace, on_round: Callable[[RoundRecord], None]) -> None:
    """Run a job on a grid: a line of the record for each round, then the model."""

    def note(record: RoundRecord) -> None:
        job.folder.append(record)
        on_round(record)

    learned = learn(job.variant, job.seed, grid, workplace, note)
    job.folder.save_model(job.seed, learned.arrays)


def summarise(scenario: Scenario, out: Path, jobs: Iterable[Job], *, interrupted: bool = False) -> dict[str, Any]:
    """Write ``summary.json`` from what the jobs have recorded so far, and return it."""
    from importlib import metadata

    folders = {job.variant.name: job.folder for job in jobs}
    summary = {
        "name": scenario.name,
        "fedmac": metadata.version("fedmac"),
        "engine": scenario.engine.kind,
        "interrupted": interrupted,
        "variants": [folder.summarise() for folder in folders.values()],
    }
    write_json(out / SUMMARY, summary)
    return summary
