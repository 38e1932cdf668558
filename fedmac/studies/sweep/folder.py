"""The folder of a sweep: what was planned, and how far each of its runs has come.

::

    DIR/sweep.toml                              what was planned: grid, seeds, and what all cells have in common
    DIR/sweep.parquet                           a row for each cell, variant and seed
    DIR/cells/channel.snr_db=0/scenario.toml    the scenario of a cell
    DIR/cells/channel.snr_db=0/seed-3/          a run folder: the cell's scenario under seed 3, see docs/record.md
    DIR/cells/channel.snr_db=0/seed-3.failed    why that run failed, if it did
    DIR/cells/channel.snr_db=0/seed-3.log       and what it printed
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedmac.record import ENVIRONMENT, SCENARIO, NoRunHere, RecordError, folder_of, model_path
from fedmac.scenario import Scenario, Variant
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_keys import differences
from fedmac.studies.sweep.grid import Grid, cell_name, cells_of

if TYPE_CHECKING:
    import pandas as pd

PLAN, TABLE, CELLS = "sweep.toml", "sweep.parquet", "cells"

Status = Literal["done", "failed", "unfinished", "missing"]


@dataclass(frozen=True)
class State:
    """How far a run has come, and why no further.

    Parameters
    ----------
    status : {"done", "failed", "unfinished", "missing"}
        All its variants came to their end; it failed; it was interrupted or is running; it has not begun.
    reason : str
        Why it failed; empty otherwise.
    """

    status: Status
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """One combination of a sweep's settings.

    Parameters
    ----------
    name : str
        ``channel.snr_db=0,uplink.ratio=0.05``.
    settings : mapping
        Values by dotted key.
    folder : Path
        Where its runs lie.
    planned : Scenario, optional
        What is to run in it, where the folder does not say.
    """

    name: str
    settings: Mapping[str, Any]
    folder: Path
    planned: Scenario | None = field(default=None, compare=False, repr=False)

    @cached_property
    def scenario(self) -> Scenario:
        """What runs in the cell, with its variants, under all seeds."""
        return self.planned or Scenario.load(self.folder / SCENARIO)

    def run_folder(self, seed: int) -> Path:
        """Where the run under a seed lies, or will."""
        return self.folder / f"seed-{seed}"

    def failure(self, seed: int) -> Path:
        """The file that says why the run under a seed failed."""
        return self.folder / f"seed-{seed}.failed"

    def log(self, seed: int) -> Path:
        """What the run under a seed printed; kept if it failed."""
        return self.folder / f"seed-{seed}.log"

    def runs(self) -> dict[int, Path]:
        """The run folders that are there, by seed; finished or not."""
        found = {}
        for folder in self.folder.glob("seed-*"):
            match = re.fullmatch(r"seed-(\d+)", folder.name)
            if match and (folder / SCENARIO).is_file() and (folder / ENVIRONMENT).is_file():
                found[int(match[1])] = folder
        return dict(sorted(found.items()))

    def run_scenario(self, seed: int) -> Scenario:
        """What runs under a seed: the cell's scenario with that seed alone."""
        return Scenario.load(self.scenario, {"seed": seed, "seeds": 1})

    def state(self, seed: int, only: Sequence[str] = ()) -> State:
        """How far the run under a seed has come, with the variants in `only` (all if empty)."""
        folder, failure = self.run_folder(seed), self.failure(seed)
        if not folder.exists() and not failure.exists():
            return State("missing")
        scenario = self.run_scenario(seed)
        wanted = [v for v in scenario.resolve() if not only or v.name in only]
        if self._same(folder, scenario) and all(variant_is_done(scenario, folder, v) for v in wanted):
            return State("done")
        with suppress(OSError):
            return State("failed", failure.read_text(encoding="utf-8").strip())
        return State("unfinished")

    @staticmethod
    def _same(folder: Path, scenario: Scenario) -> bool:
        """Whether the run in the folder is one of the scenario."""
        if not (folder / ENVIRONMENT).is_file():
            return False
        try:
            return not differences(Scenario.load(folder / SCENARIO), scenario)
        except ScenarioError:
            return False


@dataclass(frozen=True)
class Sweep:
    """A sweep, as its folder tells.

    Parameters
    ----------
    folder : Path
        The sweep's folder.
    name : str
        The scenario's.
    grid : dict
        Values by dotted key, in the order given.
    seeds : list of int
        Each cell runs under each.
    only : list of str
        The variants that run; all if empty.
    cells : list of Cell
        All combinations, the last key of the grid changing fastest.
    known : mapping
        How far each run has come, by cell name and seed, where it is known better than from the folder: on a full
        disk, why a run failed cannot be written.
    """

    folder: Path
    name: str
    grid: Grid
    seeds: list[int]
    only: list[str]
    cells: list[Cell] = field(repr=False)
    known: Mapping[tuple[str, int], State] = field(default_factory=dict, compare=False, repr=False)

    @property
    def jobs(self) -> list[tuple[Cell, int]]:
        """Cells and seeds, each a run folder: every cell gets its first seed before one gets its second."""
        return [(cell, seed) for seed in self.seeds for cell in self.cells]

    def state(self, cell: Cell, seed: int) -> State:
        """How far a run has come."""
        return self.known.get((cell.name, seed)) or cell.state(seed, self.only)

    @property
    def failures(self) -> list[tuple[Cell, int, str]]:
        """Cell, seed and reason of the runs that failed."""
        states = [(cell, seed, self.state(cell, seed)) for cell, seed in self.jobs]
        return [(cell, seed, state.reason) for cell, seed, state in states if state.status == "failed"]

    def variants(self, cell: Cell) -> list[Variant]:
        """The variants of a cell that run."""
        return [v for v in cell.scenario.resolve() if not self.only or v.name in self.only]

    @property
    def table(self) -> pd.DataFrame:
        """A row for each cell, variant and seed: status, reason, resolved keys, summary figures.

        Raises
        ------
        RecordError
            If it is not there: the sweep has not begun.
        """
        import pandas as pd

        path = self.folder / TABLE
        if not path.is_file():
            raise RecordError(f"{path}: not there; accepted: a sweep of which at least one run has ended")
        return pd.read_parquet(path)


def variant_is_done(scenario: Scenario, folder: Path, variant: Variant) -> bool:
    """Whether a variant came to its end in the run folder of a scenario with one seed."""
    return model_path(folder_of(scenario, folder, variant.name), variant, scenario.seed).is_file()


def cell_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Where the cell with these settings lies in the folder of a sweep."""
    return folder / CELLS / cell_name(settings)


def is_sweep(folder: str | Path) -> bool:
    """Whether a sweep has written the folder."""
    return (Path(folder) / PLAN).is_file()


def read_sweep(folder: str | Path) -> Sweep:
    """The sweep in a folder.

    Raises
    ------
    NoRunHere
        If there is none.
    RecordError
        If what it has planned cannot be read.
    """
    folder = Path(folder)
    path = folder / PLAN
    if not path.is_file():
        raise NoRunHere(f"{folder}: no sweep here (no {PLAN}); accepted: a folder that `fedmac sweep` has written")
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
        grid = {row["key"]: list(row["values"]) for row in plan["grid"]}
        seeds = list(range(plan["seed"], plan["seed"] + plan["seeds"]))
        cells = [Cell(cell_name(s), s, cell_folder(folder, s)) for s in cells_of(grid)]
        return Sweep(folder, plan["name"], grid, seeds, list(plan["only"]), cells)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
