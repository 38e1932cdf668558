"""The tuning of one variant: trials one after the other, each written down before the next begins."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from channel.randomness import key
from fedmac.record import writing
from fedmac.scenario import Scenario
from fedmac.scenario_keys import dotted
from fedmac.studies.tune.search_space import Choices, Range, Space, Value, Values, is_grid
from fedmac.studies.tune.trial import Trial, run_trial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

METRICS: dict[str, Literal["maximize", "minimize"]] = {
    "validation_accuracy": "maximize",
    "validation_loss": "minimize",
    "train_objective": "minimize",
}
"""What trials are judged by, and which way is better."""

STARTUP_TRIALS = 5
"""Trials that come to their end before any is pruned."""
WARMUP = 0.25
"""Part of the rounds in which no trial is pruned: who learns slowly at first may win."""


@dataclass(frozen=True)
class Study:
    """What is needed to tune one variant, in whichever process.

    Parameters
    ----------
    name : str
        The variant's.
    scenario : Scenario
        The variant, with evaluation on validation rows only.
    space : dict
        Keys and what they are tried over.
    trials : int
        Trials in all, those of earlier starts included.
    seeds : int
        Runs of a trial, with the scenario's seed, seed + 1, and so on.
    metric : str
        One of :data:`METRICS`, after the last round.
    pruning : bool
        Whether hopeless trials end early.
    journal : Path
        Where Optuna's journal of the trials is.
    workers : int
        Worker processes of a run; the outcome does not depend on it.
    """

    name: str
    scenario: Scenario
    space: Space
    trials: int
    seeds: int
    metric: str
    pruning: bool
    journal: Path
    workers: int = 1


def run_study(study: Study, on_trial: Callable[[Trial], None]) -> None:
    """Run the trials that are not in the journal yet; `on_trial` is called after each.

    The sampler of trial n is made anew from (seed, variant, n) and knows nothing but the trials before, so a study
    that was killed and started again makes the same trials as one that was not.

    Raises
    ------
    RecordError
        If the journal cannot be written.
    EngineError
        If an engine failed; trials before stay in the journal.
    """
    with _optuna_quiet(), _alone(study.journal):
        _mend(study.journal)
        opened = _open(study)
        _forget_running(opened, study.journal)
        while (number := len(_ended(opened))) < study.trials:
            on_trial(_perform_trial(study, opened, number))


def read_study(journal: Path, name: str) -> list[Trial]:
    """The trials in a journal that came to an end, in their order; none if there is no journal."""
    import optuna

    if not journal.is_file() or not journal.stat().st_size:
        return []
    with _optuna_quiet(), writing(journal), _alone(journal):
        _mend(journal)
        storage = _storage(journal)
        if name not in optuna.get_all_study_names(storage):
            return []
        return [_trial_of(frozen) for frozen in _ended(optuna.load_study(study_name=name, storage=storage))]


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The best of the trials that are done, the first among equals; None if none is."""
    sign = 1.0 if METRICS[metric] == "maximize" else -1.0
    done = [trial for trial in trials if trial.mean is not None]
    return max(done, key=lambda trial: sign * (trial.mean or 0.0), default=None)


def grid_of(space: Space) -> Iterator[Values]:
    """Every combination of a space of choices, once; the last key changes fastest."""
    parts = [part.values for part in space.values() if isinstance(part, Choices)]
    return (dict(zip(space, values, strict=True)) for values in product(*parts))


def own_values(scenario: Scenario, space: Space) -> Values | None:
    """The values that a variant has itself, if all lie in the space."""
    content = dotted(scenario.content())
    own = {path: content[path] for path, part in space.items() if content.get(path) in part}
    return own if len(own) == len(space) else None


def _open(study: Study) -> optuna.Study:
    import optuna

    with writing(study.journal):
        return optuna.create_study(
            study_name=study.name,
            storage=_storage(study.journal),
            direction=METRICS[study.metric],
            pruner=_pruner(study),
            load_if_exists=True,
        )


def _storage(journal: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


@contextmanager
def _alone(journal: Path) -> Iterator[None]:
    """Wait for a process of a killed tuning to end before its journal is touched."""
    with writing(journal):
        descriptor = os.open(journal, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mend(journal: Path) -> None:
    """Take back a last line that a kill has cut short, and the lock of a process that is no more."""
    for lock in journal.parent.glob(f"{journal.name}.lock*"):
        lock.unlink(missing_ok=True)
    if journal.is_file():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with journal.open("r+b") as file:
                file.truncate(whole)


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    from optuna.pruners import MedianPruner, NopPruner

    if not study.pruning:
        return NopPruner()
    return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=round(WARMUP * study.scenario.rounds))


def _forget_running(opened: optuna.Study, journal: Path) -> None:
    """Mark what a kill has left running as failed: it counts no more, and its values come again."""
    from optuna.trial import TrialState

    for frozen in opened.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        with writing(journal):
            opened.tell(frozen.number, state=TrialState.FAIL)


def _ended(opened: optuna.Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return opened.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _perform_trial(study: Study, opened: optuna.Study, number: int) -> Trial:
    """Choose the values of a trial, run it and write down what came of it."""
    from optuna.trial import TrialState

    before = _ended(opened)
    opened.sampler = _sampler(study, number)
    with writing(study.journal):
        asked = opened.ask({path: _distribution(part) for path, part in study.space.items()})
    values = {path: _value(part, asked.params[path]) for path, part in study.space.items()}
    same = next((frozen for frozen in before if frozen.user_attrs["values"] == values), None)
    trial = _again(asked, same) if same is not None else _run(study, asked, values)
    with writing(study.journal):
        for name in ("state", "values", "metric", "reason"):
            asked.set_user_attr(name, getattr(trial, name))
        opened.tell(asked, trial.mean, state=TrialState.COMPLETE if trial.metric else TrialState.PRUNED)
    return trial


def _run(study: Study, asked: optuna.Trial, values: Values) -> Trial:
    def hopeless(number: int, score: float) -> bool:
        with writing(study.journal):
            asked.report(score, number)
        return asked.should_prune()

    return run_trial(
        study.scenario,
        values,
        seeds=study.seeds,
        metric=study.metric,
        judge=hopeless,
        folder=study.journal.with_name(f"{study.name}.running"),
        workers=study.workers,
    )


def _again(asked: optuna.Trial, same: FrozenTrial) -> Trial:
    """The outcome of values that were tried before: runs are deterministic, so it would be the same."""
    for number, score in same.intermediate_values.items():
        asked.report(score, number)
    return _trial_of(same)


def _sampler(study: Study, number: int) -> optuna.samplers.BaseSampler:
    """Fixed values for grids and for the scenario's own, else a tree-structured Parzen estimator (TPE)."""
    from optuna.samplers import TPESampler

    from fedmac.studies.tune.fixed_sampler import FixedSampler

    if is_grid(study.space):
        return FixedSampler(next(islice(grid_of(study.space), number, None)))
    own = own_values(study.scenario, study.space)
    if number == 0 and own is not None:
        return FixedSampler(own)
    return TPESampler(seed=key(study.scenario.seed, f"tuning {study.name}", number) % 2**32)


def _distribution(part: Range | Choices) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(part, Choices):
        return CategoricalDistribution(part.values)
    if part.whole:
        return IntDistribution(int(part.low), int(part.high), log=part.logarithmic)
    return FloatDistribution(float(part.low), float(part.high), log=part.logarithmic)


def _value(part: Range | Choices, asked: Any) -> Value:
    value: Value = asked if isinstance(part, Choices) else part.rounded(asked)
    return value


def _trial_of(frozen: FrozenTrial) -> Trial:
    noted = frozen.user_attrs
    return Trial(noted["state"], dict(noted["values"]), tuple(noted["metric"]), noted["reason"])


@contextmanager
def _optuna_quiet() -> Iterator[None]:
    """Keep Optuna's line for each trial off the terminal; warnings and errors still show."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
