"""What a person sees while a run goes on: bars on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from fedmac.session import Job


class Progress:
    """Live bars, one for each variant and one for the whole run.

    Parameters
    ----------
    console : Console, optional
        Where to draw; a console that is not a terminal stays quiet.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}
        self.whole: TaskID | None = None
        self.best = ""

    def begin(self, jobs: Sequence[Job]) -> None:
        """Draw the bars of the jobs to come."""
        rounds: dict[str, int] = {}
        done: dict[str, int] = {}
        for job in jobs:
            name, length = job.variant.name, job.variant.scenario.rounds
            rounds[name] = rounds.get(name, 0) + length
            done[name] = done.get(name, 0) + (length if job.done else 0)
        for name, total in rounds.items():
            self.rows[name] = self.bars.add_task(name, total=total, completed=done[name], figures="")
        if len(rounds) > 1:
            total = sum(rounds.values())
            self.whole = self.bars.add_task("all", total=total, completed=sum(done.values()), figures="")
        self.bars.start()

    def note(self, record: dict[str, Any]) -> None:
        """Show a round's figures."""
        if record["round"] == 0:
            return
        row = self.rows[record["variant"]]
        self.bars.update(row, advance=1, figures=figures(record))
        if self.whole is not None:
            self.bars.update(self.whole, advance=1)

    def end(self) -> None:
        """Leave the bars as they are."""
        self.bars.stop()


def figures(record: dict[str, Any]) -> str:
    """A round's figures in a few words."""
    words = []
    if record.get("test_accuracy") is not None:
        words.append(f"accuracy {record['test_accuracy']:.3f}  loss {record['test_loss']:.3f}")
    elif record.get("train_loss") is not None:
        words.append(f"training loss {record['train_loss']:.3f}")
    if record.get("energy_j_per_device_mean"):
        words.append(f"energy {record['energy_j_per_device_mean']:,.4g}")
    if record.get("failures"):
        words.append(f"[red]{len(record['failures'])} failed[/red]")
    return "  ".join(words)


def summary_table(summary: dict[str, Any]) -> Table:
    """The table a run ends with."""
    rows = summary["variants"]
    unit = "J" if rows and rows[0]["units"] == "physical" else "normalised"
    table = Table(title=f"{summary['name']}: after the last round", title_justify="left")
    table.add_column("variant")
    for heading in (
        "rounds",
        "test accuracy",
        "test loss",
        "channel uses",
        f"energy/device mean ({unit})",
        "max",
        "air time s",
        "wall s",
    ):
        table.add_column(heading, justify="right")
    many = any(len(row["seeds"]) > 1 for row in rows)
    for row in rows:
        table.add_row(
            row["name"],
            str(row["rounds"]),
            _with_deviation(row, "test_accuracy", 3, many),
            _with_deviation(row, "test_loss", 3, many),
            f"{row['channel_uses']:,}",
            f"{row['energy_j_per_device_mean']:,.5g}",
            f"{row['energy_j_per_device_max']:,.5g}",
            f"{row['air_time_s']:.3g}",
            f"{row['wall_s']:.1f}",
        )
    return table


def _with_deviation(row: dict[str, Any], name: str, digits: int, many: bool) -> str:
    if row[name] is None:
        return "-"
    mean = f"{row[name]:.{digits}f}"
    return f"{mean} ± {row[name + '_std']:.{digits}f}" if many else mean
