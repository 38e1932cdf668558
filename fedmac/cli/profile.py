"""`fedmac profile`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

PROFILE_HELP = (
    "Measure how fast this machine trains, as a device profile for the simulated clock.\n\n"
    "A small network is trained for some seconds. The profile, a table devices.own.NAME, goes into a scenario; with "
    "--out it is written to a file. What the machine draws is read from the processor's own counter where there is one "
    "that may be read; elsewhere say it with --watts.\n\n"
    "Exit code 0: done; 2: bad input."
)


def profile(
    name: Annotated[str, typer.Option(help="Of the profile.")] = "this-machine",
    watts: Annotated[float | None, typer.Option(help="What the machine draws while it trains (W).")] = None,
    idle_watts: Annotated[float, typer.Option(help="What it draws while it waits (W).")] = 0.0,
    seconds: Annotated[float, typer.Option(help="How long to train.")] = 2.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the computation (default: PyTorch's).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a new file.")] = None,
) -> None:
    # The help is PROFILE_HELP: paragraphs of a docstring would be wrapped twice.
    import torch

    from clients.training import compute_device
    from fedmac.clock.profile_table import profile_table
    from fedmac.clock.this_machine import measure_profile
    from fedmac.record import writing
    from fedmac.scenario_errors import ScenarioError

    if out is not None and out.exists():
        raise ScenarioError(f"{out}: exists already; accepted: a new file")
    if not name:
        raise ScenarioError("--name = '': accepted: a text that is not empty")
    _check("--watts", watts, zero=True)
    _check("--idle-watts", idle_watts, zero=True)
    _check("--seconds", seconds, zero=False)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        on = str(compute_device(device))
    except ValueError as error:
        raise ScenarioError(str(error).replace("training.device", "--device", 1)) from error
    try:
        measured = measure_profile(name, seconds=seconds, device=on, watts=watts, idle_watts=idle_watts)
    except ValueError as error:
        raise ScenarioError(str(error)) from error
    table = profile_table(measured)
    if out is None:
        typer.echo(table, nl=False)
        return
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(table, encoding="utf-8")
    typer.echo(f'{out}: written; put it into a scenario, with devices.profiles = ["{name}"]')


def _check(option: str, value: float | None, *, zero: bool) -> None:
    from fedmac.scenario_errors import ScenarioError

    if value is not None and not (math.isfinite(value) and (value >= 0 if zero else value > 0)):
        raise ScenarioError(f"{option} = {value!r}: accepted: a finite number {'>=' if zero else '>'} 0")
