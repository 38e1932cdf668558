"""Accuracy against the bits of the uplink, all codecs, in six cells: 3 models x iid or 2 shards a device.

usage: python scenarios/bits_vs_accuracy.py [--only TEXT] [--seeds 5] [--jobs N] [--out runs/bits-vs-accuracy]

Each cell is scenarios/bits_vs_accuracy.toml with the cell's keys. The learning rate is chosen for float32 on
validation rows (`fedmac tune`) and all codecs run at it: a codec is put in the place of another, and nothing else
changes. Started again it does what is missing. OUT/table.md says of each codec its bits an entry, its error on a
Gaussian update, the test accuracy once a device has sent 1, 3, 10, 30 bits an entry in all (bits of packets; mean over
the seeds) and the accuracy in the end (mean, least to largest); then which pairs of codecs at about the same bits,
without error feedback, do not end in the order of their errors. Curves:
`fedmac compare OUT/CELL/run --x bits --unequal`.
"""

from __future__ import annotations

import argparse
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from study import study_arguments, write_table

import fedmac
from channel.codecs import CODECS
from channel.randomness import torch_generator
from fedmac.scenario import Variant

SCENARIO = Path(__file__).with_suffix(".toml")
MODELS: Mapping[str, dict[str, Any]] = {
    "softmax": {"model.name": "softmax"},
    "network": {"model.name": "mlp", "model.hidden": [64]},
    "convolutions": {"model.name": "cnn", "model.channels": [8, 16], "model.hidden": 64, "data.source": "digits"},
}
PARTITIONS: Mapping[str, dict[str, Any]] = {
    "iid": {"data.partition": "iid"},
    "2-shards": {"data.partition": "shards", "data.shards": 2},
}
RATES = [0.01, 0.03, 0.1, 0.3]
SPENT = (1, 3, 10, 30)
"""Bits an entry and device, over the rounds."""
GROUPS = (0.5, 1.3, 1.8, 3.5, 40.0)
"""Codecs whose bits an entry lie between the same two of these cost about as much."""


@dataclass(frozen=True)
class Cell:
    """A model and how the data are spread."""

    model: str
    partition: str

    @property
    def name(self) -> str:
        return f"{self.model} {self.partition}"

    @property
    def settings(self) -> dict[str, Any]:
        return MODELS[self.model] | PARTITIONS[self.partition]


@dataclass(frozen=True)
class Curve:
    """A codec in a cell: its accuracy over what it has sent, by seed."""

    codec: str
    bits: float
    error: float | None
    feedback: bool
    seeds: Mapping[int, pd.DataFrame]

    def after(self, bits: float | None = None) -> pd.Series:
        """Accuracy by seed once a device has sent that many bits an entry; in the end if not said."""
        known = {
            seed: rounds if bits is None else rounds[rounds["bits"] <= bits] for seed, rounds in self.seeds.items()
        }
        return pd.Series({seed: rounds["test_accuracy"].iloc[-1] for seed, rounds in known.items() if len(rounds)})


def main() -> None:
    """Run the cells that are missing, and write the table of all that are chosen."""
    names = [cell.name for cell in all_cells()]
    arguments = study_arguments(__doc__, names, seeds=5, out="runs/bits-vs-accuracy")
    cells = (cell for cell in all_cells() if cell.name in arguments.cells)
    write_table(arguments.out, (section(cell, run(cell, arguments)) for cell in cells))


def all_cells() -> Iterator[Cell]:
    """In the order of the table."""
    return (Cell(*chosen) for chosen in product(MODELS, PARTITIONS))


def run(cell: Cell, arguments: argparse.Namespace) -> list[Curve]:
    """The codecs' curves in one cell."""
    folder = arguments.out / cell.name.replace(" ", "-")
    tuned = fedmac.tune(
        SCENARIO, {"training.learning_rate": RATES}, only=("float32",), settings=cell.settings, seeds=1,
        jobs=arguments.jobs, out=folder / "tuning", write=folder / "tuned.toml",
    )  # fmt: skip
    settings = cell.settings | tuned.best["float32"] | {"seeds": arguments.seeds}
    there = (folder / "run").exists()
    done = fedmac.run(SCENARIO, out=folder / "run", resume=there, settings=settings, workers=arguments.jobs)
    return [
        curve(variant, done.rounds[done.rounds["variant"] == variant.name])
        for variant in fedmac.Scenario.load(SCENARIO, settings).resolve()
    ]


def curve(variant: Variant, rounds: pd.DataFrame) -> Curve:
    """A variant's curve; its codec's error is that of its closed form on a Gaussian update of the model's size."""
    size = int(rounds["parameters"].max())
    said = variant.scenario.codec
    error = CODECS[said.name](**said.parameters).expected_nmse(
        torch.randn(size, generator=torch_generator(0, "update"))
    )
    rounds = rounds.assign(bits=rounds["bits_per_device_mean"] / size)
    seeds = {int(seed): own[["bits", "test_accuracy"]].dropna() for seed, own in rounds.groupby("seed")}
    bits = float(rounds["bits"].max() / rounds["round"].max())
    return Curve(variant.name, bits, error, said.error_feedback is not None, seeds)


def section(cell: Cell, curves: list[Curve]) -> str:
    """A cell's part of the table."""
    lines = [
        f"### {cell.name}\n",
        f"| codec | bits an entry | error | {' | '.join(f'{bits} bits an entry' for bits in SPENT)} | in the end |",
        "|---" * (4 + len(SPENT)) + "|",
    ]
    for one in curves:
        spent = " | ".join(f"{reached.mean():.3f}" if len(reached := one.after(bits)) else "-" for bits in SPENT)
        end = one.after()
        error = "-" if one.error is None else f"{one.error:.3g}"
        ends = f"{end.mean():.3f} ({end.min():.3f} to {end.max():.3f})"
        lines.append(f"| {one.codec} | {one.bits:.2f} | {error} | {spent} | {ends} |")
    return "\n".join([*lines, "", *out_of_order(curves)]) + "\n"


def out_of_order(curves: list[Curve]) -> list[str]:
    """Pairs of codecs at about the same bits of which the one with the larger error is the better one in every seed."""
    compared = [one for one in curves if not one.feedback and one.error is not None]
    found = []
    for one, other in combinations(sorted(compared, key=lambda curve: curve.error or 0.0), 2):
        same = bisect(GROUPS, one.bits) == bisect(GROUPS, other.bits)
        if same and (ahead := other.after() - one.after()).min() > 0:
            found.append(f"* {other.codec} ends {ahead.mean():.3f} above {one.codec}, which has the smaller error")
    return found or ["* no two codecs at about the same bits end against the order of their errors in every seed"]


if __name__ == "__main__":
    main()
