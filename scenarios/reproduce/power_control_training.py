"""Training with each power control, over Rayleigh fading: the error of the received mean, and what it costs.

usage: python scenarios/reproduce/power_control_training.py [--only TEXT] [--seeds 5] [--out DIR]

20 devices of equal weights and peak power 1, all entries sent, 100 rounds of full local gradients, momentum .9 at the
server; softmax regression on MNIST-5k. The SNR is the peak power over the noise of a channel use. Rates are chosen on
a fifth of the training rows with one seed; every result is written to OUT/runs.jsonl (runs/reproduce/power-control) as
it comes, and started again the script does what is missing.

It prints test accuracies (mean, standard deviation over the seeds), and the error of the received mean over its own
energy, the median over the rounds, mean over the seeds: of K equal and independent signals that would be the K² MSE of
power_control_table.py over K, of K equal ones over K².
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from power_control_table import POLICIES
from softmax_over_the_air import OverTheAir, Task, train
from tuned_runs import TunedRuns, tabulate

from channel import Channel, Rayleigh
from channel.codes import Uncoded
from channel.uplinks import AnalogUplink, IdealUplink

DEVICES, ROUNDS = 20, 100
SOURCE = "mnist-5k"
RATES: Mapping[str, Sequence[float]] = {
    "channel inversion": (0.01, 0.03, 0.1, 0.3, 1.0),
    "truncated, threshold 0.1": (0.03, 0.1, 0.3, 1.0, 2.0),
    "truncated, best threshold": (0.1, 0.3, 1.0, 2.0, 4.0),
}
OTHER_RATES = (0.1, 0.3, 1.0, 2.0)
CELLS: Mapping[str, tuple[float, str]] = {
    f"{name}, {snr_db:+d} dB": (float(snr_db), partition)
    for name, partition in (("iid", "iid"), ("2 shards", "shards"))
    for snr_db in (-10, 30)
}
METHODS = ("noise-free", *POLICIES)


def run(cell: str, method: str, held_out: str, rate: float, seed: int) -> list[float]:
    """Accuracy and relative error of one run."""
    snr_db, partition = CELLS[cell]
    channel = Channel(Rayleigh(), noise_power=10 ** (-snr_db / 10))
    if method == "noise-free":
        exchange = OverTheAir(IdealUplink(), seed)
    else:
        exchange = OverTheAir(AnalogUplink(Uncoded(), POLICIES[method], channel, power_limit=1.0), seed)
    accuracy = train(Task(DEVICES, partition, seed, held_out, SOURCE), exchange, rate, ROUNDS)
    return [accuracy, float(np.median(exchange.relative_errors))]


def rows(cell: str, runs: TunedRuns, seeds: int) -> Iterator[str]:
    """A cell's part of the table."""
    yield f"\n**{cell}**\n"
    yield "| power control | rate | validation accuracy | test accuracy | least to largest | relative error |"
    yield "|---" * 6 + "|"
    for method in METHODS:
        done = runs.tuned(cell, method, RATES.get(method, OTHER_RATES), seeds)
        error = np.mean([figures[1] for figures in done.figures])
        yield (f"| {method} | {done.chosen} | {done.validation:.4f} | {done.accuracy} | {done.span} | {error:.2g} |")


def main() -> None:
    """Run what is missing and print the tables."""
    tabulate(__doc__, CELLS, run, rows, Path("runs/reproduce/power-control"), example="iid")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
