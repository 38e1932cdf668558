"""`fedmac infer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmac.cli.exits import FAILURE, say

if TYPE_CHECKING:
    from torch import Tensor, nn

    from strategies.repurpose.plan import Plan
    from strategies.repurpose.processes import Inference

INFER_HELP = (
    "Run a plan of `fedmac repurpose` on as many processes as it has workers.\n\n"
    "Each process holds its part alone and sends what the plan says (gloo, over the loopback interface). Said at the "
    "end: the largest difference to the restructured model in one process, bytes counted and planned, and the latency "
    "beside its estimate.\n\n"
    "Exit code 0: outputs and bytes are as planned; 1: a worker died, or they are not; 2: bad input."
)
TOLERANCE = 1e-5


def infer(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Folder that `fedmac repurpose` has written.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; the plan's own number.")] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="Safetensors file with `inputs` (default: the sample beside the plan).")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs that go through together.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds that a worker waits for another.")] = 30.0,
    model: Annotated[Path | None, typer.Option(help="Run folder: check that the plan is of its model.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write `outputs` here, safetensors.")] = None,
) -> None:
    # The help is INFER_HELP: paragraphs of a docstring would be wrapped twice.
    from fedmac.record import writing
    from fedmac.scenario_errors import ScenarioError
    from strategies.repurpose.plan_file import load_plan
    from strategies.repurpose.processes import WorkerDied
    from strategies.repurpose.processes import infer as infer_on_processes

    try:
        read = load_plan(plan, _model(model))
        if workers is not None and workers != read.workers:
            raise ScenarioError(f"workers = {workers}: the plan is for {read.workers}; accepted: {read.workers}")
        rows, targets = _rows(inputs or plan / "sample.safetensors")
        done = infer_on_processes(read, rows, batch=batch, timeout=timeout)
    except ValueError as error:
        raise error if isinstance(error, ScenarioError) else ScenarioError(str(error)) from error
    except WorkerDied as error:
        say(str(error))
        raise typer.Exit(FAILURE) from None
    if out is not None:
        from safetensors.torch import save_file

        with writing(out):
            save_file({"outputs": done.outputs}, out)
    if not _show(read, rows, targets, done):
        raise typer.Exit(FAILURE)


def _model(folder: Path | None) -> nn.Module | None:
    from fedmac.runs import Run

    return None if folder is None else Run(folder).model


def _rows(path: Path) -> tuple[Tensor, Tensor | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from fedmac.scenario_errors import ScenarioError

    if not path.is_file():
        raise ScenarioError(f"inputs = '{path}': no such file; accepted: a safetensors file with `inputs`")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ScenarioError(f"inputs = '{path}': no safetensors file: {error}") from error
    if "inputs" not in tensors:
        raise ScenarioError(f"inputs = '{path}': holds {', '.join(tensors) or 'nothing'}; accepted: `inputs`")
    return tensors["inputs"], tensors.get("targets")


def _show(plan: Plan, rows: Tensor, targets: Tensor | None, done: Inference) -> bool:
    """Say how it went; whether outputs and bytes are as planned."""
    import statistics

    import torch

    from strategies.repurpose.accounts import account
    from strategies.repurpose.workers import Links, Worker

    counts = account(plan)
    with torch.no_grad():
        difference = float((done.outputs - plan.run(rows)).abs().max())
    planned = counts.bytes * len(rows)
    typer.echo(f"{len(rows)} inputs on {plan.workers} processes, {done.batch} at a time")
    typer.echo(f"largest difference to one process: {difference:.2g}")
    typer.echo(f"bytes sent: {done.bytes_sent:,}, planned: {planned:,}")
    if targets is not None:
        typer.echo(f"accuracy: {float((done.outputs.argmax(1) == targets).float().mean()):.4f}")
    measured = statistics.median(done.batch_seconds)
    team = [Worker(speed=done.speed / done.batch)] * plan.workers
    links = Links.equal(plan.workers, done.rate / done.batch, done.delay) if plan.workers > 1 else Links.equal(1)
    typer.echo(
        f"latency: {1e3 * measured:.3g} ms a batch (median), estimate {1e3 * counts.latency(team, links):.3g} ms "
        f"at {done.speed:.2g} multiply-adds/s, {done.rate:.2g} bit/s and {1e3 * done.delay:.2g} ms a message"
    )
    return difference <= TOLERANCE * max(1.0, float(done.outputs.abs().max())) and planned == done.bytes_sent
