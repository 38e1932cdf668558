"""`fedmac infer`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmac.cli.exits import FAILURE, say

if TYPE_CHECKING:
    from torch import Tensor, nn

    from strategies.repurpose.inference import Inference
    from strategies.repurpose.plan import Plan


class Engine(StrEnum):
    """Where workers run."""

    local = "local"
    flower = "flower"
    deployment = "deployment"


INFER_HELP = (
    "Run a plan of `fedmac repurpose` on as many workers as it has.\n\n"
    "Each holds its part alone and sends what the plan says. Engine local: processes of this machine (gloo, over the "
    "loopback interface). deployment: devices of `fedmac deploy`, each with its PLAN/parts/part-K.safetensors in its "
    "folder; the server carries what they send each other. flower: such devices, simulated on this machine.\n\n"
    "Said at the end: the largest difference to the restructured model in one process, bytes counted and planned, and "
    "the latency, of processes beside its estimate.\n\n"
    "Exit code 0: outputs and bytes are as planned; 1: they are not, a worker died, or interrupted; 2: bad input."
)
TOLERANCE = 1e-5
PROCESS_SECONDS, MESSAGE_SECONDS = 30.0, 120.0
"""How long a worker is waited for; Flower starts a process for each message."""


def infer(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Folder that `fedmac repurpose` has written.")],
    workers: Annotated[int | None, typer.Option(min=1, help="The plan's own number, to be checked.")] = None,
    engine: Annotated[Engine, typer.Option(help="Where workers run.")] = Engine.local,
    superlink: Annotated[
        str | None, typer.Option(help="Of the deployment engine, as of `fedmac run`: its server's folder or address.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="Safetensors file with `inputs` (default: the sample beside the plan).")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Inputs that go through together (default: 1; all by messages).")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds that a worker is waited for (default: 30; 120 by messages)."),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Run folder: check that the plan is of its model.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of --model; default: the first.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of --model; default: the first.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write `outputs` here, safetensors.")] = None,
) -> None:
    # The help is INFER_HELP: paragraphs of a docstring would be wrapped twice.
    from fedmac.engines.processes import termination_raises
    from fedmac.record import writing
    from fedmac.scenario_errors import ScenarioError
    from strategies.repurpose.inference import WorkerDied
    from strategies.repurpose.plan_file import TOML, load_plan

    if (superlink is None) == (engine is Engine.deployment):
        raise ScenarioError(
            f"superlink = {superlink!r} with engine = '{engine.value}'; accepted: --superlink DIR with --engine "
            "deployment, and with no other"
        )
    if not (plan / TOML).exists() and (plan / "plan" / TOML).is_file():
        raise ScenarioError(f"{plan}: no plan, but a plan lies in it; accepted: {plan / 'plan'}")
    try:
        read = load_plan(plan, _model(model, variant, seed))
        if workers is not None and workers != read.workers:
            raise ScenarioError(f"workers = {workers}: the plan is for {read.workers}; accepted: {read.workers}")
        rows, targets = _rows(inputs or plan / "sample.safetensors")
        with termination_raises():
            done = _infer(read, rows, plan, engine, superlink, batch, timeout)
    except ValueError as error:
        raise error if isinstance(error, ScenarioError) else ScenarioError(str(error)) from error
    except (WorkerDied, KeyboardInterrupt) as error:
        say(str(error) or "interrupted; there are no outputs")
        raise typer.Exit(FAILURE) from None
    if out is not None:
        from safetensors.torch import save_file

        with writing(out):
            save_file({"outputs": done.outputs}, out)
    if not _show(read, rows, targets, done):
        raise typer.Exit(FAILURE)


def _infer(
    plan: Plan,
    rows: Tensor,
    folder: Path,
    engine: Engine,
    superlink: str | None,
    batch: int | None,
    timeout: float | None,
) -> Inference:
    if engine is Engine.local:
        from strategies.repurpose.processes import infer as infer_on_processes

        return infer_on_processes(plan, rows, batch=batch or 1, timeout=timeout or PROCESS_SECONDS)
    from fedmac.repurposing.by_messages import infer_on_deployment, infer_on_simulation

    seconds, together = timeout or MESSAGE_SECONDS, batch or len(rows)
    if superlink is not None:
        return infer_on_deployment(plan, rows, folder, superlink, batch=together, timeout=seconds)
    return infer_on_simulation(plan, rows, folder, folder / "parts", batch=together, timeout=seconds)


def _model(folder: Path | None, variant: str | None, seed: int | None) -> nn.Module | None:
    from fedmac.runs import Run
    from fedmac.scenario_errors import ScenarioError

    if folder is not None:
        return Run(folder).load_model(variant, seed)
    if variant is not None or seed is not None:
        raise ScenarioError(f"variant = {variant!r}, seed = {seed!r}; accepted: with --model RUN only")
    return None


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
    import torch

    from strategies.repurpose.accounts import account

    with torch.no_grad():
        difference, largest = (float(x.abs().max()) for x in (done.outputs - plan.run(rows), done.outputs))
    size, planned = max(1.0, largest), account(plan).bytes * len(rows)
    typer.echo(f"{len(rows)} inputs on {plan.workers} workers, {done.batch} at a time")
    typer.echo(f"largest difference to one process: {difference / size:.2g} of {size:.3g}, the size of outputs")
    typer.echo(f"bytes sent: {done.bytes_sent:,}, planned: {planned:,}")
    if targets is not None:
        typer.echo(f"accuracy: {float((done.outputs.argmax(1) == targets).float().mean()):.4f}")
    typer.echo(_latency(plan, done))
    return difference <= TOLERANCE * size and planned == done.bytes_sent


def _latency(plan: Plan, done: Inference) -> str:
    """Latency as measured, beside its estimate where the machine was measured too."""
    import statistics

    from strategies.repurpose.accounts import account
    from strategies.repurpose.workers import Links, Worker

    measured, machine = statistics.median(done.batch_seconds), done.machine
    if machine is None:
        return f"latency: {measured:.1f} s a batch (median), by messages to the server and back"
    team = [Worker(speed=machine.speed / done.batch)] * plan.workers
    links = Links.equal(plan.workers, machine.rate / done.batch, machine.delay) if plan.workers > 1 else Links.equal(1)
    estimate = account(plan).latency(team, links)
    return (
        f"latency: {1e3 * measured:.3g} ms a batch (median), estimate {1e3 * estimate:.3g} ms at "
        f"{machine.speed:.2g} multiply-adds/s, {machine.rate:.2g} bit/s and {1e3 * machine.delay:.2g} ms a message"
    )
