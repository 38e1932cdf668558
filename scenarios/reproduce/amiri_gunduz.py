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

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from amiri_gunduz_schemes import SCHEMES, Budget, DigitalDSGD
from softmax_over_the_air import Task, train
from tuned_runs import TunedRuns, tabulate

CELLS: Mapping[str, tuple[Budget, str]] = {
    "s = d/10, P = 50, iid": (Budget(785, 50.0), "iid"),
    "s = d/10, P = 50, 2 shards": (Budget(785, 50.0), "shards"),
    "s = d/2, P = 500, iid": (Budget(3925, 500.0), "iid"),
    "s = d/2, P = 500, 2 shards": (Budget(3925, 500.0), "shards"),
}
RATES: Mapping[str, Sequence[float]] = {
    "a-dsgd": (0.1, 0.3, 1.0, 3.0),
    "random linear, projection and feedback": (0.003, 0.01, 0.03, 0.1, 0.3),
    "the same without momentum": (0.1, 0.3, 1.0, 3.0),
    "random linear, least error": (0.1, 0.3, 1.0, 3.0, 10.0),
    "uncoded": (0.1, 0.3, 1.0, 2.0, 4.0),
}
OTHER_RATES = (0.03, 0.1, 0.3, 1.0)
SOURCE = "mnist-5k"


def run(cell: str, method: str, held_out: str, rate: float, seed: int) -> list[float]:
    """The accuracy of one run."""
    budget, partition = CELLS[cell]
    scheme = SCHEMES[method]
    task = Task(budget.devices, partition, seed, held_out, SOURCE)
    return [train(task, scheme.exchange(budget, seed), rate, scheme.rounds(budget), scheme.momentum)]


def rates(name: str, budget: Budget) -> Sequence[float]:
    """Those that are tried; one where nothing is ever sent."""
    tried = RATES.get(name, OTHER_RATES)
    return tried[:1] if name == "d-dsgd" and not DigitalDSGD(budget).kept else tried


def rows(cell: str, runs: TunedRuns, seeds: int) -> Iterator[str]:
    """A cell's part of the table."""
    yield f"\n**{cell}**\n"
    yield "| scheme | rounds | rate | validation accuracy | test accuracy | least to largest |"
    yield "|---" * 6 + "|"
    budget = CELLS[cell][0]
    for name, scheme in SCHEMES.items():
        done = runs.tuned(cell, name, rates(name, budget), seeds)
        yield (
            f"| {name} | {scheme.rounds(budget)} | {done.chosen} | {done.validation:.4f} | {done.accuracy} "
            f"| {done.span} |"
        )


def main() -> None:
    """Run what is missing and print the tables."""
    tabulate(__doc__, CELLS, run, rows, Path("runs/reproduce/amiri-gunduz"), example="d/10")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
