"""`fedmac sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedmac.cli.exits import FAILURE, say
from fedmac.cli.run import Engine

if TYPE_CHECKING:
    from fedmac.studies.sweep.folder import Sweep

SWEEP_HELP = (
    "Run a scenario in every cell of a grid, under every seed.\n\n"
    "A job is one cell under one seed, with all variants; jobs run side by side, each in a process of its own.\n\n"
    "SCENARIO is a TOML file; its variants run in each cell. DIR gets a run folder for each cell and seed, and "
    "sweep.parquet: a row for each cell, variant and seed, with the resolved keys and every summary figure. "
    "`fedmac compare DIR` goes on from there.\n\n"
    "The same command again does what is missing: runs that are done are kept, failed and interrupted ones begin "
    "anew; more values, seeds or variants add to what is there.\n\n"
    "Exit code 0: done; 2: bad input, nothing was run; 1: a job failed, or interruption."
)


def sweep(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (TOML).")],
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V,…", help="Values of a key, e.g. channel.snr_db=0,10,20; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key in all cells; repeatable."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="First seed.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs of each cell: seed, seed + 1, …")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Run this variant only; repeatable.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs side by side (default: one for each core; flower: 1).")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder (default: runs/NAME-sweep).")] = None,
    engine: Annotated[Engine | None, typer.Option(help="Where devices run.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A running Ray cluster, for the flower engine.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan, budget and time; write nothing.")] = False,
    commands: Annotated[
        bool, typer.Option("--commands", help="Print a command for each job, for a batch scheduler; run nothing.")
    ] = False,
) -> None:
    # The help is SWEEP_HELP: paragraphs of a docstring would be wrapped twice.
    from fedmac.scenario_errors import ScenarioError
    from fedmac.scenario_text import parse_settings
    from fedmac.studies.sweep.grid import parse_grid
    from fedmac.studies.sweep.perform import sweep_settings
    from fedmac.studies.sweep.start import plan_sweep

    if dry_run and commands:
        raise ScenarioError("--dry-run and --commands: accepted: one of the two")
    changes = sweep_settings(
        parse_settings(settings or []),
        seed=seed,
        seeds=seeds,
        engine=engine.value if engine else None,
        ray_address=ray_address,
    )
    planned = plan_sweep(scenario, parse_grid(grid or []), settings=changes, only=only or [], out=out)
    if dry_run:
        _show_plan(planned, jobs)
    elif commands:
        _print_commands(planned)
    else:
        _run(planned, jobs)


def _show_plan(planned: Sweep, jobs: int | None) -> None:
    """The plan in full; nothing is written."""
    from rich.console import Console

    from fedmac.studies.sweep.perform import at_once
    from fedmac.studies.sweep.plan import estimate_by_trial, shares
    from fedmac.studies.sweep.start import check_sweep_folder
    from fedmac.studies.sweep.view import budget_table, estimate_line, plan_lines

    check_sweep_folder(planned)
    side_by_side, workers = at_once(planned, jobs, len(planned.jobs))
    for line in plan_lines(planned, side_by_side):
        typer.echo(line)
    Console().print(budget_table(planned, shares(planned)))
    typer.echo(estimate_line(estimate_by_trial(planned, side_by_side, workers)))


def _print_commands(planned: Sweep) -> None:
    from fedmac.studies.sweep.perform import commands

    lines = commands(planned)
    for line in lines:
        typer.echo(line)
    runs = f"{len(lines)} commands" if len(lines) != 1 else "1 command"
    typer.echo(
        f"{planned.folder}: {runs}; when all have run, the same sweep without --commands makes the table", err=True
    )


def _run(planned: Sweep, jobs: int | None) -> None:
    from fedmac.studies.sweep.perform import at_once, perform_sweep
    from fedmac.studies.sweep.plan import estimate
    from fedmac.studies.sweep.progress import SweepProgress
    from fedmac.studies.sweep.start import check_sweep_folder
    from fedmac.studies.sweep.view import estimate_line, plan_lines

    check_sweep_folder(planned)
    side_by_side, _ = at_once(planned, jobs, len(planned.jobs))
    for line in plan_lines(planned, side_by_side):
        typer.echo(line, err=True)
    known = estimate(planned, side_by_side, trial=None)
    if known.seconds:
        typer.echo(f"  {estimate_line(known)}", err=True)
    try:
        done = perform_sweep(planned, jobs, SweepProgress())
    except KeyboardInterrupt:
        say(f"interrupted; what is done is in {planned.folder}, and the same command goes on from there")
        raise typer.Exit(FAILURE) from None
    _show_outcome(done)


def _show_outcome(done: Sweep) -> None:
    """The best cells, what failed, and how to go on."""
    from rich.console import Console

    from fedmac.studies.sweep.folder import TABLE
    from fedmac.studies.sweep.table import SweepTable
    from fedmac.studies.sweep.view import failure_lines, outcome_table

    table = SweepTable(done)
    for cell, seed in done.jobs:
        table.update(cell, seed, done.state(cell, seed))
    outcomes: list[Any] = table.outcomes()
    if outcomes:
        Console().print(outcome_table(done, outcomes))
    typer.echo(f"table: {done.folder / TABLE}")
    failures = failure_lines(done)
    if outcomes:
        typer.echo(f"next: fedmac compare {done.folder}")
    if failures:
        for line in failures:
            say(line)
        say(f"{len(failures)} of {len(done.jobs)} jobs failed; the same command runs them again")
        raise typer.Exit(FAILURE)
