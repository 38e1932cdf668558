"""`fedmac report`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

REPORT_HELP = (
    "Write the report of a run folder again, one report of several, or (--serve) show a folder of runs in the browser "
    "while they run."
)


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Run folders; several are compared on one page. With --serve: a folder of runs."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write (default: report.html in the run folder, or here if there are several)."),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve", help="Show the runs, sweeps and comparisons below a folder in the browser, as they go."
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to serve on (default: 8765, or the next that is free)."),
    ] = None,
) -> None:
    if serve:
        _serve(folders, out, port)
    else:
        _write(folders, out, port)


def _write(folders: list[Path], out: Path | None, port: int | None) -> None:
    from fedmac.record import RecordError, writing
    from fedmac.report import write_report
    from fedmac.runs import Run
    from fedmac.scenario_errors import ScenarioError

    if port is not None:
        raise ScenarioError(f"--port = {port}: has no meaning without --serve; accepted: both, or neither")
    for folder in folders:
        Run(folder)
    page = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    try:
        with writing(page):
            written = write_report(folders, page)
    except ValueError as error:
        raise RecordError(str(error)) from error
    typer.echo(written)


def _serve(folders: list[Path], out: Path | None, port: int | None) -> None:
    from fedmac.report.live.server import DEFAULT_PORT, open_server
    from fedmac.scenario_errors import ScenarioError

    if len(folders) != 1:
        given = ", ".join(map(str, folders))
        raise ScenarioError(f"FOLDERS = {given}: too many for --serve; accepted: one folder, that of the runs")
    if out is not None:
        raise ScenarioError(
            f"--out = {out}: has no meaning with --serve, which writes nothing; accepted: one of the two"
        )
    # Ctrl-C is how it ends: nothing has gone wrong.
    with suppress(KeyboardInterrupt), open_server(folders[0], port) as server:
        if port is None and server.server_port != DEFAULT_PORT:
            typer.echo(f"port {DEFAULT_PORT} is taken: using {server.server_port}")
        typer.echo(f"{folders[0]}: served at {server.url} (Ctrl-C to end)")
        server.serve_forever()
