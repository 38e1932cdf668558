"""Runs of methods in cells at rates chosen on validation rows, kept on disk as they come."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Run = Callable[[str, str, str, float, int], Sequence[float]]
"""Figures, the accuracy first, of a cell, a method, "validation" or "test" rows, a rate and a seed."""


@dataclass(frozen=True)
class Tuned:
    """A method in a cell, at its best rate.

    Attributes
    ----------
    rate, validation : float
        The rate and its accuracy on validation rows.
    edge : bool
        It is the least or the largest that was tried.
    figures : list of list of float
        On test rows, of each seed.
    """

    rate: float
    validation: float
    edge: bool
    figures: list[list[float]]

    @property
    def chosen(self) -> str:
        """The rate in words."""
        return f"{self.rate:g}{' (edge)' if self.edge else ''}"

    @property
    def accuracy(self) -> str:
        """Mean and standard deviation over the seeds."""
        ends = [figures[0] for figures in self.figures]
        spread = f" ± {np.std(ends, ddof=1):.4f}" if len(ends) > 1 else ""
        return f"{np.mean(ends):.4f}{spread}"

    @property
    def span(self) -> str:
        """Least and largest accuracy."""
        ends = [figures[0] for figures in self.figures]
        return f"{min(ends):.3f} to {max(ends):.3f}"


class TunedRuns:
    """What has been run, and what is missing when it is asked for.

    Parameters
    ----------
    path : Path
        Of the file that has a line for each run: what was run, and its figures.
    run : callable
        Does one that is missing.
    """

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known: dict[tuple[str, str, str, float, int], list[float]] = {
            tuple(what): figures for what, figures in map(json.loads, lines)
        }

    def figures(self, cell: str, method: str, held_out: str, rate: float, seed: int) -> list[float]:
        """Of one run."""
        what = (cell, method, held_out, rate, seed)
        if what not in self.known:
            self.known[what] = [float(figure) for figure in self.run(*what)]
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([what, self.known[what]]) + "\n")
        return self.known[what]

    def tuned(self, cell: str, method: str, rates: Sequence[float], seeds: int) -> Tuned:
        """A method at the rate that is best on validation rows under the first seed; of equals the lowest."""
        tried = {rate: self.figures(cell, method, "validation", rate, 0)[0] for rate in sorted(rates)}
        best = max(tried, key=lambda rate: tried[rate])
        ends = [self.figures(cell, method, "test", best, seed) for seed in range(seeds)]
        return Tuned(best, tried[best], len(tried) > 1 and best in (min(tried), max(tried)), ends)


def tabulate(
    description: str | None,
    names: Iterable[str],
    run: Run,
    rows: Callable[[str, TunedRuns, int], Iterable[str]],
    out: Path,
    example: str,
) -> None:
    """Run what is missing and print the tables: the command line of a script of cells."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"cells whose names hold this text, e.g. {example!r}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    known = list(names)
    cells = [cell for cell in known if arguments.only in cell]
    if not cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {known[0]!r}")
    runs = TunedRuns(arguments.out / "runs.jsonl", run)
    for cell in cells:
        for line in rows(cell, runs, arguments.seeds):
            print(line, flush=True)
