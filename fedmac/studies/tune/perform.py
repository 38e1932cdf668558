"""Tuning: choose values of a scenario's keys on validation rows, for each variant on its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedmac.record import write_atomically, writing
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.studies.processes import run_in_processes, run_in_turn
from fedmac.studies.task import Task
from fedmac.studies.tune.folder import journal_of, tuning_folder
from fedmac.studies.tune.plan import SEEDS, Plan, plan_tuning
from fedmac.studies.tune.search_space import Values, described
from fedmac.studies.tune.study import Study, best_of, read_study, run_study
from fedmac.studies.tune.trial import Trial, with_values
from fedmac.studies.tune.tuned_scenario import tuned_text

if TYPE_CHECKING:
    import pandas as pd


class TuningFailed(RuntimeError):
    """Studies did not come to their end; a line for each says why. The trials before stay."""


class Shown(Protocol):
    """What a person sees while it goes on."""

    def begin(self, plan: Plan, there: Mapping[str, list[Trial]]) -> None:
        """Called first, with the trials of earlier starts."""

    def note(self, variant: str, trial: Trial) -> None:
        """Called when a trial has ended."""

    def end(self) -> None:
        """Called last, however it ends."""


class Unseen:
    """Shows nothing; implements :class:`Shown`."""

    def begin(self, plan: Plan, there: Mapping[str, list[Trial]]) -> None:
        """Nothing."""

    def note(self, variant: str, trial: Trial) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Tuning:
    """What a tuning has found.

    Parameters
    ----------
    plan : Plan
        What was tuned.
    results : dict
        Trials by variant, in their order; those of variants tuned in the folder at earlier starts as well.
    """

    plan: Plan
    results: dict[str, list[Trial]] = field(repr=False)

    @property
    def best_trials(self) -> dict[str, Trial]:
        """The best trial of each variant of which one came to its end."""
        found = {name: best_of(trials, self.plan.subject.metric) for name, trials in self.results.items()}
        return {name: trial for name, trial in found.items() if trial is not None}

    @property
    def best(self) -> dict[str, Values]:
        """The best values of each variant; of a scenario without variants, under its name."""
        return {name: trial.values for name, trial in self.best_trials.items()}

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial: variant, trial, state, the tuned keys, metric (mean over seeds), std, reason."""
        import pandas as pd

        metric = self.plan.subject.metric
        rows = [
            {"variant": name, "trial": number, "state": trial.state}
            | trial.values
            | {metric: trial.mean, f"{metric}_std": trial.std, "reason": trial.reason}
            for name, trials in self.results.items()
            for number, trial in enumerate(trials)
        ]
        columns = ["variant", "trial", "state", *self.plan.subject.space, metric, f"{metric}_std", "reason"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def written(self) -> Path:
        """The tuned scenario's file."""
        return self.plan.write

    @property
    def scenario(self) -> Scenario:
        """The tuned scenario."""
        return Scenario.load(self.written)

    @property
    def at_edge(self) -> list[str]:
        """A line for each best value at the edge of what was tried, where the scenario would accept one beyond."""
        lines = []
        originals = {v.name: v.scenario for v in self.plan.subject.scenario.resolve()}
        for name, values in self.best.items():
            for key, part in self.plan.subject.space.items():
                end = part.edge(values[key])
                if end is not None and _accepts(originals[name], values | {key: part.beyond(end)}):
                    lines.append(
                        f"{name}: the best of {key} = {part.spec()} is at its edge, {described({key: values[key]})}: "
                        "widen it"
                    )
        return lines


def tune(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    over: Iterable[str] | Mapping[str, Any],
    *,
    trials: int | None = None,
    seeds: int = SEEDS,
    only: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    jobs: int | None = None,
    metric: str = "validation_accuracy",
    out: str | Path | None = None,
    write: str | Path | None = None,
    pruning: bool = True,
    progress: Shown | None = None,
) -> Tuning:
    """Choose values of a scenario's keys on validation rows; test rows are never looked at.

    Each variant is tuned on its own. Ranges are searched by a tree-structured Parzen estimator (Optuna's TPE), which
    begins with the scenario's own values if they lie in the ranges; if all keys have choices, every combination is
    tried once. A trial scores the mean over seeds of the metric after the last round. One that under the first seed
    is worse than the median of the trials before, after a quarter of the rounds or later, is pruned; one that
    diverges under any seed is never the best.

    Parameters
    ----------
    scenario : path, mapping or Scenario
        What to tune. Where it holds out no validation rows, a fifth of the training rows are held out.
    over : mapping or iterable of str
        ``{"training.learning_rate": (0.01, 1.0)}``: a pair is a range, a list holds choices; or as on the command
        line, ``["training.learning_rate=0.01..1"]``. See :func:`fedmac.studies.tune.search_space.read_space`.
    trials : int, optional
        Trials of each variant, those of earlier starts in the folder included; 30, or every combination of choices.
    seeds : int
        Runs of a trial, with the scenario's seed, seed + 1, and so on.
    only : iterable of str
        Variants to tune; all if empty.
    settings : mapping, optional
        Dotted keys to set first; the tuned scenario has them too.
    jobs : int, optional
        Variants tuned at the same time; one for each core if not given. The outcome does not depend on it.
    metric : {"validation_accuracy", "validation_loss", "train_objective"}
        What is best: the largest accuracy or the least loss on validation rows, or (for who compares optimisers) the
        least value of what the devices minimise, recorded with ``evaluation.objective``.
    out : path, optional
        Folder of the trials, ``runs/NAME-tuning`` if not given; what it holds already of the same tuning is kept.
    write : path, optional
        File of the tuned scenario, ``NAME-tuned.toml`` in the folder if not given.
    pruning : bool
        Whether hopeless trials end early.
    progress : Shown, optional
        Shown while it goes on; nothing by default.

    Returns
    -------
    Tuning

    Raises
    ------
    ScenarioError
        If the scenario, a key or a value cannot run; before anything has started.
    RecordError
        If the folder holds something else, or cannot be written.
    TuningFailed
        If a study failed; the others came to their end first.

    References
    ----------
    J. Bergstra, R. Bardenet, Y. Bengio, B. Kégl, "Algorithms for hyper-parameter optimization", NeurIPS 2011.
    T. Akiba et al., "Optuna: a next-generation hyperparameter optimization framework", KDD 2019.

    Examples
    --------
    >>> from fedmac.studies.tune.perform import tune
    >>> t = tune("scenarios/quickstart.toml", {"training.learning_rate": (0.01, 1.0)})  # doctest: +SKIP
    >>> t.best, t.trials, t.scenario  # doctest: +SKIP
    """
    plan = plan_tuning(
        scenario, over, trials=trials, seeds=seeds, only=only, settings=settings, jobs=jobs, metric=metric, out=out,
        write=write, pruning=pruning,
    )  # fmt: skip
    return perform_tuning(plan, progress)


def perform_tuning(plan: Plan, progress: Shown | None = None) -> Tuning:
    """Do the trials that are missing, and write the tuned scenario."""
    with tuning_folder(plan.folder, plan.subject):
        there = {study.name: read_study(study.journal, study.name)[: study.trials] for study in plan.studies}
        shown = progress or Unseen()
        shown.begin(plan, there)
        try:
            pending = [study for study in plan.studies if len(there[study.name]) < study.trials]
            failures = _run_studies(pending, min(plan.jobs, len(pending)), shown.note)
        finally:
            shown.end()
        if failures:
            raise TuningFailed("\n".join(f"{name}: {reason}" for name, reason in failures.items()))
        tuning = Tuning(plan, _read_results(plan))
        with writing(plan.write):
            plan.write.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(plan.write, tuned_text(plan.text, tuning.best, plan.settings))
        return tuning


def _run_studies(studies: Sequence[Study], at_once: int, note: Callable[[str, Trial], None]) -> dict[str, str]:
    """Run studies, one at a time in this process, several in processes of their own; why some failed, by name."""
    failures: dict[str, str] = {}

    def heard(task: Task, trial: Trial) -> None:
        note(task.name, trial)

    def ended(task: Task, reason: str | None) -> None:
        if reason is not None:
            failures[task.name] = reason

    threads = max(1, (os.cpu_count() or 1) // max(1, at_once))
    tasks = [Task(study.name, partial(run_study, study), threads=threads) for study in studies]
    if at_once == 1:
        run_in_turn(tasks, ended=ended, heard=heard)
    else:
        run_in_processes(tasks, at_once, ended=ended, heard=heard, preload=["optuna"])
    return failures


def _read_results(plan: Plan) -> dict[str, list[Trial]]:
    """The trials of all variants that the folder knows, not only of those tuned this time."""
    found = {v.name: read_study(journal_of(plan.folder, v.name), v.name) for v in plan.subject.scenario.resolve()}
    return {name: trials for name, trials in found.items() if trials}


def _accepts(scenario: Scenario, values: Values) -> bool:
    try:
        with_values(scenario, values)
    except ScenarioError:
        return False
    return True
