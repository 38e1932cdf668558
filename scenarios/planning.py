"""A planned budget against a constant one, and against a learning rate that warms up, at equal cost.

usage: python scenarios/planning.py [--only TEXT] [--seeds 5] [--out runs/planning]

Each cell is scenarios/planning.toml with the cell's keys, every variant at every learning rate under every seed. The
uplinks are those of `fedmac run`; the models of one seed train side by side, which takes a fifth of the time of as many
runs and comes to the same. The norms of the variant `pilot` are those of a constant run under a seed of its own.
OUT/CELL/seed-N.csv has a row for each run; what is there is not run again. OUT/table.md says of each variant its
accuracy at the rate that is best on validation rows and its training objective at the rate that brings it lowest, and
how they differ from the constant one's: means of the differences seed by seed with 95 % intervals (Student's t), a star
where Holm's adjustment for all of the table leaves p < .05, "edge" where the best rate is the least or the largest.
OUT/planning.svg is the picture of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from side_by_side import Models

from fedmac.scenario import Scenario
from fedmac.studies.compare.paper import STYLE
from fedmac.studies.compare.statistics import Contrast, Estimate, Pair, estimate, paired

SCENARIO = Path(__file__).with_suffix(".toml")
IID = {"data.partition": "iid", "data.shards": None}
WIDE = {"uplink.uses": 785, "power_control.energy_per_round": 50.0}
TIGHT = {"uplink.uses": 78, "power_control.energy_per_round": 5.0}
LEAST_ERROR = {"power_control.name": "minimum-mse", "power_control.solver": "closed-form"}
RAYLEIGH = {"channel.fading": "rayleigh"} | LEAST_ERROR
UNEVEN = {
    "channel.path_loss": "log-distance",
    "channel.cell_radius_m": 100.0,
    "channel.minimum_distance_m": 10.0,
    "channel.reference_loss_db": -55.5,  # gain 1 at the median distance, 71 m: the energies are those of the others
    "channel.shadowing_db": 8.0,
} | LEAST_ERROR
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
RATES = (0.025, 0.05, 0.1, 0.2)
PILOT_SEED = 1000
COMPARED = ("planned", "pilot", "warm-up", "planned-warm-up")
PERFECT = "noise-free"
BEST = {"test_accuracy": ("validation_accuracy", max), "objective": ("objective", min)}
"""By what, and which of it, the rate is chosen at which a figure is told."""
SCALE = {"test_accuracy": 100.0, "objective": 1.0}
DIGITS = {"test_accuracy": 2, "objective": 3}


def main() -> None:
    """Run the cells that are missing, and write table and picture of all that are chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names hold this text, e.g. 'Rayleigh'")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/planning"))
    arguments = parser.parse_args()
    cells = [name for name in CELLS if arguments.only in name]
    if not cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {next(iter(CELLS))!r}")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    for cell in cells:
        runs[cell] = run(
            cell, arguments.out / cell.replace(",", "").replace("/", "-").replace(" ", "-"), arguments.seeds
        )
        write(runs, arguments.out)
    print((arguments.out / "table.md").read_text(encoding="utf-8"))


def run(cell: str, folder: Path, seeds: int) -> pd.DataFrame:
    """Every variant of a cell at every rate under every seed; what is in the folder is read."""
    folder.mkdir(parents=True, exist_ok=True)
    scenario, rates = scenario_of(CELLS[cell]), rates_of(CELLS[cell])
    pilot = folder / "pilot.json"
    for variant in scenario["variants"]:
        if variant["name"] == "pilot":
            variant["plan"]["pilot"] = str(pilot)
    variants = {variant.name: variant.scenario for variant in Scenario.load(scenario).resolve()}
    if not pilot.exists():
        models = Models([at_rate(variants["constant"], rates[1])], PILOT_SEED)
        models.train()
        pilot.write_text(json.dumps(models.pilot()), encoding="utf-8")
    for seed in range(seeds):
        if not (path := folder / f"seed-{seed}.csv").exists():
            run_seed(variants, rates, seed).to_csv(path, index=False)
    return pd.concat(pd.read_csv(folder / f"seed-{seed}.csv") for seed in range(seeds))


def run_seed(variants: Mapping[str, Scenario], rates: list[float], seed: int) -> pd.DataFrame:
    """A row for each variant and rate; the perfect link under the first seed alone, since it would be the same."""
    names = [name for name in variants if name != PERFECT or seed == 0]
    models = Models([at_rate(variants[name], rate) for name in names for rate in rates], seed)
    return models.train().assign(variant=np.repeat(names, len(rates)))


def rates_of(settings: Mapping[str, Any]) -> list[float]:
    """Learning rates of a cell: twice as high where much is received, or power control shrinks it."""
    faster = "power_control.name" in settings or settings.get("uplink.uses") == WIDE["uplink.uses"]
    return [rate * (2 if faster else 1) for rate in RATES]


def scenario_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scenario with a cell's keys; those that are None are left out."""
    scenario = Scenario.load(SCENARIO).content()
    for key in (key for key, value in settings.items() if value is None):
        table, name = key.split(".")
        scenario[table].pop(name, None)
    return Scenario.load(scenario, {key: value for key, value in settings.items() if value is not None}).content()


def at_rate(scenario: Scenario, rate: float) -> Scenario:
    """With another learning rate."""
    return scenario.model_copy(update={"training": scenario.training.model_copy(update={"learning_rate": rate})})


def chosen(runs: pd.DataFrame, variant: str, figure: str) -> tuple[str, pd.Series]:
    """A figure of a variant by seed at its best rate; the rate, and whether it is the least or the largest."""
    judge, best = BEST[figure]
    own = runs[runs["variant"] == variant]
    scores = own.groupby("rate")[judge].mean()
    rate = scores.index[scores == best(scores)][0]
    edge = " (edge)" if rate in (scores.index[0], scores.index[-1]) else ""
    return f"{rate:g}{edge}", SCALE[figure] * own[own["rate"] == rate].set_index("seed")[figure]


Pairs = Mapping[str, Mapping[tuple[str, str], Pair]]


def write(runs: Mapping[str, pd.DataFrame], out: Path) -> None:
    """Table and picture."""
    compared = [(cell, name) for cell, own in runs.items() for name in own["variant"].unique() if name in COMPARED]
    pairs = {}
    for figure in BEST:
        values = {key: chosen(runs[key[0]], key[1], figure)[1].to_dict() for key in compared}
        constant = {cell: chosen(own, "constant", figure)[1].to_dict() for cell, own in runs.items()}
        contrasts = [Contrast(", ".join(key), "constant", values[key], constant[key[0]]) for key in compared]
        pairs[figure] = dict(zip(compared, paired(contrasts, figure), strict=True))
    lines = [*table(runs, pairs), *less_warm_up(runs)]
    (out / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(pairs, out / "planning.svg")


def table(runs: Mapping[str, pd.DataFrame], pairs: Pairs) -> Iterator[str]:
    """A section for each cell."""
    for cell, own in runs.items():
        yield f"### {cell}\n"
        yield "| variant | channel uses | energy | rate | accuracy, % | to constant | rate | objective | to constant |"
        yield "|---" * 9 + "|"
        for variant in own["variant"].unique():
            spent = own[own["variant"] == variant]
            row = [variant, f"{spent['uses'].mean():,.0f}", f"{spent['energy'].max():,.0f}"]
            for figure, digits in DIGITS.items():
                rate, values = chosen(own, variant, figure)
                pair = pairs[figure].get((cell, variant))
                row += [rate, told(estimate(values), digits)]
                row.append("" if pair is None else told(pair.difference, digits, sign="+") + starred(pair))
            yield f"| {' | '.join(row)} |"
        yield ""


def less_warm_up(runs: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Plans against the constant budget with a warm-up, all settings."""
    yield "### Planned and pilot, less warm-up\n"
    yield "| setting | accuracy, planned | accuracy, pilot | objective, planned | objective, pilot |"
    yield "|---" * 5 + "|"
    columns = []
    for figure, digits in DIGITS.items():
        for variant in ("planned", "pilot"):
            both = [[chosen(own, one, figure)[1].to_dict() for one in (variant, "warm-up")] for own in runs.values()]
            columns.append([Contrast(variant, "warm-up", *values) for values in both])
        pairs = paired(columns[-2] + columns[-1], figure)
        shown = [told(pair.difference, digits, sign="+") + starred(pair) for pair in pairs]
        columns[-2:] = [shown[: len(runs)], shown[len(runs) :]]
    for row in zip(runs, *columns, strict=True):
        yield f"| {' | '.join(row)} |"


def told(value: Estimate, digits: int, sign: str = "") -> str:
    """Mean and half width."""
    half_width = "" if value.half_width is None else f" ± {value.half_width:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half_width}"


def starred(pair: Pair) -> str:
    """A star where the difference stands after Holm's adjustment."""
    return "*" if pair.holm_p is not None and pair.holm_p < 0.05 else ""


def draw(pairs: Pairs, path: Path) -> None:
    """Differences to the constant budget with their intervals, cell by cell."""
    cells = [*dict.fromkeys(cell for cell, _ in pairs["objective"])]
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(7.16, 1.0 + 0.5 * len(cells)))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, BEST, strict=True):
            for place, (variant, marker) in enumerate(zip(COMPARED, "osD^", strict=True)):
                own = [pairs[name][cell, variant].difference for cell in cells]
                heights = [row + (place - 1.5) * 0.18 for row in range(len(cells))]
                widths = [one.half_width or 0.0 for one in own]
                axes.errorbar([one.mean for one in own], heights, xerr=widths, fmt=marker, markersize=4, label=variant)
            axes.axvline(0.0, color="black", linewidth=0.8)
        panels[0].set(xlabel="test accuracy less that of constant, points", yticks=range(len(cells)), yticklabels=cells)
        panels[0].invert_yaxis()
        panels[1].set(xlabel="training objective less that of constant")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(COMPARED))
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
