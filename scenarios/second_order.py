"""DINGO and its comparators on perfect links: what they cost to a gap, to a value, to a gradient's norm.

usage: python scenarios/second_order.py [--only TEXT] [--seeds 3] [--out runs]

Runs scenarios/second_order.toml and its three siblings into OUT/second-order…, and prints a table of each. Started
again it does what is missing. A cell is exchanges / MB up a device / seconds in which the slowest device computed (each
exchange waits for it) until the figure was first that low, means over the seeds that came so far; then the medians
after as many exchanges as all methods have, least to largest. One worker, so that the seconds are those of a core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import fedmac

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Problem:
    """A scenario, the exchanges that all methods have, and the values of a figure that count as targets."""

    scenario: str
    budget: int
    figure: str
    targets: Sequence[float]
    norms: Sequence[float] = ()


PROBLEMS = (
    Problem("second_order", 100, "objective_gap", (1e-1, 1e-2, 1e-3, 1e-6)),
    Problem("second_order_digits", 100, "objective_gap", (1e-1, 1e-2, 1e-3, 1e-6)),
    Problem("second_order_mlp", 60, "train_objective", (0.5, 0.25, 0.18), (1e-2,)),
    Problem("second_order_autoencoder", 60, "train_objective", (2.0, 1.5, 1.0), (1e-1,)),
)
NORM = "train_gradient_norm"
WORDS = {"objective_gap": "gap", "train_objective": "objective", NORM: "gradient norm"}


def main() -> None:
    """Run what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="scenarios whose names hold this text, e.g. mlp")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    chosen = [problem for problem in PROBLEMS if arguments.only in problem.scenario]
    if not chosen:
        parser.error(f"--only {arguments.only}: accepted: part of {', '.join(p.scenario for p in PROBLEMS)}")
    for problem in chosen:
        scenario = fedmac.Scenario.load(FOLDER / f"{problem.scenario}.toml")
        folder = arguments.out / scenario.name
        done = fedmac.run(scenario, out=folder, resume=folder.exists(), settings={"seeds": arguments.seeds})
        print(table(problem, done.rounds), flush=True)


def table(problem: Problem, rounds: pd.DataFrame) -> str:
    """What each method needs, and where it ends."""
    targets = [(problem.figure, t) for t in problem.targets] + [(NORM, t) for t in problem.norms]
    titles = [f"{WORDS[figure]} {target:g}" for figure, target in targets]
    ends = [f"{WORDS[figure]} after {problem.budget}" for figure in (problem.figure, NORM)]
    lines = [
        f"### {problem.scenario}\n",
        f"| method | {' | '.join(titles + ends)} |",
        "|---" * (3 + len(targets)) + "|",
    ]
    within = rounds[rounds["exchange"].fillna(0) <= problem.budget]
    for method, own in within.groupby("variant", sort=False):
        seeds = [seed for _, seed in own.groupby("seed")]
        cells = [spent(seeds, *target) for target in targets]
        cells += [spread([seed[figure].iloc[-1] for seed in seeds]) for figure in (problem.figure, NORM)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spent(seeds: Sequence[pd.DataFrame], figure: str, target: float) -> str:
    """The costs until the figure was first that low; how many seeds came so far, if not all did."""
    reached = [seed[seed[figure] <= target].iloc[0] for seed in seeds if (seed[figure] <= target).any()]
    if not reached:
        return "-"
    exchanges, bits, seconds = pd.DataFrame(reached)[["exchange", "bits_per_device_mean", "compute_s"]].mean()
    some = "" if len(reached) == len(seeds) else f" ({len(reached)} of {len(seeds)})"
    return f"{exchanges:.0f} / {bits / 8e6:.2g} / {seconds:.2g}{some}"


def spread(values: Sequence[float]) -> str:
    """The median, least to largest; None of a run that diverged counts as infinite."""
    numbers = sorted(math.inf if value is None or math.isnan(value) else value for value in values)
    return f"{numbers[len(numbers) // 2]:.2g} ({numbers[0]:.2g} to {numbers[-1]:.2g})"


if __name__ == "__main__":
    main()
