"""A session: the variants and seeds of a scenario, one run after the other, into one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from numpy.typing import NDArray

from clients.app import Workplace
from fedmac.checkpoint import CheckpointFile, rounds_to_keep
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.record import ROUNDS, SUMMARY, RoundRecord, RunFolder, folder_of, read_rounds, summary_row, write_json
from fedmac.scenario import Scenario, Variant

Model = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """One variant under one seed, the folder its rounds go to, and after which of them it goes on."""

    variant: Variant
    seed: int
    folder: RunFolder
    after: int = 0

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
    jobs = []
    for variant in scenario.resolve(only):
        folder = RunFolder(folder_of(scenario, out, variant.name), variant)
        seeds = variant.scenario.run_seeds
        keep = rounds_to_keep(folder, seeds, folder.read_rounds())
        folder.drop_unfinished(keep)
        jobs += [Job(variant, seed, folder, keep.get(seed, 0)) for seed in seeds]
    return jobs


def perform(job: Job, grid: Grid, workplace: Workplace, on_round: Callable[[RoundRecord], None]) -> None:
    """Run a job on a grid: a line of the record and a checkpoint for each round, then the model.

    If there is a checkpoint it goes on from there.

    Raises
    ------
    EngineError
        As of :func:`carry_out`.
    """
    carry_out(job, workplace, lambda task: learn(task, grid), on_round)


def carry_out(
    job: Job, workplace: Workplace, learning: Callable[[LearningTask], Model], on_round: Callable[[RoundRecord], None]
) -> None:
    """Perform a job by `learning`: its rounds, checkpoints and model go to the job's folder.

    Raises
    ------
    EngineError
        If devices were asked in every round and not one ever sent: the model is the initial one and no result. Where
        none was even asked, as no packet fits what the link carries, that is the result; so it is where the scenario
        asks for faults and the run has ended by them, and says why.
    """
    senders, failures, rounds = 0, [], 0
    stopped: str | None = None
    file = CheckpointFile(job.folder, job.seed)

    def count(record: RoundRecord) -> None:
        nonlocal senders, stopped, rounds
        rounds = record["round"]
        senders += record.get("participants", 0)
        stopped = record.get("stopped", stopped)
        failures.extend(record.get("failures", [])[-1:])

    def note(record: RoundRecord) -> None:
        count(record)
        job.folder.append(record)
        on_round(record)

    past = file.load()
    for record in job.folder.read_rounds() if past is not None else ():
        if record["seed"] == job.seed:
            count(record)
    model = learning(LearningTask(job.variant, job.seed, workplace, note, past, file.save))
    ended_by_faults = stopped is not None and job.variant.scenario.faults is not None
    if failures and senders == 0 and not ended_by_faults:
        from fedmac.engines.superlink import EngineError  # engines build on sessions

        last = failures[-1]
        why = "" if stopped is None else f"{stopped}; "
        raise EngineError(
            f"{job.variant.name} (seed {job.seed}): no device sent in any of {rounds} rounds; {why}"
            f"device {last['device']} in the last: {last['reason']}"
        )
    job.folder.save_model(job.seed, model)
    file.remove()


def summarise(scenario: Scenario, out: Path, *, interrupted: bool = False) -> dict[str, Any]:
    """Write ``summary.json`` from what the folder holds so far, and return it."""
    summary = summary_of(scenario, out, interrupted=interrupted)
    write_json(out / SUMMARY, summary)
    for variant in scenario.resolve():
        own = [row for row in summary["variants"] if row["name"] == variant.name]
        folder = folder_of(scenario, out, variant.name)
        if own and folder != out:
            write_json(folder / SUMMARY, {"variants": own})
    return summary


def summary_of(scenario: Scenario, out: Path, *, interrupted: bool) -> dict[str, Any]:
    """The content of ``summary.json``: a row for each variant that has its folder, from the rounds in it."""
    rows = []
    for variant in scenario.resolve():
        folder = folder_of(scenario, out, variant.name)
        if folder.is_dir():
            path = folder / ROUNDS
            rows.append(summary_row(variant, read_rounds(path) if path.exists() else []))
    return {
        "name": scenario.name,
        "fedmac": metadata.version("fedmac"),
        "engine": scenario.engine.kind,
        "interrupted": interrupted,
        "variants": rows,
    }
