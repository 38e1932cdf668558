"""`fedmac report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
