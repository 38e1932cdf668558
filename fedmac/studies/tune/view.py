"""What a person sees of a tuning: what will be done, bars while it goes on, and tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich import box
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table

from fedmac.progress import bars_on, room_beside
from fedmac.studies.tune.perform import Tuning
from fedmac.studies.tune.plan import Plan
from fedmac.studies.tune.search_space import Choices, described, is_grid, written
from fedmac.studies.tune.study import best_of
from fedmac.studies.tune.trial import Trial

BAR = 6
"""Width of a bar: little, so that the figures find room beside it in 80 columns."""


def plan_lines(plan: Plan) -> list[str]:
    """What will be done, a line for each fact."""
    subject = plan.subject
    how = "every combination once" if is_grid(subject.space) else "by TPE (Optuna)"
    variants = f"{_count(len(plan.studies), 'variant')}, each " if subject.scenario.variants else ""
    lines = [
        f"{subject.scenario.name}: {variants}{_count(plan.trials, 'trial')} x {_count(subject.seeds, 'seed')}, {how}"
    ]
    lines += [f"  {key}: {part.described()}" for key, part in subject.space.items()]
    held_out = sorted({study.scenario.data.validation_fraction for study in plan.studies})
    shares = " or ".join(f"{fraction:g}" for fraction in held_out)
    lines.append(f"judged by {subject.metric} after the last round, on {shares} of the training rows;")
    lines.append("the test rows are not looked at")
    if plan.settings:
        lines.append(f"set, here and in the tuned scenario: {described(plan.settings)}")
    return lines


class TuningBars:
    """Live bars, one for each variant: trials done, how many were pruned, the best so far.

    Parameters
    ----------
    console : Console, optional
        Where to draw; a console that is not a terminal stays quiet.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bars = bars_on(self.console)
        self.rows: dict[str, TaskID] = {}
        self.trials: dict[str, list[Trial]] = {}
        self.metric = ""
        self.room = 0

    def begin(self, plan: Plan, there: Mapping[str, list[Trial]]) -> None:
        """Draw the bars, with the trials of earlier starts."""
        self.metric = plan.subject.metric
        names = [study.name for study in plan.studies]
        self.room = room_beside(self.console, names, plan.trials)
        for name in names:
            self.trials[name] = list(there[name])
            self.rows[name] = self.bars.add_task(
                name, total=plan.trials, completed=len(there[name]), figures=self._figures(name)
            )
        self.bars.start()

    def note(self, variant: str, trial: Trial) -> None:
        """Show a trial that has ended."""
        self.trials[variant].append(trial)
        self.bars.update(self.rows[variant], advance=1, figures=self._figures(variant))

    def end(self) -> None:
        """Leave the bars as they are."""
        self.bars.stop()

    def _figures(self, variant: str) -> str:
        """The best so far with its values, and how many ended early: as much as there is room for."""
        trials = self.trials[variant]
        best = best_of(trials, self.metric)
        words = [] if best is None else [f"best {best.mean:.3f}"]
        early = sum(trial.state != "done" for trial in trials)
        words += [f"{early} pruned"] if early else []
        words += [] if best is None else [f"{_last(key)} {written(value)}" for key, value in best.values.items()]
        while words and len(" ".join(words)) > self.room:
            words.pop()
        return " ".join(words)


def best_title(tuning: Tuning) -> str:
    """What stands above the table of the best."""
    subject = tuning.plan.subject
    spread = ", ±: standard deviation" if subject.seeds > 1 else ""
    return f"{subject.scenario.name}: best by {subject.metric}, {_count(subject.seeds, 'seed')}{spread}"


def best_table(tuning: Tuning) -> Table:
    """The best values of each variant, with what they score and how many trials there were."""
    subject = tuning.plan.subject
    keys = list(subject.space)
    short = [_last(key) for key in keys]
    heading: Callable[[str], str] = _last if len(set(short)) == len(short) else str
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("variant", overflow="fold")
    for key in keys:
        table.add_column(heading(key), justify="right", overflow="fold")
    table.add_column(subject.metric.removeprefix("validation_"), justify="right", no_wrap=True)
    states = [state for state in ("done", "pruned", "diverged") if state == "done" or _any(tuning, state)]
    for state in states:
        table.add_column(state, justify="right", no_wrap=True)
    for name, trials in tuning.results.items():
        best = tuning.best_trials.get(name)
        values = ["-"] * len(keys) if best is None else [written(best.values[key]) for key in keys]
        numbers = [str(sum(trial.state == state for trial in trials)) for state in states]
        table.add_row(name, *values, "-" if best is None else _score(best), *numbers)
    return table


def values_table(tuning: Tuning) -> str:
    """Every choice of one key against every variant, in Markdown: the metric's mean ± standard deviation over seeds.

    Raises
    ------
    ValueError
        If not exactly one key was tuned, over choices.
    """
    ((key, part),) = tuning.plan.subject.space.items()
    if not isinstance(part, Choices):
        raise ValueError(f"{key} = {part.spec()}: a range has no table of values")
    lines = ["| variant | " + " | ".join(map(written, part.values)) + " | best |"]
    lines.append("|---" * (len(part.values) + 2) + "|")
    for name, trials in tuning.results.items():
        scored = {trial.values[key]: trial for trial in trials}
        cells = [_cell(scored.get(value)) for value in part.values]
        best = tuning.best.get(name)
        lines.append("| " + " | ".join([name, *cells, "-" if best is None else written(best[key])]) + " |")
    return "\n".join(lines)


def _cell(trial: Trial | None) -> str:
    if trial is None:
        return "-"
    return _score(trial, 4) if trial.state == "done" else trial.state


def _score(trial: Trial, digits: int = 3) -> str:
    mean = f"{trial.mean:.{digits}f}"
    return f"{mean} ± {trial.std:.{digits}f}" if len(trial.metric) > 1 else mean


def _any(tuning: Tuning, state: str) -> bool:
    return any(trial.state == state for trials in tuning.results.values() for trial in trials)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
