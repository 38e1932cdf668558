"""Over the air and synchronous against digital and asynchronous, on phones that are not alike, at equal energy.

usage: python scenarios/phones.py [--only TEXT] [--seeds 3] [--out runs/phones]

Each cell is scenarios/phones.toml with the profiles of a fleet. The energy of a run is what computing, waiting and
radio have taken, mean over the devices, and every method may take what the run over the air has taken at its end
under the same seed. Learning rates, of the asynchronous server its own too, are chosen once, on the first fleet, by
the validation loss at that energy under a seed of its own. Started again it does what is missing. OUT/table.md says of
each method the test accuracy at equal energy (mean, least to largest), its energy in all and on the radio, and the
seconds that it took; then seconds and joules to an accuracy. OUT/phones.svg has the curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from study import study_arguments, write_table

import fedmac

SCENARIO = Path(__file__).with_suffix(".toml")
FLEETS: Mapping[str, list[str]] = {
    "phones": ["flagship-phone", "mid-range-phone"],
    "phones and microcontrollers": ["flagship-phone", "mid-range-phone", "mid-range-phone", "microcontroller"],
}
METHODS = ("over the air", "synchronous digital", "asynchronous digital", "buffered digital")
SYNCHRONOUS = METHODS[:2]
RATES = [0.15, 0.45, 0.9]
SERVER_RATES: Mapping[str, list[float]] = {"asynchronous digital": [0.1, 0.3]}
LONGER = {"phones": 1.05, "phones and microcontrollers": 3.0}
"""Rounds of asynchronous methods over those of the air: so many arrivals take its energy, and some more."""
TARGET = 0.85
ENERGY = "energy_j_per_device_mean"


def main() -> None:
    """Choose rates, run what is missing, and write table and picture."""
    arguments = study_arguments(__doc__, list(FLEETS), seeds=3, out="runs/phones")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, pd.DataFrame]] = {}
    write_table(arguments.out, sections(arguments.cells, arguments.out, arguments.seeds, curves))
    draw(curves, arguments.out / "phones.svg")


def sections(cells: Sequence[str], out: Path, seeds: int, curves: dict[str, dict[str, pd.DataFrame]]) -> Iterator[str]:
    """A part of the table for each fleet; the rounds of its methods go to `curves`."""
    for fleet in cells:
        chosen = {method: rates_of(method, out) for method in METHODS}
        curves[fleet] = {
            method: rounds_of(out / folder(fleet) / folder(method), fleet, method, rates | {"seeds": seeds})
            for method, rates in chosen.items()
        }
        yield section(fleet, chosen, curves[fleet])


def rates_of(method: str, out: Path) -> dict[str, float]:
    """The learning rates of a method: those of the least validation loss once the energy of the air is spent."""
    grid = {"training.learning_rate": RATES}
    if method in SERVER_RATES:
        grid["strategy.server_learning_rate"] = SERVER_RATES[method]
    joules = spent(tried(METHODS[0], {"training.learning_rate": RATES[0]}, out))
    losses: dict[tuple[float, ...], float] = {}
    for values in product(*grid.values()):
        reached = at(tried(method, dict(zip(grid, values, strict=True)), out), joules)
        losses[values] = float(reached["validation_loss"].mean())
    best = min(losses, key=lambda values: losses[values])
    return dict(zip(grid, best, strict=True))


def tried(method: str, rates: Mapping[str, float], out: Path) -> pd.DataFrame:
    """The rounds of a method at some rates, on the first fleet under the seed of tuning."""
    fleet = next(iter(FLEETS))
    place = out / "tuning" / "-".join([folder(method), *map(str, rates.values())])
    return rounds_of(place, fleet, method, dict(rates) | {"seed": 0, "seeds": 1, "evaluation.test": False})


def rounds_of(place: Path, fleet: str, method: str, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The rounds of a method on a fleet, run if they are not there."""
    (variant,) = (one for one in fedmac.Scenario.load(SCENARIO).resolve() if one.name == method)
    rounds = variant.scenario.rounds
    if method not in SYNCHRONOUS:
        rounds = int(LONGER[fleet] * rounds)
    changes = {"devices.profiles": FLEETS[fleet], "rounds": rounds} | dict(settings)
    content = variant.scenario.content()
    return fedmac.run(content, out=place, workers=1, resume=place.exists(), report=False, settings=changes).rounds


def spent(rounds: pd.DataFrame) -> pd.Series:
    """Energy at the end, by seed (J a device)."""
    return rounds.groupby("seed")[ENERGY].max()


def at(rounds: pd.DataFrame, joules: pd.Series) -> pd.DataFrame:
    """The last round of each seed that keeps to its joules."""
    within = rounds[rounds[ENERGY].fillna(0.0) <= rounds["seed"].map(joules)]
    return within.sort_values("round").groupby("seed").last()


def section(fleet: str, chosen: Mapping[str, Mapping[str, float]], curves: Mapping[str, pd.DataFrame]) -> str:
    """A fleet's part of the table."""
    joules = spent(curves[METHODS[0]])
    lines = [
        f"### {fleet.capitalize()}, {joules.mean():.3g} J a device\n",
        "| method | rates | test accuracy | J in all | J radio | seconds | at work "
        f"| seconds to {TARGET} | J to {TARGET} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, rounds in curves.items():
        ends, first = at(rounds, joules), rounds[rounds["test_accuracy"] >= TARGET].groupby("seed").first()
        accuracy, rates = ends["test_accuracy"], ", ".join(f"{rate:g}" for rate in chosen[method].values())
        all_there = len(first) == len(ends)
        seconds, needed = (f"{first[key].mean():.3g}" if all_there else "-" for key in ("clock_s", ENERGY))
        lines.append(
            f"| {method} | {rates} | {accuracy.mean():.3f} ({accuracy.min():.3f} to {accuracy.max():.3f}) "
            f"| {ends[ENERGY].mean():.3g} | {ends['radio_j_per_device_mean'].mean():.2g} "
            f"| {ends['clock_s'].mean():.3g} | {ends['utilisation_mean'].mean():.0%} | {seconds} | {needed} |"
        )
    return "\n".join(lines) + "\n"


def folder(name: str) -> str:
    """A name as one of a folder."""
    return name.replace(" ", "-")


def draw(curves: Mapping[str, Mapping[str, pd.DataFrame]], path: Path) -> None:
    """Test accuracy over time and over energy, a row for each fleet; mean over the seeds at each round."""
    figure = Figure(figsize=(7.6, 3.0 * len(curves)), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(len(curves), 2, squeeze=False, sharey=True)
    for (fleet, methods), (over_time, over_energy) in zip(curves.items(), grid, strict=True):
        for method, rounds in methods.items():
            means = rounds[rounds["round"] > 0].groupby("round")[["clock_s", ENERGY, "test_accuracy"]].mean()
            style = "-" if method in SYNCHRONOUS else "--"
            over_time.semilogx(means["clock_s"], means["test_accuracy"], style, label=method)
            over_energy.semilogx(means[ENERGY], means["test_accuracy"], style)
        over_time.set_title(fleet, fontsize=9, loc="left")
        over_time.set_ylabel("test accuracy")
        over_time.set_xlabel("simulated time (s)")
        over_energy.set_xlabel("energy a device: computing, waiting, radio (J)")
        for axes in (over_time, over_energy):
            axes.grid(alpha=0.3)
    grid[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
