"""What a person sees while a sweep goes on: its state on a terminal, a line for each job elsewhere."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from fedmac.record import ROUNDS, folder_of
from fedmac.studies.sweep.folder import Cell, State, Sweep
from fedmac.studies.sweep.grid import value_text
from fedmac.studies.sweep.plan import rounds_of
from fedmac.studies.sweep.table import SweepTable
from fedmac.studies.sweep.view import column_labels

_SHOWN_JOBS = 6


class SweepProgress:
    """Cells done, running and failed, time left, and the best so far.

    Parameters
    ----------
    console : Console, optional
        Where to draw; a console that is not a terminal gets a line for each job that ends.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.bar = Progress(
            TextColumn("rounds"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            speed_estimate_period=600,
        )
        # Transient: a last picture that says "running" would be untrue as soon as it is over.
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.states: dict[tuple[str, int], str] = {}
        self.running: dict[tuple[str, int], _Counted] = {}
        self.ended = 0
        self.rounds_done = 0

    def begin(self, sweep: Sweep, table: SweepTable, states: dict[tuple[str, int], State]) -> None:
        """Show the sweep as it stands before anything runs."""
        self.sweep, self.table = sweep, table
        labels = column_labels(sweep)
        self.short = {
            cell.name: " ".join(f"{labels[key]}={value_text(value)}" for key, value in cell.settings.items())
            or cell.name
            for cell in sweep.cells
        }
        self.states = {job: "done" if state.status == "done" else "waiting" for job, state in states.items()}
        rounds = {cell.name: rounds_of(sweep, cell) for cell in sweep.cells}
        self.ended = sum(status == "done" for status in self.states.values())
        self.rounds_done = sum(rounds[cell] for (cell, _), status in self.states.items() if status == "done")
        total = sum(rounds[cell] for cell, _ in self.states)
        self.task = self.bar.add_task("", total=total, completed=self.rounds_done)
        if self.console.is_terminal:
            self.live.start()
            self.poll()

    def job_begun(self, cell: Cell, seed: int) -> None:
        """A job begins."""
        self.states[cell.name, seed] = "running"
        self.running[cell.name, seed] = _Counted(self.sweep, cell, seed)

    def job_ended(self, cell: Cell, seed: int, reason: str | None) -> None:
        """A job has ended; the table has it already."""
        self.states[cell.name, seed] = "done" if reason is None else "failed"
        self.running.pop((cell.name, seed))
        self.rounds_done += rounds_of(self.sweep, cell)
        self.ended += 1
        if not self.console.is_terminal:
            count = f"[{self.ended}/{len(self.states)}]"
            said = "done" if reason is None else f"failed: {reason}"
            print(f"{count} {cell.name} seed {seed}: {said}", file=self.console.file, flush=True)
        self.poll()

    def poll(self) -> None:
        """Draw what has changed."""
        if not self.live.is_started:
            return
        counted = sum(run.count() for run in self.running.values())
        self.bar.update(self.task, completed=self.rounds_done + counted)
        self.live.update(Group(*self._lines()), refresh=True)

    def end(self) -> None:
        """Take the picture away."""
        if self.live.is_started:
            self.live.stop()

    def _lines(self) -> list[Text | Progress]:
        lines: list[Text | Progress] = [self._line(self._counts()), self.bar]
        for (cell, seed), run in list(self.running.items())[:_SHOWN_JOBS]:
            lines.append(self._line(f"  {run.done}/{run.total} {self.short[cell]}, seed {seed}", style="dim"))
        if len(self.running) > _SHOWN_JOBS:
            lines.append(self._line(f"  and {len(self.running) - _SHOWN_JOBS} more", style="dim"))
        lines += [self._line(f"best so far: {best}") for best in self._best()]
        return lines

    def _line(self, words: str, style: str = "") -> Text:
        """One line, cut where the terminal ends; a ^C must fit behind, or it spoils the picture."""
        text = Text(words, style=style, no_wrap=True, overflow="ellipsis")
        text.truncate(max(self.console.width - len("^C"), 10), overflow="ellipsis")
        return text

    def _counts(self) -> str:
        """Cells and jobs by state; a cell has failed if one of its jobs has."""
        by_cell: dict[str, set[str]] = {}
        for (cell, _), status in self.states.items():
            by_cell.setdefault(cell, set()).add(status)
        cells = Counter(
            "failed" if "failed" in found else "done" if found == {"done"} else "open" for found in by_cell.values()
        )
        jobs = Counter(self.states.values())
        failed = f", {cells['failed']} failed" if cells["failed"] else ""
        return (
            f"cells: {cells['done']} of {len(by_cell)} done{failed}; jobs: {jobs['done']} of {len(self.states)} done, "
            f"{jobs['running']} running, {jobs['failed']} failed"
        )

    def _best(self) -> list[str]:
        outcomes = self.table.outcomes()
        if not outcomes or outcomes[0].mean is None:
            return []
        best = outcomes[0]
        name = "" if best.variant == self.sweep.name else f"{best.variant}, "
        return [f"{best.merit} {best.mean:.3f} ({_many(best.seeds)}), {name}{self.short[best.cell]}"]


def _many(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


class _Counted:
    """The rounds that a job has recorded, counted as its files grow."""

    def __init__(self, sweep: Sweep, cell: Cell, seed: int) -> None:
        scenario, folder = cell.run_scenario(seed), cell.run_folder(seed)
        files = [folder_of(scenario, folder, variant.name) / ROUNDS for variant in sweep.variants(cell)]
        self.read: dict[Path, tuple[int, int]] = dict.fromkeys(files, (0, 0))
        self.total = rounds_of(sweep, cell)
        self.done = 0

    def count(self) -> int:
        """Rounds recorded so far; the line of round 0 is the initial model."""
        for path, (size, lines) in self.read.items():
            if not path.exists():
                continue
            if path.stat().st_size < size:  # it began anew
                size, lines = 0, 0
            with path.open("rb") as file:
                file.seek(size)
                added = file.read()
            self.read[path] = (size + len(added), lines + added.count(b"\n"))
        self.done = sum(max(0, lines - 1) for _, lines in self.read.values())
        return self.done
