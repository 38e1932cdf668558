"""Attackers: how much each method loses to them, over the air and in packets, at about equal channel uses and power.

usage: python scenarios/attackers.py [--only TEXT] [--seeds 3] [--out runs/attackers]

Runs scenarios/attackers.toml without attackers, and with one or two of ten devices that attack in several ways.
Started again it does what is missing. OUT/table.md has the test accuracy in the end (mean over the seeds, least in
brackets) of every method and attack, and OUT/accuracy.csv the same by seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import fedmac

SCENARIO = Path(__file__).with_suffix(".toml")
ATTACKS: Mapping[str, dict[str, Any]] = {
    "none": {"attackers.count": 0},
    "turned round, ten times, 20 %": {"attackers.count": 2},
    "turned round, ten times, 10 %": {"attackers.count": 1},
    "turned round, 20 %": {"attackers.count": 2, "attackers.factor": 1.0},
    "thirty times, 20 %": {"attackers.count": 2, "attackers.kind": "scaled-update", "attackers.factor": 30.0},
    "wrong labels, 20 %": {"attackers.count": 2, "attackers.kind": "label-flip", "attackers.factor": 1.0},
    "turned round, 10 %": {"attackers.count": 1, "attackers.factor": 1.0},
}


def main() -> None:
    """Run the attacks that are missing, and write the table of all that are chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="attacks whose names hold this text, e.g. '20 %%'")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/attackers"))
    arguments = parser.parse_args()
    names = [name for name in ATTACKS if arguments.only in name]
    if not names:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {list(ATTACKS)[1]!r}")
    results = pd.concat([run(name, arguments.seeds, arguments.out) for name in names])
    results.to_csv(arguments.out / "accuracy.csv", index=False)
    (arguments.out / "table.md").write_text(table(results), encoding="utf-8")
    print(table(results))


def run(attack: str, seeds: int, out: Path) -> pd.DataFrame:
    """The last round of every method and seed under one attack."""
    folder = out / attack.replace(" %", "").replace(",", "").replace(" ", "-")
    settings = ATTACKS[attack] | {"seeds": seeds}
    rounds = fedmac.run(SCENARIO, out=folder, resume=folder.exists(), workers=1, settings=settings, report=False).rounds
    last = rounds.groupby(["variant", "seed"], sort=False).last().reset_index()
    return last[["variant", "seed", "test_accuracy", "channel_uses", "energy_j_per_device_mean"]].assign(attack=attack)


def table(results: pd.DataFrame) -> str:
    """Test accuracy by method and attack, as Markdown; a run that diverged counts as zero right answers."""
    attacks = list(results["attack"].unique())
    lines = ["| method | channel uses | " + " | ".join(attacks) + " |", "|---" * (len(attacks) + 2) + "|"]
    for method, own in results.groupby("variant", sort=False):
        cells = []
        for attack in attacks:
            accuracy = own[own["attack"] == attack]["test_accuracy"].fillna(0.0)
            cells.append(f"{accuracy.mean():.3f} ({accuracy.min():.3f})")
        lines.append(f"| {method} | {own['channel_uses'].mean():,.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
