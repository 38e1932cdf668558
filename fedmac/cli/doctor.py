"""`fedmac doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedmac.cli.exits import FAILURE

DOCTOR_HELP = (
    "See whether this machine can run FedMAC: versions, GPU, memory, disk, ports, and SuperLinks left behind.\n\n"
    "With DIR, the folder of a deployment or this machine's part of it: are its certificates valid, are its keys "
    "private, does its server answer, and do the clocks agree?\n\n"
    "Exit code 0: nothing keeps it from working; 1: a problem; 2: bad input."
)


def doctor(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder of a deployment.")] = None,
    superlink: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Server to ask (default: that of DIR).")
    ] = None,
) -> None:
    # The help is DOCTOR_HELP: paragraphs of a docstring would be wrapped twice.
    from fedmac.doctor import examine

    problems = 0
    for finding in examine(folder, superlink):
        typer.echo(str(finding))
        problems += finding.level == "problem"
    if problems:
        raise typer.Exit(FAILURE)
