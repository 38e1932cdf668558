"""`fedmac repurpose`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmac.cli.exits import FAILURE, say

if TYPE_CHECKING:
    from fedmac.repurposing.study import Study
    from fedmac.repurposing.trained_model import TrainedModel
    from strategies.repurpose.front import Point
    from strategies.repurpose.workers import Links, Worker

REPURPOSE_HELP = (
    "Restructure a trained model for several small devices that exchange little, without training.\n\n"
    "MODEL is a run folder, or PACKAGE.MODULE:FACTORY with --weights and --data. Units of every layer are permuted and "
    "given to workers, weights between workers cut where they cost more than they are worth, and the others refitted "
    "on training inputs.\n\n"
    "Of plans from lossless to silent one is picked by --max-drop, --max-sends or --cost, judged on validation rows, "
    "or the calibration rows where there are none.\n\n"
    "Written: plan.toml, plan.safetensors, a part for each worker, front.csv, report.html, and sample inputs for "
    "`fedmac infer`.\n\n"
    "Exit code 0: done; 1: interrupted, 2: bad input; nothing was written."
)


class Penalty(StrEnum):
    """What sending is charged by."""

    group = "group"
    edge = "edge"


def repurpose(
    model: Annotated[str, typer.Argument(help="Run folder, or package.module:factory.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Equal workers.")] = None,
    team: Annotated[
        Path | None, typer.Option(help="TOML file of unequal workers, links or places; see docs/repurpose.md.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Largest drop of accuracy, e.g. 0.005.")
    ] = None,
    max_sends: Annotated[int | None, typer.Option(min=0, help="Most activations sent for one input.")] = None,
    cost: Annotated[float | None, typer.Option(min=0.0, help="Communication cost of one number, lambda.")] = None,
    penalty: Annotated[Penalty, typer.Option(help="Charge an activation once a worker, or once a neuron.")] = (
        Penalty.group
    ),
    edge_cost: Annotated[float, typer.Option(min=0.0, help="Cost of a weight inside a worker.")] = 0.0,
    points: Annotated[
        int, typer.Option(min=2, help="Plans of the path beside that of cost 0, before it is refined.")
    ] = 9,
    calibration: Annotated[int, typer.Option(min=2, help="Training rows to calibrate on, at most.")] = 2000,
    variant: Annotated[str | None, typer.Option(help="Of a run folder; default: the first.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of a run folder; default: the first.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Safetensors file of a factory's model.")] = None,
    data: Annotated[str | None, typer.Option(help="Data of a factory's model, e.g. mnist-5k.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="New folder (default: RUN/plan, or plan).")] = None,
) -> None:
    # The help is REPURPOSE_HELP: paragraphs of a docstring would be wrapped twice.
    import torch

    from fedmac.record import write_atomically, writing
    from fedmac.report.repurpose_page import repurpose_page
    from fedmac.repurposing.study import Wish, study, write_study
    from fedmac.scenario_errors import ScenarioError
    from strategies.repurpose.method import Method

    if sum(wish is not None for wish in (max_drop, max_sends, cost)) > 1:
        raise ScenarioError("max-drop, max-sends, cost: more than one is given; accepted: at most one of them")
    devices, links = _team(workers, team)
    folder = out or (Path(model) / "plan" if Path(model).is_dir() else Path("plan"))
    if folder.exists():
        raise ScenarioError(f"out = '{folder}': exists already; accepted: a new folder (--out FOLDER)")
    torch.set_num_threads(1)  # many small products: threads would wait for each other
    trained = _trained(model, variant, seed, weights, data, calibration)
    with _Bars(points) as bars:
        try:
            found = study(
                trained,
                devices,
                links,
                Wish(max_drop, max_sends, cost),
                points=points,
                note=bars.note,
                method=Method(penalty.value, edge_cost),
            )
        except ValueError as error:
            raise ScenarioError(str(error)) from error
        except KeyboardInterrupt:
            say("interrupted; nothing was written")
            raise typer.Exit(FAILURE) from None
    with writing(folder):
        write_study(found, folder)
    write_atomically(folder / "report.html", repurpose_page(found))
    _show(found, folder)


def _team(workers: int | None, team: Path | None) -> tuple[list[Worker], Links]:
    from fedmac.repurposing.team import equal_team, read_team
    from fedmac.scenario_errors import ScenarioError

    if (workers is None) == (team is None):
        raise ScenarioError("workers, team: accepted: one of --workers N and --team FILE")
    return (read_team(team) if team is not None else equal_team(workers or 0)).built()


def _trained(
    model: str, variant: str | None, seed: int | None, weights: Path | None, data: str | None, rows: int
) -> TrainedModel:
    from fedmac.repurposing.trained_model import of_factory, of_run
    from fedmac.scenario_errors import ScenarioError

    if ":" in model and not Path(model).exists():
        if variant is not None or seed is not None:
            raise ScenarioError(f"variant, seed: model {model!r} is no run folder; accepted: without them")
        return of_factory(model, weights, data, rows)
    if weights is not None or data is not None:
        raise ScenarioError(f"weights, data: model {model!r} is a run folder; accepted: without them")
    return of_run(Path(model), variant, seed, rows)


class _Bars:
    """A bar while the path is found, with the last point's figures; quiet where stderr is no terminal."""

    def __init__(self, points: int) -> None:
        from rich.console import Console

        from fedmac.progress import bars_on

        self.bars = bars_on(Console(stderr=True))
        self.task = self.bars.add_task("plans", total=1 + points, figures="")

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def note(self, point: Point) -> None:
        """Show a point."""
        said = f"acc {point.accuracy:.4f} sends {point.accounts.sends}"
        done = int(self.bars.tasks[0].completed) + 1
        self.bars.update(self.task, completed=done, total=max(done, int(self.bars.tasks[0].total or 0)), figures=said)


def _show(found: Study, folder: Path) -> None:
    """The comparison as a table, and where the plan lies."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("plan")
    for heading in ("accuracy", "test", "sends", "bytes", "mult-adds max", "mean", "ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for entry in (found.picked, *found.baselines):
        work = entry.accounts.multiply_adds
        table.add_row(
            entry.name,
            f"{entry.judged:.4f}",
            "-" if entry.test is None else f"{entry.test:.4f}",
            f"{entry.accounts.sends:,}",
            f"{entry.accounts.bytes:,}",
            f"{int(work.max()):,}",
            f"{float(work.mean()):,.0f}",
            f"{1e3 * entry.latency:.3g}",
        )
    Console().print(table)
    typer.echo(f"plan: {folder}; run it with `fedmac infer {folder} --workers {found.picked.plan.workers}`")
    typer.echo(f"page: {folder / 'report.html'}")
