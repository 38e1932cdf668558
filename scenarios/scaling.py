"""Which way of distributing fits how many workers, which network, which stragglers? Time and joules to a target loss.

usage: python scenarios/scaling.py [--only TEXT] [--workers 2,4,...,128] [--systems A,B] [--seeds 3] [--quick]
                                   [--table] [--out runs/scaling-study]

A cell is a network (data-centre, wifi, cellular), stragglers (none, mild, heavy) and a number of workers p; in it all
systems train scenarios/scaling.toml. With weak scaling a worker's step has one row whatever p is; with strong scaling,
in the data centre, all workers' steps together have 128. The clock is that of ResNet-18 (scenarios/scaling_cells.py).
The learning rate of each system is chosen for each p and scaling by the simulated time to the target on validation
rows, in the data centre with mild stragglers and under a seed of its own, on a grid of factors 2.

Started again it does what is missing: each cell has a folder OUT/SCALING/NETWORK/STRAGGLERS/p-P, and in its runs.jsonl
a line for each run; `--table` runs nothing. `--quick` is p = 2, 8, 32, 128 and one seed. OUT/table.md has the tables,
OUT/scaling.svg and OUT/scaling-replicas.svg the pictures, of the cells chosen as far as they are there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scaling_cells import NETWORKS, STRAGGLERS, SYSTEMS, WORKERS, Cell
from scaling_figures import draw_replicas, draw_speed_up, tables
from scaling_rates import NETWORK, Rates
from scaling_runs import NotRun, Runs

SCENARIO = Path(__file__).with_suffix(".toml")
TARGET = 0.4
"""Test loss to be reached."""
QUICK = (2, 8, 32, 128)


def main() -> None:
    """Run the cells that are missing, and write tables and pictures of all that are chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names hold this text, e.g. 'weak wifi'")
    parser.add_argument("--workers", type=numbers, default=WORKERS, help="such as 2,8,32 (default: 2, 4, ... 128)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="systems")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="four numbers of workers and one seed")
    parser.add_argument("--table", action="store_true", help="tables and pictures of what is there; nothing is run")
    parser.add_argument("--out", type=Path, default=Path("runs/scaling-study"))
    arguments = parser.parse_args()
    systems = arguments.systems.split(",")
    if unknown := [system for system in systems if system not in SYSTEMS]:
        parser.error(f"--systems {','.join(unknown)}: accepted: {', '.join(SYSTEMS)}")
    workers = QUICK if arguments.quick else arguments.workers
    cells = [cell for cell in all_cells(workers) if arguments.only in cell.name]
    if not cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {next(all_cells(workers)).name!r}")
    torch.set_num_threads(1)
    runs = Runs(SCENARIO, TARGET, arguments.out, only_known=arguments.table)
    rates, rows = Rates(runs), list[dict[str, Any]]()
    for cell in cells:
        for system in systems:
            rows += rows_of(cell, system, runs, rates, 1 if arguments.quick else arguments.seeds)
        if rows and not arguments.table:
            print(cell.name, flush=True)
    if not rows:
        parser.error(f"--table: {arguments.out}: no runs of these cells there; accepted: --table left out")
    write(pd.DataFrame(rows), arguments.out)
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


def numbers(words: str) -> list[int]:
    """Numbers of workers from the command line."""
    if not all(word.isdecimal() and int(word) >= 2 for word in words.split(",")):
        raise argparse.ArgumentTypeError(f"{words}: accepted: integers >= 2, with commas between them")
    return [int(word) for word in words.split(",")]


def all_cells(workers: Sequence[int] = WORKERS) -> Iterator[Cell]:
    """Weak scaling everywhere, then strong scaling in the data centre; few workers first."""
    for scaling, network, stragglers, p in product(("weak", "strong"), NETWORKS, STRAGGLERS, workers):
        if scaling == "weak" or network == NETWORK:
            yield Cell(scaling, network, stragglers, p)


def rows_of(cell: Cell, system: str, runs: Runs, rates: Rates, seeds: int) -> Iterator[dict[str, Any]]:
    """A system in a cell: a row for each seed."""
    with suppress(NotRun):
        rate = rates.chosen(cell, system)
        for seed in range(seeds):
            yield asdict(cell) | {"system": system, "rate": rate, "seed": seed} | runs.figures(cell, system, rate, seed)


def write(rows: pd.DataFrame, out: Path) -> None:
    """Tables and pictures."""
    rows.to_json(out / "rows.json", orient="records", indent=1)
    (out / "table.md").write_text("\n".join(tables(rows, TARGET)) + "\n", encoding="utf-8")
    draw_speed_up(rows, out / "scaling.svg")
    draw_replicas(rows, out / "scaling-replicas.svg")


if __name__ == "__main__":
    main()
