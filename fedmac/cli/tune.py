"""`fedmac tune`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedmac.cli.exits import FAILURE, say


class Metric(StrEnum):
    """What trials can be judged by."""

    validation_accuracy = "validation_accuracy"
    validation_loss = "validation_loss"
    train_objective = "train_objective"


TUNE_HELP = (
    "Choose values of a scenario's keys on validation rows, for each variant on its own; test rows are never looked "
    "at.\n\n"
    "KEY=LOW..HIGH is a range, searched on a logarithmic scale if HIGH is at least ten times LOW; KEY=A,B,C are "
    "choices. If all keys have choices, every combination is tried once. Started again, the same command goes on "
    "where it stopped. Needs FedMAC's extra 'tune'.\n\n"
    "Exit code 0: done; 2: bad input, nothing was run; 1: failure or interruption, with all ended trials kept."
)


def tune(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (TOML).")],
    over: Annotated[
        list[str],
        typer.Option(metavar="KEY=SPEC", help="Key to tune, e.g. uplink.ratio=0.1..1; repeatable."),
    ],
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials of each variant in all (default: 30, or every combination of choices)."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a trial, with the scenario's seed, seed + 1, …")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Tune this variant only; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, here and in the tuned scenario; repeatable."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Variants tuned at the same time (default: one for each core).")
    ] = None,
    metric: Annotated[
        Metric,
        typer.Option(metavar="METRIC", help="What is best: validation_accuracy, validation_loss or train_objective."),
    ] = Metric.validation_accuracy,
    out: Annotated[Path | None, typer.Option(help="Folder of the trials (default: runs/NAME-tuning).")] = None,
    write: Annotated[
        Path | None, typer.Option(help="File of the tuned scenario (default: NAME-tuned.toml in the folder).")
    ] = None,
    pruning: Annotated[bool, typer.Option("--pruning/--no-pruning", help="End hopeless trials early.")] = True,
    table: Annotated[
        bool, typer.Option("--table", help="Also print all values of one key of choices, in Markdown.")
    ] = False,
) -> None:
    # The help is TUNE_HELP: paragraphs of a docstring would be wrapped twice.
    from rich.console import Console

    from fedmac.scenario_errors import ScenarioError
    from fedmac.scenario_text import parse_settings
    from fedmac.studies.tune.plan import check_installed, plan_tuning
    from fedmac.studies.tune.search_space import is_grid, read_space

    check_installed()
    space = read_space(over)
    if table and (len(space) > 1 or not is_grid(space)):
        raise ScenarioError("--table: shows the values of one key; accepted: one --over KEY=A,B,C")
    plan = plan_tuning(
        scenario,
        space,
        trials=trials,
        seeds=seeds,
        only=only or [],
        settings=parse_settings(settings or []),
        jobs=jobs,
        metric=metric.value,
        out=out,
        write=write,
        pruning=pruning,
    )
    from fedmac.studies.tune.perform import perform_tuning
    from fedmac.studies.tune.view import TuningBars, best_table, best_title, plan_lines, values_table

    for line in plan_lines(plan):
        typer.echo(line)
    with _explained(plan.folder):
        tuning = perform_tuning(plan, TuningBars())
    typer.echo(f"\n{best_title(tuning)}")
    Console().print(best_table(tuning))
    if table:
        typer.echo(values_table(tuning))
    for line in tuning.at_edge:
        say(line)
    typer.echo(f"tuned scenario: {tuning.written}")
    if without := [study.name for study in plan.studies if study.name not in tuning.best]:
        say(f"{', '.join(without)}: every trial diverged, so nothing was tuned; widen what is tried")
        raise typer.Exit(FAILURE)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """On Ctrl-C or a failed study, say that the same command goes on."""
    from fedmac.studies.tune.perform import TuningFailed

    try:
        yield
    except KeyboardInterrupt:
        say(f"interrupted; the trials that have ended are in {folder}, and the same command goes on")
        raise typer.Exit(FAILURE) from None
    except TuningFailed as error:
        say(f"{error}\nthe trials that have ended are in {folder}, and the same command goes on")
        raise typer.Exit(FAILURE) from None
