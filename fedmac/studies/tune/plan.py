"""A tuning before it begins: everything that was asked for, checked, and the study of each variant."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedmac.scenario import Scenario, Variant
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge
from fedmac.studies.tune.folder import Subject, check_tuning_folder, journal_of
from fedmac.studies.tune.search_space import Space, Values, corners, is_grid, read_space
from fedmac.studies.tune.study import METRICS, Study, grid_of
from fedmac.studies.tune.trial import with_values
from fedmac.studies.tune.tuned_scenario import scenario_text

TRIALS, SEEDS = 30, 3
EVALUATIONS = 20
"""A run of a trial evaluates the validation rows at most about this often."""
VALIDATION_FRACTION = 0.2
"""Of the training rows, held out where the scenario holds out none."""


@dataclass(frozen=True)
class Plan:
    """A tuning, checked and ready to begin; see :func:`fedmac.studies.tune.perform.tune` for what its parts mean."""

    subject: Subject
    studies: list[Study]
    folder: Path
    write: Path
    text: str
    settings: Mapping[str, Any]
    jobs: int

    @property
    def trials(self) -> int:
        """Trials of each variant."""
        return self.studies[0].trials


def plan_tuning(
    scenario: str | Path | Mapping[str, Any] | Scenario,
    over: Iterable[str] | Mapping[str, Any],
    *,
    trials: int | None,
    seeds: int,
    only: Iterable[str],
    settings: Mapping[str, Any] | None,
    jobs: int | None,
    metric: str,
    out: str | Path | None,
    write: str | Path | None,
    pruning: bool,
) -> Plan:
    """Check everything that :func:`fedmac.studies.tune.perform.tune` is told, and write nothing yet."""
    check_installed()
    _check_numbers(trials=trials, seeds=seeds, jobs=jobs)
    if metric not in METRICS:
        never = ": test rows are for the end only" if metric.startswith("test_") else ""
        raise ScenarioError(f"metric = {metric!r}{never}; accepted: {', '.join(METRICS)}")
    space = read_space(over)
    settings = dict(settings or {})
    for key in space.keys() & settings.keys():
        raise ScenarioError(f"{key}: set and tuned as well; accepted: --set or --over")
    checked = Scenario.load(scenario, settings)
    chosen = checked.resolve(only)
    subject = Subject(checked, space, seeds, metric, pruning)
    folder = Path(out) if out is not None else Path("runs") / f"{checked.name}-tuning"
    target = Path(write) if write is not None else folder / f"{checked.name}-tuned.toml"
    _check_target(target, scenario, explicit=write is not None)
    check_tuning_folder(folder, subject)
    _check_space(chosen, space, metric, named=bool(checked.variants))
    at_once = min(jobs or os.cpu_count() or 1, len(chosen))
    studies = [_study(subject, v, folder, number_of_trials(space, trials), at_once) for v in chosen]
    return Plan(subject, studies, folder, target, scenario_text(scenario), settings, at_once)


def check_installed() -> None:
    """Refuse to begin without the libraries.

    Raises
    ------
    ScenarioError
        If the extra is not installed.
    """
    missing = [name for name in ("optuna", "tomlkit") if find_spec(name) is None]
    if missing:
        raise ScenarioError(
            f"tuning needs {' and '.join(missing)}: not installed; accepted: FedMAC's extra 'tune', "
            "in its repository: pip install -e '.[tune]'"
        )


def number_of_trials(space: Space, trials: int | None) -> int:
    """Trials of each variant: of choices, no more than there are combinations."""
    if not is_grid(space):
        return trials or TRIALS
    combinations = sum(1 for _ in grid_of(space))
    return min(trials or combinations, combinations)


def judged(variant: Variant) -> Scenario:
    """A variant as its trials run it: on validation rows, without test rows, evaluated some twenty times."""
    scenario = variant.scenario
    every = max(scenario.evaluation.every, scenario.rounds // EVALUATIONS)
    fraction = scenario.data.validation_fraction or VALIDATION_FRACTION
    changes = {"evaluation": {"test": False, "every": every}, "data": {"validation_fraction": fraction}}
    content = merge(scenario.content(), changes)
    content["evaluation"].pop("optimum", None)  # of all training rows, not of those that are left
    return Scenario.load(content)


def _study(subject: Subject, variant: Variant, folder: Path, trials: int, at_once: int) -> Study:
    share = max(1, (os.cpu_count() or 1) // at_once)
    return Study(
        name=variant.name,
        scenario=judged(variant),
        space=subject.space,
        trials=trials,
        seeds=subject.seeds,
        metric=subject.metric,
        pruning=subject.pruning,
        journal=journal_of(folder, variant.name),
        workers=min(variant.scenario.engine.workers or share, share),
    )


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ScenarioError(f"{name} = {number!r}: accepted: an integer >= 1")


def _check_target(target: Path, source: object, *, explicit: bool) -> None:
    if target.is_dir():
        raise ScenarioError(f"--write {target}: is a folder; accepted: a file")
    if not explicit and isinstance(source, str | Path) and target.resolve() == Path(source).resolve():
        raise ScenarioError(f"{target}: is the scenario itself; accepted: --write FILE, or another folder with --out")


def _check_space(variants: Iterable[Variant], space: Space, metric: str, *, named: bool) -> None:
    """Refuse values that a variant cannot have, by trying the ends of ranges and all choices."""
    for variant in variants:
        where = f'variant "{variant.name}": ' if named else ""
        if variant.scenario.rounds == 0:
            raise ScenarioError(f"{where}rounds = 0: nothing is learned; accepted: an integer >= 1")
        allowed = [_allowed(judged(variant), values, where) for values in corners(space)]
        for scenario in allowed:
            _check_metric(metric, scenario.training.loss, where)
        if metric == "train_objective" and not allowed[0].evaluation.objective:
            reason = "the scenario does not record it"
            raise ScenarioError(f"{where}metric = {metric!r}: {reason}; accepted: evaluation.objective = true with it")
        for scenario in {id(s): s for s in (allowed[0], allowed[-1])}.values():
            _rehearse(scenario, where)


def _check_metric(metric: str, loss: str, where: str) -> None:
    from clients.losses import LOSSES

    if metric == "validation_accuracy" and not LOSSES[loss].of_classes:
        reason = f'training.loss = "{loss}" has no accuracy'
        raise ScenarioError(f"{where}metric = {metric!r}: {reason}; accepted: validation_loss")


def _allowed(scenario: Scenario, values: Values, where: str) -> Scenario:
    try:
        return with_values(scenario, values)
    except ScenarioError as error:
        raise _said(error, where) from None


def _rehearse(scenario: Scenario, where: str) -> None:
    """Build what a trial builds: parameters that only the model or the strategy itself knows are refused there."""
    from fedmac.build import rehearse
    from fedmac.logs import quiet_flower

    try:
        with quiet_flower():
            rehearse(scenario)
    except ScenarioError as error:
        raise _said(error, where) from None


def _said(error: ScenarioError, where: str) -> ScenarioError:
    return ScenarioError("\n".join(f"{where}{line}" for line in str(error).splitlines()))
