"""What a person sees while a run goes on: bars on a terminal, nothing elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from fedmac.session import Job

BAR = 6
"""Width of a bar: little, so that the figures find room beside it in 80 columns."""


class Progress:
    """Live bars, one for each variant and one for the whole run.

    Parameters
    ----------
    console : Console, optional
        Where to draw; a console that is not a terminal stays quiet.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bars = bars_on(self.console)
        self.rows: dict[str, TaskID] = {}
        self.whole: TaskID | None = None
        self.room = 0

    def begin(self, jobs: Sequence[Job]) -> None:
        """Draw the bars of the jobs to come."""
        rounds: dict[str, int] = {}
        done: dict[str, int] = {}
        for job in jobs:
            name, length = job.variant.name, job.variant.scenario.rounds
            rounds[name] = rounds.get(name, 0) + length
            done[name] = done.get(name, 0) + (length if job.done else job.after)
        for name, total in rounds.items():
            self.rows[name] = self.bars.add_task(name, total=total, completed=done[name], figures="")
        if len(rounds) > 1:
            total = sum(rounds.values())
            self.whole = self.bars.add_task("all", total=total, completed=sum(done.values()), figures="")
        self.room = room_beside(self.console, [*rounds, "all"], sum(rounds.values()))
        self.bars.start()

    def note(self, record: dict[str, Any]) -> None:
        """Show a round's figures."""
        if record["round"] == 0:
            return
        row = self.rows[record["variant"]]
        self.bars.update(row, advance=1, figures=figures(record, self.room))
        if self.whole is not None:
            self.bars.update(self.whole, advance=1)

    def end(self) -> None:
        """Leave the bars as they are."""
        self.bars.stop()


def bars_on(console: Console) -> Bars:
    """Bars with a name, a count, the time left and a text of ``figures``; quiet where `console` is no terminal."""
    return Bars(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=BAR, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True, justify="right")),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        console=console,
        disable=not console.is_terminal,
    )


def room_beside(console: Console, names: Sequence[str], total: int) -> int:
    """Characters for the figures beside bars of these names that count to `total`.

    What is left beside the name, the bar, the count and the time; a ^C must fit behind, or it spoils the last picture.
    """
    counts = 2 * len(str(total)) + 1
    return console.width - max(map(len, names)) - BAR - counts - len("00:00") - 4 - len("^C")


def figures(record: dict[str, Any], room: int = 80) -> str:
    """A round's figures in a few words, as many as there is room for; failures first."""
    words = []
    if record.get("failures"):
        words.append(f"{len(record['failures'])} failed")
    if "test_loss" in record:
        if "test_accuracy" in record:
            words.append(f"acc {_number(record['test_accuracy'], '.3f')}")
        words.append(f"loss {_number(record['test_loss'], '.3f')}")
    elif "train_loss" in record:
        words.append(f"training loss {_number(record['train_loss'], '.3f')}")
    if record.get("not_asked"):
        words.append(f"{len(record['not_asked'])} not asked")
    if record.get("energy_j_per_device_mean"):
        words.append(f"energy {_amount(record['energy_j_per_device_mean'])}")
    while words and len(" ".join(words)) > room:
        words.pop()
    return " ".join(words)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if 1e3 <= value < 1e7 else f"{value:.4g}"


def _number(value: float | None, form: str) -> str:
    """A figure, or a dash where it is not finite."""
    return "-" if value is None or not math.isfinite(value) else format(value, form)


Figure = Callable[[dict[str, Any]], str]
"""How a figure of a variant's row of the summary reads."""


def summary_table(summary: dict[str, Any], width: int = 80) -> Table:
    """The table a run ends with; columns that do not fit into `width` characters are left to the report."""
    rows = summary["variants"]
    many = any(len(row["seeds"]) > 1 for row in rows)
    columns: dict[str, Figure] = {
        "rounds": lambda row: str(row["rounds"]),
        "accuracy": lambda row: _with_deviation(row, "test_accuracy", many),
        "loss": lambda row: _number(row["test_loss"], ".3f"),
        **_costs(rows),
    }
    least = "loss"
    if rows and all(row["test_accuracy"] is None for row in rows) and any(row["test_loss"] is not None for row in rows):
        del columns["accuracy"]  # a loss without classes has none
        columns["loss"] = lambda row: _with_deviation(row, "test_loss", many)
        least = "energy"
    for heading in ("", "wall s", "air s", "max", "rounds", "clock s", least):
        columns.pop(heading, None)
        table = _table(summary, columns)
        if table.__rich_measure__(Console(), Console(width=1000).options).maximum <= width:
            break
    return table


def _costs(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Columns of what was spent: of the channel if it was used, and of the clock where that says more than air time."""
    timed = any(_has_clock(row) for row in rows)
    on_air = not timed or any(row["air_time_s"] for row in rows)
    costs: dict[str, Figure] = {"uses": lambda row: f"{row['channel_uses']:,}"} if on_air else {}
    costs["energy"] = lambda row: _amount(row["energy_j_per_device_mean"])
    costs["max"] = lambda row: _amount(row["energy_j_per_device_max"])
    if on_air:
        costs["air s"] = lambda row: f"{row['air_time_s']:.3g}"
    if timed:
        costs["clock s"] = lambda row: _amount(row["clock_s"])
    costs["wall s"] = lambda row: f"{row['wall_s']:.1f}"
    return costs


def _has_clock(row: dict[str, Any]) -> bool:
    """Whether a variant's clock is simulated, or that of a system of workers in real time, which uses no channel."""
    return row.get("clock") == "simulated" or bool(row.get("clock_s") and not row["air_time_s"])


def _caption(rows: Sequence[dict[str, Any]], columns: Mapping[str, Figure]) -> str:
    unit = "J" if rows and rows[0]["units"] == "physical" else "normalised"
    said = ["uses: of the channel"] if "uses" in columns else []
    said.append(f"energy: mean of the devices and largest, {unit}")
    if "clock s" in columns and all(row.get("clock") == "simulated" for row in rows):
        said.append("clock: simulated")
    if any(len(row["seeds"]) > 1 for row in rows):
        said.append("±: standard deviation over seeds")
    return "; ".join(said)


def _table(summary: dict[str, Any], columns: Mapping[str, Figure]) -> Table:
    rows = summary["variants"]
    table = Table(
        title=f"{summary['name']}: on the test rows after the last round",
        caption=_caption(rows, columns),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("variant", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], *(text(row) for text in columns.values()))
    return table


def _with_deviation(row: dict[str, Any], name: str, many: bool) -> str:
    mean = _number(row[name], ".3f")
    return mean if mean == "-" or not many else f"{mean} ± {row[f'{name}_std']:.3f}"
