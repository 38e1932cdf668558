"""DINGO over the air in 24 cells: 2 data sets x iid or 2 shards a device x 10 or 50 devices x 3 SNRs.

usage: python scenarios/dingo_over_the_air.py [--only TEXT] [--seeds 5] [--jobs N] [--out runs/dingo-over-the-air]

Each cell is scenarios/dingo_over_the_air.toml with the cell's keys: the rates of first-order methods are tuned there
(`fedmac tune`, on four fifths of the training rows, by what is compared: the objective after the last exchange), then
all methods run under the same seeds (`fedmac sweep`). Started again it does what is missing. The table is written to
OUT/table.md: channel uses, in vectors of d uses, and the devices' mean energy, in that of such a vector at the power
limit, until the objective gap is at most .1, .01 and .001 (means over the seeds that got there; their number if not all
did), the gap after 60 vectors (median, least to largest) and the test accuracy there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from study import study_arguments, write_table

import fedmac

SCENARIO = Path(__file__).with_suffix(".toml")
DATA: Mapping[str, dict[str, Any]] = {
    "digits": {"data.source": "digits", "data.test_fraction": 0.221, "training.l2": 1 / 1400},
    "mnist-5k": {"data.source": "mnist-5k", "data.test_fraction": 0.2, "training.l2": 1 / 4000},
}
PARTITIONS: Mapping[str, dict[str, Any]] = {
    "iid": {"data.partition": "iid"},
    "2-shards": {"data.partition": "shards", "data.shards": 2},
}
DEVICES, SNRS_DB = (10, 50), (10, 0, -10)
TUNED = {
    ("fedavg", "gd-momentum"): {"training.learning_rate": [0.1, 0.3, 1.0, 3.0, 10.0]},
    ("fedadam",): {"training.learning_rate": [0.1, 1.0], "strategy.eta": [0.03, 0.1, 0.3]},
}
BUDGET = 60
"""Vectors of d channel uses that every method has."""
GAPS = (0.1, 0.01, 0.001)


@dataclass(frozen=True)
class Cell:
    """One setting, in which all methods run."""

    data: str
    partition: str
    devices: int
    snr_db: float

    @property
    def name(self) -> str:
        return f"{self.data} {self.partition} {self.devices} devices {self.snr_db:+g} dB"

    @property
    def settings(self) -> dict[str, Any]:
        chosen = DATA[self.data] | PARTITIONS[self.partition]
        return chosen | {"data.devices": self.devices, "channel.snr_db": self.snr_db}


def main() -> None:
    """Tune and run the cells that are missing, and write the table of all that are there."""
    names = [cell.name for cell in all_cells()]
    arguments = study_arguments(__doc__, names, seeds=5, out="runs/dingo-over-the-air")
    cells = (cell for cell in all_cells() if cell.name in arguments.cells)
    write_table(arguments.out, (section(cell, run(cell, optimum(cell.data), arguments)) for cell in cells))


@cache
def optimum(data: str) -> float:
    """The least value of the objective on a data set, in the digits that any machine agrees on: to resume."""
    (found,) = fedmac.optimum(fedmac.Scenario.load(SCENARIO, DATA[data]))
    return float(f"{found.objective:.9g}")


def all_cells() -> Iterator[Cell]:
    """In the order of the table."""
    return (Cell(*chosen) for chosen in product(DATA, PARTITIONS, DEVICES, SNRS_DB))


def run(cell: Cell, least: float, arguments: argparse.Namespace) -> dict[str, list[pd.DataFrame]]:
    """The rounds of each method under each seed, in one cell."""
    folder = arguments.out / cell.name.replace(" ", "-")
    scenario: Any = SCENARIO
    settings = cell.settings | {"evaluation.optimum": least}
    for number, (variants, over) in enumerate(TUNED.items()):
        written = folder / f"tuned-{number}.toml"
        fedmac.tune(
            scenario, over, only=variants, settings=settings, seeds=1, jobs=arguments.jobs,
            metric="train_objective", out=folder / f"tuning-{number}", write=written,
        )  # fmt: skip
        scenario, settings = written, {}
    done = fedmac.sweep(
        scenario,
        grid={"channel.snr_db": [cell.snr_db]},
        seeds=arguments.seeds,
        jobs=arguments.jobs,
        out=folder / "sweep",
    )
    if done.failures:
        raise SystemExit("\n".join(str(failure) for failure in done.failures))
    curves: dict[str, list[pd.DataFrame]] = {}
    for path in sorted((folder / "sweep").glob("cells/*/seed-*/scenario.toml")):
        for name, rounds in fedmac.Run(path.parent).rounds.groupby("variant", sort=False):
            curves.setdefault(str(name), []).append(rounds)
    return curves


def section(cell: Cell, curves: Mapping[str, list[pd.DataFrame]]) -> str:
    """A cell's part of the table."""
    lines = [
        f"### {cell.name}\n",
        "| method | uses / energy to gap .1 | .01 | .001 | gap after 60 | test accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for method, seeds in curves.items():
        within = [rounds[vectors(rounds) <= BUDGET] for rounds in seeds]
        ends = [rounds.iloc[-1] for rounds in within]
        gaps = pd.Series([end["objective_gap"] for end in ends])
        accuracy = sum(end["test_accuracy"] for end in ends) / len(ends)
        reached = " | ".join(spent(within, gap, cell.snr_db) for gap in GAPS)
        end = f"{gaps.median():.1e} ({gaps.min():.1e} to {gaps.max():.1e})"
        lines.append(f"| {method} | {reached} | {end} | {accuracy:.3f} |")
    return "\n".join(lines) + "\n"


def vectors(rounds: pd.DataFrame) -> pd.Series:
    """Channel uses so far, in vectors of d."""
    return rounds["channel_uses"].ffill().fillna(0) / rounds["parameters"].max()


def energies(rounds: pd.DataFrame, snr_db: float) -> pd.Series:
    """Mean energy of the devices so far, in that of a vector of d uses at the limit of power, where noise is 1."""
    spent = rounds["energy_j_per_device_mean"].ffill().fillna(0)
    return spent / (rounds["parameters"].max() * 10 ** (snr_db / 10))


def spent(seeds: list[pd.DataFrame], gap: float, snr_db: float) -> str:
    """What it took to come that near, over the seeds that did."""
    near = [rounds["objective_gap"] <= gap for rounds in seeds]
    uses = [vectors(rounds)[there].min() for rounds, there in zip(seeds, near, strict=True) if there.any()]
    energy = [energies(rounds, snr_db)[there].min() for rounds, there in zip(seeds, near, strict=True) if there.any()]
    if not uses:
        return "-"
    some = "" if len(uses) == len(seeds) else f" ({len(uses)} of {len(seeds)})"
    return f"{sum(uses) / len(uses):.0f} / {sum(energy) / len(energy):.1f}{some}"


if __name__ == "__main__":
    main()
