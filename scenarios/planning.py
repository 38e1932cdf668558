"""A planned budget against a constant one, and against a learning rate that warms up, at equal cost.

usage: python scenarios/planning.py [--only TEXT] [--seeds 5] [--jobs N] [--out runs/planning]

Each cell is scenarios/planning.toml with the cell's keys. The learning rate is chosen for every variant in every cell
on validation rows, by two seeds (`fedmac tune`); then all run under the same seeds. The norms of the variant `pilot`
are those of a constant run under a seed of its own. Started again it does what is missing. OUT/table.md says of each
variant its accuracy and training objective in the end, and how they differ from those of the constant one: means of
the differences seed by seed with 95 % intervals (Student's t), with a star where Holm's adjustment for all that are in
the table leaves p < .05. OUT/planning.svg is the picture of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import fedmac
from fedmac.studies.compare.paper import STYLE
from fedmac.studies.compare.statistics import Contrast, Estimate, Pair, estimate, paired

SCENARIO = Path(__file__).with_suffix(".toml")
IID = {"data.partition": "iid", "data.shards": None}
WIDE = {"uplink.uses": 785, "power_control.energy_per_round": 50.0}
TIGHT = {"uplink.uses": 78, "power_control.energy_per_round": 5.0}
RAYLEIGH = {"channel.fading": "rayleigh", "power_control.name": "minimum-mse"}
UNEVEN = {
    "channel.path_loss": "log-distance",
    "channel.cell_radius_m": 100.0,
    "channel.minimum_distance_m": 10.0,
    "channel.reference_loss_db": -55.5,  # gain 1 at the median distance, 71 m: the energies are those of the others
    "channel.shadowing_db": 8.0,
    "power_control.name": "minimum-mse",
}
CELLS: Mapping[str, Mapping[str, Any]] = {
    "d/50, 2 shards": {},
    "d/50, 2 shards, Rayleigh": RAYLEIGH,
    "d/100, 2 shards": TIGHT,
    "d/50, 2 shards, uneven devices": UNEVEN,
    "d/50, iid": IID,
    "d/10, iid": WIDE | IID,
    "d/10, 2 shards": WIDE,
    "d/50, iid, Rayleigh": RAYLEIGH | IID,
}
RATES = [0.025, 0.05, 0.1, 0.2]
FASTER = [0.05, 0.1, 0.2, 0.4]
"""Where much is received, or power control shrinks it."""
PILOT_SEED = 1000
FIGURES = {"test_accuracy": "test accuracy", "train_objective": "training objective"}


@dataclass(frozen=True)
class Outcome:
    """A variant in a cell: its learning rate, and what it has come to and spent by seed."""

    cell: str
    variant: str
    rate: float
    ends: pd.DataFrame

    def contrast(self, figure: str, constant: Outcome) -> Contrast:
        """With the constant one, percentage points of accuracy."""
        scale = 100.0 if figure == "test_accuracy" else 1.0
        own, other = ((scale * one.ends[figure]).to_dict() for one in (self, constant))
        return Contrast(f"{self.cell}: {self.variant}", f"{self.cell}: {constant.variant}", own, other)


def main() -> None:
    """Run the cells that are missing, and write table and picture of all that are chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names hold this text, e.g. 'Rayleigh'")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, default=Path("runs/planning"))
    arguments = parser.parse_args()
    cells = [name for name in CELLS if arguments.only in name]
    if not cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {next(iter(CELLS))!r}")
    outcomes: list[Outcome] = []
    for cell in cells:
        outcomes += run(cell, arguments)
        write(outcomes, arguments.out)
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


def run(cell: str, arguments: argparse.Namespace) -> list[Outcome]:
    """What the variants come to in one cell, the constant one first."""
    folder = arguments.out / cell.replace(",", "").replace("/", "-").replace(" ", "-")
    settings = CELLS[cell]
    faster = settings.get("uplink.uses") == 785 or settings.get("power_control.name") == "minimum-mse"
    over, jobs = {"training.learning_rate": FASTER if faster else RATES}, arguments.jobs
    constant = fedmac.tune(
        scenario_of(settings), over, only=("constant",), seeds=2, jobs=jobs, out=folder / "tuning-constant",
        write=folder / "constant.toml",
    )  # fmt: skip
    scenario = constant.scenario.content()
    pilot = folder / "pilot.json"
    if not pilot.exists():
        write_pilot(scenario, folder, jobs)
    for variant in scenario["variants"]:
        if variant["name"] == "pilot":
            variant["plan"]["pilot"] = str(pilot)
    others = [variant["name"] for variant in scenario["variants"] if variant["name"] != "constant"]
    tuned = fedmac.tune(
        scenario, over, only=others, seeds=2, jobs=jobs, out=folder / "tuning", write=folder / "tuned.toml"
    )
    there = (folder / "run").exists()
    done = fedmac.run(
        tuned.written, out=folder / "run", resume=there, workers=jobs, settings={"seeds": arguments.seeds}, report=False
    )
    rates = {name: float(best["training.learning_rate"]) for name, best in (constant.best | tuned.best).items()}
    by_variant = done.rounds.groupby("variant", sort=False)
    return [Outcome(cell, str(name), rates[str(name)], own.groupby("seed").last()) for name, own in by_variant]


def scenario_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario with a cell's keys; those that are None are left out."""
    left_out = [key.split(".") for key, value in settings.items() if value is None]
    scenario = fedmac.Scenario.load(SCENARIO).content()
    for table, key in left_out:
        scenario[table].pop(key, None)
    return fedmac.Scenario.load(
        scenario, {key: value for key, value in settings.items() if value is not None}
    ).content()


def write_pilot(scenario: Mapping[str, Any], folder: Path, jobs: int | None) -> None:
    """Run the constant budget under another seed and write down the norms of its rounds.

    A device's one step on all its rows is -lr times its gradient, so the norm of the mean update is that of the mean
    gradient at the round's start, as far as ratios go. The largest energy is max_i w_i^2 ||x_i||^2 over device i's mean
    gain: what fades in the pilot run says nothing of another.
    """
    alone = {**scenario, "variants": [one for one in scenario["variants"] if one["name"] == "constant"]}
    settings = {"seed": PILOT_SEED, "seeds": 1, "evaluation.every": 1}
    done = fedmac.run(alone, out=folder / "pilot", settings=settings, workers=jobs, overwrite=True, report=False)
    rounds = done.rounds.sort_values("round")
    sent = rounds[rounds["round"] > 0]
    needed = np.array([*sent["weights"]]) * np.array([*sent["update_norms"]])
    gains = np.square(np.array([*sent["gains"]])).mean(axis=0)
    norms = {
        "mean_norms": rounds["train_gradient_norm"].to_numpy()[:-1].tolist(),
        "largest_energies": (needed**2 / gains).max(axis=1).tolist(),
    }
    (folder / "pilot.json").write_text(json.dumps(norms), encoding="utf-8")


def write(outcomes: list[Outcome], out: Path) -> None:
    """Table and picture."""
    constant = {one.cell: one for one in outcomes if one.variant == "constant"}
    others = [one for one in outcomes if one.variant != "constant"]
    pairs = {
        figure: dict(
            zip(
                ((one.cell, one.variant) for one in others),
                paired([one.contrast(figure, constant[one.cell]) for one in others], name),
                strict=True,
            )
        )
        for figure, name in FIGURES.items()
    }
    (out / "table.md").write_text("\n".join(table(outcomes, pairs)), encoding="utf-8")
    draw(pairs, out / "planning.svg")


def table(outcomes: list[Outcome], pairs: Mapping[str, Mapping[tuple[str, str], Pair]]) -> Iterator[str]:
    """A section for each cell."""
    for cell in dict.fromkeys(one.cell for one in outcomes):
        yield f"### {cell}\n"
        yield "| variant | rate | channel uses | largest energy | accuracy, % | to constant | objective | to constant |"
        yield "|---" * 8 + "|"
        for one in (one for one in outcomes if one.cell == cell):
            row = [one.variant, f"{one.rate:g}", f"{one.ends['channel_uses'].mean():,.0f}"]
            row.append(f"{one.ends['energy_j_per_device_max'].max():,.0f}")
            for figure, scale, digits in (("test_accuracy", 100.0, 2), ("train_objective", 1.0, 3)):
                row.append(told(estimate(scale * one.ends[figure]), digits))
                pair = pairs[figure].get((cell, one.variant))
                row.append("" if pair is None else told(pair.difference, digits, sign="+") + starred(pair))
            yield f"| {' | '.join(row)} |"
        yield ""


def told(value: Estimate, digits: int, sign: str = "") -> str:
    """Mean and half width."""
    half_width = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half_width}"


def starred(pair: Pair) -> str:
    """A star where the difference stands after Holm's adjustment."""
    return "*" if pair.holm_p is not None and pair.holm_p < 0.05 else ""


def draw(pairs: Mapping[str, Mapping[tuple[str, str], Pair]], path: Path) -> None:
    """Differences to the constant budget with their intervals, cell by cell."""
    keys = [*next(iter(pairs.values()))]
    cells, variants = [*dict.fromkeys(cell for cell, _ in keys)], [*dict.fromkeys(variant for _, variant in keys)]
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(7.16, 0.8 + 0.55 * len(cells)))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, figure_name in zip(panels, FIGURES, strict=True):
            for place, (variant, marker) in enumerate(zip(variants, "osD^", strict=True)):
                own = [pairs[figure_name][cell, variant].difference for cell in cells]
                heights = [row + (place - 1.5) * 0.18 for row in range(len(cells))]
                widths = [one.half_width or 0.0 for one in own]
                axes.errorbar([one.mean for one in own], heights, xerr=widths, fmt=marker, markersize=4, label=variant)
            axes.axvline(0.0, color="black", linewidth=0.8)
        panels[0].set(xlabel="test accuracy less that of constant, points", yticks=range(len(cells)), yticklabels=cells)
        panels[0].invert_yaxis()
        panels[1].set(xlabel="training objective less that of constant")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(variants))
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
