"""`fedmac run`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedmac.cli.exits import FAILURE, say


class Engine(StrEnum):
    """Engines a run can use."""

    local = "local"
    flower = "flower"
    deployment = "deployment"
    collective = "collective"


class LogFormat(StrEnum):
    """Forms of a log file."""

    text = "text"
    json = "json"


RUN_HELP = (
    "Run a scenario, all its variants under the same seeds, and compare them.\n\n"
    "SCENARIO is a TOML file; `fedmac new` writes one to start from. The run folder gets the resolved scenario, a line "
    "for each round as it happens, the final models, a summary and a report (report.html).\n\n"
    "Exit code 0: done; 2: bad input, nothing was run; 1: failure or interruption, with a usable run folder."
)


def run(
    scenario: Annotated[Path, typer.Argument(help="Scenario file (TOML), or with --resume a run folder.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a key, e.g. training.learning_rate=0.1; repeatable."),
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help="Where devices run.")] = None,
    superlink: Annotated[
        str | None,
        typer.Option(help="Of the deployment engine: its server's folder, host:port, or http://host:port without TLS."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder (default: runs/NAME).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of runs, seed, seed + 1, …")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="VARIANT", help="Run this variant only; repeatable. Kept for --resume.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes (default: one for each core).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the folder.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the run in the folder.")] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Do not write report.html.")] = False,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WHERE]",
            help="Also give rounds to tensorboard, mlflow, prometheus[=HOST:PORT] or textfile[=FILE]; repeatable.",
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(metavar="FILE", help="Append what happens to a log file.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Of the log file: lines of text (default) or of JSON.")
    ] = None,
) -> None:
    # The help is RUN_HELP: paragraphs of a docstring would be wrapped twice.
    from rich.console import Console

    from fedmac.progress import Progress, summary_table
    from fedmac.record import kept_only
    from fedmac.runs import run as run_scenario
    from fedmac.runs import scenario_and_folder
    from fedmac.scenario import Scenario
    from fedmac.scenario_text import parse_settings

    changes = parse_settings(settings or [])
    options = {
        "seed": seed,
        "seeds": seeds,
        "engine.kind": engine and engine.value,
        "engine.workers": workers,
        "engine.superlink": superlink and _whole_path(superlink),
    }
    changes |= {key: value for key, value in options.items() if value is not None}
    source, folder = scenario_and_folder(scenario, out, resume=resume)
    checked = Scenario.load(source, changes)
    out = Path(folder or Path("runs") / checked.name)
    if resume and not only and (kept := kept_only(out)):
        say(f"{out}: the run is of {', '.join(kept)} only; --only names others")
    with _interruptible(out), _logged(log, log_format):
        done = run_scenario(
            checked,
            out=out,
            only=only or [],
            overwrite=overwrite,
            resume=resume,
            progress=Progress(),
            sinks=sink or [],
            report=not no_report,
        )
    console = Console()
    console.print(summary_table(done.summary, console.width))
    typer.echo(f"run folder: {done.folder}" if no_report else f"report: {done.folder / 'report.html'}")


def _whole_path(superlink: str) -> str:
    """A server's folder from wherever a run goes on; an address as it is."""
    return str(Path(superlink).absolute()) if Path(superlink).is_dir() else superlink


@contextmanager
def _interruptible(out: Path) -> Iterator[None]:
    """On Ctrl-C, say where what there is lies."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"; what was recorded so far is in {out}, and --resume finishes it" if out.is_dir() else ""
        say(f"interrupted{kept}")
        raise typer.Exit(FAILURE) from None


def _logged(log: Path | None, form: LogFormat | None) -> AbstractContextManager[None]:
    """Write what happens to the log file, if one is wanted."""
    from fedmac.logs import log_to

    if log is None:
        if form is not None:
            raise typer.BadParameter(
                f"{form.value}: of a log file; accepted: with --log FILE", param_hint="--log-format"
            )
        return nullcontext()
    return log_to(log, form.value if form else "text")
