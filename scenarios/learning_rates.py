"""Choose each variant's learning rate on validation data.

usage: python scenarios/learning_rates.py SCENARIO [--rates 0.03,0.1,0.3,1] [--seeds 3] [--only NAME …]

Runs every variant at every rate with a fifth of the training rows held out (`data.validation_fraction=0.2`) and
prints the validation accuracy after the last round, mean and standard deviation over seeds, and the best rate. The
test rows are not looked at.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fedmac


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("--rates", default="0.03,0.1,0.3,1.0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args()
    rates = [float(rate) for rate in arguments.rates.split(",")]

    from fedmac.scenario_text import parse_settings

    table: dict[str, dict[float, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rate in rates:
            settings = parse_settings(arguments.settings) | {
                "data.validation_fraction": 0.2,
                "training.learning_rate": rate,
                "evaluation.every": 10**6,
            }
            run = fedmac.run(
                arguments.scenario,
                out=Path(scratch) / str(rate),
                seeds=arguments.seeds,
                settings=settings,
                only=arguments.only,
                workers=arguments.workers,
            )
            for row in run.summary["variants"]:
                figures = (row["validation_accuracy"], row["validation_accuracy_std"])
                table.setdefault(row["name"], {})[rate] = figures
    print("| variant | " + " | ".join(f"{rate:g}" for rate in rates) + " | best |")
    print("|---" * (len(rates) + 2) + "|")
    for name, row in table.items():
        best = max(row, key=lambda rate: row[rate][0])
        cells = " | ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in row.values())
        print(f"| {name} | {cells} | {best:g} |")


if __name__ == "__main__":
    main()
