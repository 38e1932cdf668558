"""Analog, compressed and digital updates at equal channel uses and energy, as Amiri and Gündüz compare them.

usage: python scenarios/reproduce/amiri_gunduz.py [--only TEXT] [--seeds 5] [--out runs/reproduce/amiri-gunduz]

25 devices, MNIST-5k (4,000 to train), softmax regression with biases (d = 7,850), full local gradients, momentum .9 at
the server, no fading, noise of variance 1 a real channel use. A round of a compressed scheme has s = d/10 uses and
energy 50 of each device, or s = d/2 and 500; 200 rounds. The plain update has the same uses and energy in all: 20 or
100 rounds of d uses. Rates are chosen on a fifth of the training rows with one seed, and every result is written to
OUT/runs.jsonl as it comes; started again the script does what is missing. It prints test accuracies: mean, standard
deviation over the seeds, least and largest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from amiri_gunduz_schemes import DEVICES, SCHEMES, Budget, DigitalDSGD
from softmax_over_the_air import Task, train

BUDGETS = {"s = d/10, P = 50": Budget(785, 50.0), "s = d/2, P = 500": Budget(3925, 500.0)}
PARTITIONS = {"iid": "iid", "2 shards": "shards"}
RATES: Mapping[str, Sequence[float]] = {
    "uncoded": (0.3, 1.0, 2.0, 4.0),
    "random linear, projection and feedback": (0.003, 0.01, 0.03, 0.1, 0.3),
    "the same without momentum": (0.03, 0.1, 0.3, 1.0),
}
OTHER_RATES = (0.03, 0.1, 0.3, 1.0)
SOURCE = "mnist-5k"


@dataclass(frozen=True)
class Cell:
    """A budget and how rows are dealt out."""

    budget: str
    partition: str

    @property
    def name(self) -> str:
        return f"{self.budget}, {self.partition}"


class Results:
    """Accuracies by cell, scheme, rows they are of, rate and seed; on disk as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known: dict[tuple[Any, ...], float] = {tuple(key): value for key, value in map(json.loads, lines)}

    def of(self, cell: Cell, scheme: str, held_out: str, rate: float, seed: int) -> float:
        """An accuracy, computed where it is not known."""
        key = (cell.name, scheme, held_out, rate, seed)
        if key not in self.known:
            self.known[key] = accuracy(cell, scheme, held_out, rate, seed)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.known[key]]) + "\n")
        return self.known[key]


def accuracy(cell: Cell, name: str, held_out: str, rate: float, seed: int) -> float:
    """Of one run."""
    scheme, budget = SCHEMES[name], BUDGETS[cell.budget]
    task = Task(DEVICES, PARTITIONS[cell.partition], seed, held_out, SOURCE)
    return train(task, scheme.exchange(budget, seed), rate, scheme.rounds(budget), scheme.momentum)


def rates(name: str, budget: Budget) -> Sequence[float]:
    """Those that are tried; one where nothing is ever sent."""
    tried = RATES.get(name, OTHER_RATES)
    return tried[:1] if name == "d-dsgd" and not DigitalDSGD(budget).kept else tried


def rows(cell: Cell, results: Results, seeds: int) -> Iterator[str]:
    """A cell's part of the table."""
    yield f"\n**{cell.name}**\n"
    yield "| scheme | rounds | rate (accuracy on validation rows) | test accuracy | least to largest |"
    yield "|---|---|---|---|---|"
    budget = BUDGETS[cell.budget]
    for name, scheme in SCHEMES.items():
        tried = {rate: results.of(cell, name, "validation", rate, 0) for rate in rates(name, budget)}
        best = max(tried, key=lambda rate: tried[rate])
        edge = " (edge)" if len(tried) > 1 and best in (min(tried), max(tried)) else ""
        ends = [results.of(cell, name, "test", best, seed) for seed in range(seeds)]
        spread = f" ± {np.std(ends, ddof=1):.4f}" if seeds > 1 else ""
        yield (
            f"| {name} | {scheme.rounds(budget)} | {best:g}{edge} ({tried[best]:.4f}) | {np.mean(ends):.4f}{spread} "
            f"| {min(ends):.3f} to {max(ends):.3f} |"
        )


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names hold this text, e.g. 'd/10'")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce/amiri-gunduz"))
    arguments = parser.parse_args()
    cells = [cell for b in BUDGETS for p in PARTITIONS if arguments.only in (cell := Cell(b, p)).name]
    if not cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {Cell('s = d/2, P = 500', 'iid').name!r}")
    results = Results(arguments.out / "runs.jsonl")
    for cell in cells:
        for line in rows(cell, results, arguments.seeds):
            print(line, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
