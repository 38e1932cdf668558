"""Workers that fail, lag, leave and return: what each system loses by it, in seconds and joules to a target loss.

usage: python scenarios/faults.py [--only TEXT] [--seeds 3] [--out runs/faults-study]

Runs the systems of scenarios/scaling.toml, 8 workers in a data centre with mild stragglers, and some of them under
another rule of what to do about who is missing, without faults and under each kind of them. "Half-way" is half of the
seconds that a system took to the target without faults under the first seed. The loss is looked at every 8 rounds, as
in scenarios/scaling.py. A worker, or a message, is given up after 0.25 s, seven steps.

Started again it does what is missing: each kind has a run folder OUT/KIND, for `fedmac compare` too. OUT/table.md has
for each kind seconds to the target, seconds a round until then, and joules (mean, least to largest), each also as a
multiple of what the same system took without faults under the same seed, and why runs did not get there; then the
multiples of all kinds side by side.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scaling_figures import told
from study import study_arguments, write_table

import fedmac

TASK = Path(__file__).with_name("scaling.toml")
TARGET = 0.4
"""Test loss to be reached."""
LOOK_EVERY = 8
TIMEOUT_S = 0.25
AN_HOUR_S = 3600.0
"""The default of `engine.round_timeout_s`."""
ROUNDS = {"fedbuff": 264, "gossip": 304, "elastic-averaging": 504}
"""So many are given, by strategy; else 208; and twice as many to :data:`SLOW`. Without faults 60 % are needed."""

RULES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "synchronous-waits": ("synchronous", {"on_lost": "wait"}),
    "synchronous-deadline": ("synchronous", {"deadline_s": 0.1}),
    "ring-that-stops": ("ring-all-reduce", {"on_lost": "stop"}),
    "elastic-averaging-server": ("elastic-averaging", {"server": True}),
}
"""Another rule: of which system, and the keys of its table `strategy`."""

COSTS = ["seconds", "seconds a round", "joules"]
WITHOUT = "none"
PATIENT = "1 % lost, given up after an hour"
SLOW = "a third away"
FAULTS: Mapping[str, Callable[[float], dict[str, Any]]] = {
    WITHOUT: lambda half_way: {},
    "0.1 % lost": lambda half_way: {"loss": 0.001},
    "1 % lost": lambda half_way: {"loss": 0.01},
    "5 % lost": lambda half_way: {"loss": 0.05},
    PATIENT: lambda half_way: {"loss": 0.01},
    "a tenth away": lambda half_way: {"mean_up_s": 2.7, "mean_down_s": 0.3},
    SLOW: lambda half_way: {"mean_up_s": 0.6, "mean_down_s": 0.3},
    "one hangs half-way": lambda half_way: incident("hang", half_way),
    "one leaves half-way": lambda half_way: incident("crash", half_way),
    "one joins half-way": lambda half_way: incident("join", half_way),
}
"""The table `faults` of each kind, by the seconds that are half-way."""


def main() -> None:
    """Run what is missing, and write the table."""
    arguments = study_arguments(__doc__, list(FAULTS), seeds=3, out="runs/faults-study")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*ended early")  # the table says why
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_table(arguments.out, sections(arguments.cells, arguments.out, arguments.seeds))


def incident(kind: str, at_s: float) -> dict[str, Any]:
    """What happens to worker 0, which keeps the centre of elastic averaging unless a server does."""
    return {"incidents": [{"device": 0, "kind": kind, "at_s": at_s}]}


def sections(kinds: Sequence[str], out: Path, seeds: int) -> Iterator[str]:
    """A table for each kind, and those of all side by side."""
    base = costs_of(rounds_of(WITHOUT, {}, out, seeds))
    half_ways = half_of(base)
    multiples: dict[str, pd.DataFrame] = {}
    for kind in kinds:
        costs = base if kind == WITHOUT else costs_of(rounds_of(kind, half_ways, out, seeds))
        multiples[kind] = costs[COSTS] / base[COSTS]
        yield section(kind, costs, multiples[kind])
    multiples.pop(WITHOUT, None)
    for figure in COSTS if multiples else ():
        yield side_by_side(figure, pd.DataFrame({kind: found[figure] for kind, found in multiples.items()}))


def rounds_of(kind: str, half_ways: Mapping[str, float], out: Path, seeds: int) -> pd.DataFrame:
    """The rounds of all systems under faults of a kind, run if they are not there."""
    folder = out / kind.replace(" %", "").replace(",", "").replace(" ", "-")
    content = scenario_of(kind, half_ways) | {"seeds": seeds}
    return fedmac.run(content, out=folder, resume=folder.exists(), workers=1, report=False).rounds


def scenario_of(kind: str, half_ways: Mapping[str, float]) -> dict[str, Any]:
    """The scenario of all systems under faults of a kind, where half-way is in so many seconds by system."""
    content = fedmac.Scenario.load(TASK).content()
    content["name"] = kind
    content["evaluation"] = {"every": LOOK_EVERY}
    content["engine"] = content["engine"] | {"round_timeout_s": AN_HOUR_S if kind == PATIENT else TIMEOUT_S}
    variants = {variant["name"]: variant for variant in content["variants"]}
    for name, (system, rule) in RULES.items():
        of = variants[system]
        variants[name] = of | {"name": name, "strategy": of.get("strategy", {}) | rule}
    for name, variant in variants.items():
        strategy = variant.get("strategy", {}).get("name", content["strategy"]["name"])
        variant["rounds"] = ROUNDS.get(strategy, 208) * (2 if kind == SLOW else 1)
        variant["faults"] = FAULTS[kind](half_ways.get(name, 0.0))
    return content | {"variants": list(variants.values())}


def costs_of(rounds: pd.DataFrame) -> pd.DataFrame:
    """By system and seed: what it took to the target, joules of all workers; and where it was not reached, why."""
    devices = fedmac.Scenario.load(TASK).data.devices
    runs, rounds = ["variant", "seed"], rounds.reindex(columns=rounds.columns.union(["stopped"]))
    reached = rounds[rounds["test_loss"] <= TARGET].drop_duplicates(runs).set_index(runs)
    ends = rounds.groupby(runs, sort=False).last()
    missed = ~ends.index.isin(reached.index)
    why = ends["stopped"].where(ends["stopped"].notna(), "all of its " + ends["round"].astype(str) + " rounds")
    costs = pd.DataFrame({"end": ends["clock_s"], "why": why.where(missed)})
    costs["seconds"], costs["joules"] = reached["clock_s"], reached["energy_j_per_device_mean"] * devices
    costs["seconds a round"] = reached["clock_s"] / reached["round"]
    return costs


def half_of(base: pd.DataFrame) -> dict[str, float]:
    """Half of each system's seconds under its first seed: to the target, or else to its end."""
    first = base.groupby("variant", sort=False).nth(0)
    seconds = first["seconds"].fillna(first["end"]).droplevel("seed")
    return {str(name): round(float(taken) / 2, 3) for name, taken in seconds.items()}


def section(kind: str, costs: pd.DataFrame, multiples: pd.DataFrame) -> str:
    """A kind's table."""
    heads = [head for figure in COSTS for head in (figure, "times those without")]
    lines = [
        f"### {kind.capitalize()}: to a test loss of {TARGET:g}\n",
        f"| system | {' | '.join(heads)} | not there |",
        "|---" * (2 + len(heads)) + "|",
    ]
    for name, own in costs.groupby("variant", sort=False):
        cells = [told(column.loc[own.index, figure]) for figure in COSTS for column in (costs, multiples)]
        why = own["why"].dropna()
        reason = "" if why.empty else f"{len(why)} of {len(own)}, the first: {why.iloc[0]}"
        lines.append(f"| {' | '.join([str(name), *cells, reason])} |")
    return "\n".join(lines) + "\n"


def side_by_side(figure: str, multiples: pd.DataFrame) -> str:
    """Of all kinds, by system: the mean over the seeds that got there, and how many if not all did."""
    lines = [
        f"### {figure.capitalize()}, as multiples of those without faults\n",
        f"| system | {' | '.join(multiples)} |",
        "|---" * (1 + len(multiples.columns)) + "|",
    ]
    for name, own in multiples.groupby("variant", sort=False):
        lines.append(f"| {name} | {' | '.join(mean_of(own[kind]) for kind in own)} |")
    return "\n".join(lines) + "\n"


def mean_of(values: pd.Series) -> str:
    """Of the seeds that got there."""
    there = values.dropna()
    if there.empty:
        return "-"
    mean = there.mean()
    return (f"{mean:.2f}" if mean < 100 else f"{mean:,.0f}") + (
        "" if len(there) == len(values) else f", {len(there)} of {len(values)}"
    )


if __name__ == "__main__":
    main()
