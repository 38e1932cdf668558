"""The table of a sweep: a row for each cell, variant and seed, with what was set and what came out."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmac.record import ROUNDS, RecordError, folder_of, put_in_place, read_rounds, summary_row
from fedmac.scenario import Scenario, Variant
from fedmac.scenario_keys import CHANGE_NO_RESULT, dotted
from fedmac.studies.sweep.folder import TABLE, Cell, State, Sweep, variant_is_done

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

MERITS = {"test_accuracy": max, "validation_accuracy": max, "test_loss": min, "validation_loss": min}
"""What the best cell is best in, the first of these that a run has, and which of two values is better."""

_NOT_COLUMNS = {"name", "seed", "seeds", "variants", *CHANGE_NO_RESULT}


@dataclass(frozen=True)
class Outcome:
    """What a variant has reached in a cell: mean and standard deviation over the seeds that are done.

    Parameters
    ----------
    cell, variant : str
        Their names.
    merit : str
        What is meant: one of :data:`MERITS`.
    seeds : int
        Runs that are done.
    mean, deviation : float or None
        None if a run has diverged.
    figures : dict
        Means of the other figures by name, as far as they are numbers.
    """

    cell: str
    variant: str
    merit: str
    seeds: int
    mean: float | None
    deviation: float | None
    figures: dict[str, float]


class SweepTable:
    """The rows of a sweep, brought up to date run by run.

    Parameters
    ----------
    sweep : Sweep
        Whose table it is.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.rows: dict[tuple[str, int], list[Row]] = {}

    def update(self, cell: Cell, seed: int, state: State) -> State:
        """Take in what a run has come to; the state itself, or that it failed if its record cannot be read."""
        scenario, folder = cell.run_scenario(seed), cell.run_folder(seed)
        wanted = [v for v in scenario.resolve() if not self.sweep.only or v.name in self.sweep.only]
        rows = []
        for variant in wanted:
            own, figures = state, {}
            if variant_is_done(scenario, folder, variant):
                try:
                    own, figures = State("done"), _figures(scenario, cell, seed, variant)
                except (RecordError, OSError) as error:
                    own = state = State("failed", str(error))
            row = {"cell": cell.name, "variant": variant.name, "seed": seed, "status": own.status, "reason": own.reason}
            rows.append(row | _settings(variant) | figures)
        self.rows[cell.name, seed] = rows
        return state

    def frame(self) -> pd.DataFrame:
        """The table, in the order of the plan; a figure that a run does not have is missing."""
        import pandas as pd

        keys = [(cell.name, seed) for cell in self.sweep.cells for seed in self.sweep.seeds]
        rows = [row for key in keys for row in self.rows.get(key, [])]
        places = {cell.name: number for number, cell in enumerate(self.sweep.cells)}
        names = list(dict.fromkeys(row["variant"] for row in rows))
        rows.sort(key=lambda row: (places[row["cell"]], names.index(row["variant"]), row["seed"]))
        columns = list(dict.fromkeys(column for row in rows for column in row))
        return pd.DataFrame({column: _column([row.get(column) for row in rows]) for column in columns})

    def write(self) -> None:
        """Write the table in one step.

        Raises
        ------
        RecordError
            If it cannot be written; the old one stays.
        """
        with put_in_place(self.sweep.folder / TABLE) as part:
            self.frame().to_parquet(part, index=False)

    def outcomes(self) -> list[Outcome]:
        """What each variant has reached in each cell, best first; those that diverged last."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for rows in self.rows.values():
            for row in rows:
                if row["status"] == "done":
                    groups.setdefault((row["cell"], row["variant"]), []).append(row)
        outcomes = [_outcome(cell, variant, rows) for (cell, variant), rows in groups.items()]
        return sorted(outcomes, key=_worse_last)


def _worse_last(outcome: Outcome) -> float:
    """Sorts the best first and what diverged last."""
    if outcome.mean is None:
        return math.inf
    return outcome.mean if MERITS[outcome.merit] is min else -outcome.mean


def _settings(variant: Variant) -> Row:
    """The resolved keys of a variant, dotted."""
    content = {key: value for key, value in variant.scenario.content().items() if key not in _NOT_COLUMNS}
    return dotted(content)


def _figures(scenario: Scenario, cell: Cell, seed: int, variant: Variant) -> Row:
    """What a finished run of a variant has come to; a deviation over one seed says nothing."""
    path = folder_of(scenario, cell.run_folder(seed), variant.name) / ROUNDS
    row = summary_row(variant, [record for record in read_rounds(path) if int(record["seed"]) == seed])
    dropped = {"name", "rounds", "seeds"}
    return {k: v for k, v in row.items() if k not in dropped and k.removesuffix("_std") not in row.keys() - {k}}


def _outcome(cell: str, variant: str, rows: list[Row]) -> Outcome:
    merit = next((m for m in MERITS if any(row.get(m) is not None for row in rows)), next(iter(MERITS)))
    values = [row.get(merit) for row in rows]
    finite = [float(value) for value in values if value is not None]
    whole = len(finite) == len(values)
    return Outcome(
        cell,
        variant,
        merit,
        seeds=len(rows),
        mean=statistics.fmean(finite) if whole else None,
        deviation=statistics.stdev(finite) if whole and len(finite) > 1 else None,
        figures={
            name: statistics.fmean(float(row[name]) for row in rows)
            for name in rows[0]
            if all(isinstance(row.get(name), int | float) for row in rows)
        },
    )


def _column(values: list[Any]) -> pd.Series[Any]:
    """Values as one type that Parquet can hold: a key may be a number in one cell and a text in another."""
    import pandas as pd

    types = {bool if isinstance(value, bool) else type(value) for value in values if value is not None}
    if not types:
        return pd.Series(values, dtype="float64")
    if types == {bool}:
        return pd.Series(values, dtype="boolean" if None in values else "bool")
    if types == {int}:
        return pd.Series(values, dtype="Int64" if None in values else "int64")
    if types <= {int, float}:
        return pd.Series(values, dtype="float64")
    texts = [v if isinstance(v, str) or v is None else json.dumps(v, default=str) for v in values]
    return pd.Series(texts, dtype="str")
