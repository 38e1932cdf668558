"""The command line: a thin layer on :mod:`fedmac.runs`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="fedmac",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

BAD_INPUT, FAILURE = 2, 1


def _show_version(wanted: bool) -> None:
    if wanted:
        from fedmac import __version__

        typer.echo(f"fedmac {__version__}")
        raise typer.Exit


@app.callback()
def fedmac(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Federated learning over wireless multiple-access channels."""


class Engine(StrEnum):
    """Engines a run can use."""

    local = "local"
    flower = "flower"


RUN_HELP = (
    "Run a scenario, all its variants under the same seeds, and compare them.\n\n"
    "SCENARIO is a TOML file; `fedmac new` writes one to start from. The run folder gets the resolved scenario, a line "
    "for each round as it happens, the final models, a summary and a report (report.html).\n\n"
    "Exit code 0: done; 2: bad input, nothing was run; 1: failure or interruption, with a usable run folder."
)


@app.command(help=RUN_HELP)
def run(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (TOML).")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. training.learning_rate=0.1; repeatable."),
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help="Where devices run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/NAME).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of runs, seed, seed + 1, …")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Run this variant only; repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one for each core).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the run in the folder.")] = False,
    sink: Annotated[
        list[str] | None, typer.Option(help="Also write rounds to tensorboard or mlflow; repeatable.")
    ] = None,
) -> None:
    # The help is RUN_HELP: paragraphs of a docstring would be wrapped twice.
    from rich.console import Console

    from fedmac.progress import Progress, summary_table
    from fedmac.runs import run as run_scenario
    from fedmac.scenario import Scenario
    from fedmac.scenario_text import parse_settings

    changes = parse_settings(settings or [])
    top = {name: value for name, value in (("seed", seed), ("seeds", seeds)) if value is not None}
    checked = Scenario.load(scenario, changes | top)
    out = out or Path("runs") / checked.name
    with _interruptible(out):
        done = run_scenario(
            checked,
            out=out,
            engine=engine.value if engine else None,
            workers=workers,
            only=only or [],
            overwrite=overwrite,
            resume=resume,
            progress=Progress(),
            sinks=sink or [],
        )
    console = Console()
    console.print(summary_table(done.summary, console.width))
    typer.echo(f"report: {done.folder / 'report.html'}")


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """On Ctrl-C, say where what there is lies."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"; what was recorded so far is in {out}, and --resume finishes it" if out.is_dir() else ""
        _say(f"interrupted{kept}")
        raise typer.Exit(FAILURE) from None


@app.command(help="Write the report of a run folder again, or one report that compares several.")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders; several are compared on one page.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write (default: report.html in the run folder, or here if there are several)."),
    ] = None,
) -> None:
    from fedmac.record import RecordError, writing
    from fedmac.report import write_report
    from fedmac.runs import Run

    for folder in folders:
        Run(folder)
    page = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    try:
        with writing(page):
            written = write_report(folders, page)
    except ValueError as error:
        raise RecordError(str(error)) from error
    typer.echo(written)


@app.command("list")
def list_names(
    kind: Annotated[str | None, typer.Argument(help="One kind only, e.g. strategies.")] = None,
) -> None:
    """List what a scenario can name, with a line for each."""
    from fedmac.catalogue import catalogue
    from fedmac.scenario_errors import ScenarioError

    kinds = catalogue()
    if kind is not None and kind not in kinds:
        raise ScenarioError(f"kind = {kind!r}: unknown; accepted: {', '.join(kinds)}")
    for heading, (key, names) in kinds.items():
        if kind in (None, heading):
            typer.echo(f"{heading} ({key})")
            width = max(map(len, names))
            for name, line in names.items():
                typer.echo(f"  {name:{width}}  {line}")


@app.command()
def schema() -> None:
    """Print the JSON schema of scenarios, for editors that complete and check TOML."""
    from fedmac.scenario import Scenario

    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    typer.echo(json.dumps(dialect | Scenario.model_json_schema(), indent=2))


@app.command()
def new(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("scenario.toml"),
) -> None:
    """Write a commented scenario to start from."""
    from fedmac.record import writing
    from fedmac.scenario_errors import ScenarioError

    if path.exists():
        raise ScenarioError(f"{path}: exists already; accepted: a new file")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((Path(__file__).parent / "starter.toml").read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"{path}: written; run it with `fedmac run {path}`")


def main() -> None:
    """Entry point: errors of input end with exit code 2, failures with 1, each with its reason."""
    from fedmac.scenario_errors import ScenarioError

    try:
        app(prog_name="fedmac")
    except ScenarioError as error:
        _say(str(error))
        sys.exit(BAD_INPUT)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Say what went wrong, and the exit code. Our own errors need no traceback."""
    from clients.sources import DataUnavailable
    from fedmac.engines.flower import EngineError
    from fedmac.engines.workers import WorkerDied
    from fedmac.record import FolderInTheWay, NoRunHere, RecordError

    if isinstance(error, FolderInTheWay | NoRunHere | DataUnavailable):
        _say(str(error))
        return BAD_INPUT
    if isinstance(error, RecordError | EngineError | WorkerDied):
        _say(str(error))
        return FAILURE
    traceback.print_exception(error)
    return FAILURE


def _say(message: str) -> None:
    print(f"fedmac: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
