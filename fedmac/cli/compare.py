"""`fedmac compare`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmac.cli.exits import FAILURE, say

if TYPE_CHECKING:
    from fedmac.studies.compare.comparison import Comparison

COMPARE_HELP = (
    "Compare runs at equal cost: which is best, what it took, and which differences can be claimed.\n\n"
    "DIR is a run folder, a sweep folder or a folder of some; several are compared with each other. Curves become "
    "means with a 95 % confidence band over seeds; differences from the baseline are tested under the same seeds.\n\n"
    "Written: comparison.html, figure.svg, .png and .pdf for a paper, table.csv, .parquet, .tex and .md, "
    "curves.parquet.\n\n"
    "x is one of round, exchange, samples, channel_uses, bits, energy, air_time, clock, wall; y is any figure of the "
    "record.\n\n"
    "Exit code 0: done; 2: bad input, nothing was written; 1: failure."
)
MAX_SENTENCES = 8


class Width(StrEnum):
    """Widths a paper's figure can have."""

    single = "single"
    double = "double"


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run or sweep folders.")],
    x: Annotated[str, typer.Option(help="Cost to compare over.")] = "round",
    y: Annotated[
        str | None, typer.Option(help="Figure to compare (default: test_accuracy; test_loss where there is none).")
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE", help="Target whose cost is of interest: test_accuracy=0.88.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Series or variant that others are measured against.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Compare this one only; repeatable.")] = None,
    pareto: Annotated[
        str | None, typer.Option(metavar="COLUMN,COLUMN", help="Pareto front over two or three: energy,test_accuracy.")
    ] = None,
    unequal: Annotated[bool, typer.Option("--unequal", help="Unequal budgets are wanted: do not label them.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to write (default: DIR/comparison, or comparison if several)."),
    ] = None,
    width: Annotated[Width, typer.Option(help="Width of the paper's figure: a column or a page.")] = Width.single,
    y_range: Annotated[
        str | None, typer.Option(metavar="LOW..HIGH", help="What the paper's figure shows of y, e.g. 0.8..0.9.")
    ] = None,
) -> None:
    # The help is COMPARE_HELP: paragraphs of a docstring would be wrapped twice.
    from fedmac.record import write_atomically
    from fedmac.scenario_errors import ScenarioError
    from fedmac.studies.compare.comparison import compare as compare_runs
    from fedmac.studies.compare.page import comparison_page
    from fedmac.studies.compare.paper import write_paper_figure
    from fedmac.studies.compare.tables import write_tables

    target = _target(to)
    shown = _range(y_range)
    columns = [column.strip() for column in pareto.split(",")] if pareto is not None else []
    out = out or (folders[0] if len(folders) == 1 else Path()) / "comparison"
    if out.exists() and not out.is_dir():
        raise ScenarioError(f"out = '{out}': is a file; accepted: a folder")
    try:
        comparison = compare_runs(
            folders, x=x, y=y, to=target, baseline=baseline, unequal=unequal, pareto=columns, only=only or []
        )
        write_tables(comparison, out)
        write_paper_figure(comparison, out, width.value, shown)
        write_atomically(out / "comparison.html", comparison_page(comparison))
        _show(comparison, out)
    except KeyboardInterrupt:
        say(f"interrupted; the same command writes everything in {out} anew")
        raise typer.Exit(FAILURE) from None


def _target(to: str | None) -> tuple[str, float] | None:
    from fedmac.scenario_errors import ScenarioError

    if to is None:
        return None
    key, _, value = to.partition("=")
    try:
        return key.strip(), float(value)
    except ValueError:
        raise ScenarioError(f"to = {to!r}: accepted: KEY=NUMBER, e.g. test_accuracy=0.88") from None


def _range(text: str | None) -> tuple[float, float] | None:
    from fedmac.scenario_errors import ScenarioError

    if text is None:
        return None
    low, _, high = text.partition("..")
    try:
        if float("-inf") < float(low) < float(high) < float("inf"):
            return float(low), float(high)
    except ValueError:
        pass
    raise ScenarioError(f"y-range = {text!r}: accepted: LOW..HIGH, two numbers, the lower first, e.g. 0.8..0.9")


def _show(comparison: Comparison, out: Path) -> None:
    """The table, what can be claimed, what to know, and where the page lies."""
    from rich.console import Console

    from fedmac.studies.compare.tables import terminal_table

    console = Console()
    console.print(terminal_table(comparison, console.width))
    sentences = [pair.sentence for pair in comparison.pairs]
    for sentence in sentences[:MAX_SENTENCES]:
        console.print(sentence, markup=False, highlight=False)
    if len(sentences) > MAX_SENTENCES:
        typer.echo(f"{len(sentences) - MAX_SENTENCES} more in the page")
    for notice in comparison.notices:
        console.print(f"note: {notice}", markup=False, highlight=False)
    typer.echo(f"page: {out / 'comparison.html'}")
