"""Times FedMAC itself: a scenario on one of its engines, through the code that ``fedmac run`` uses.

What is timed: the workload of ``bare_loop.py`` (MLP 784-128-10, full participation, batch 10, one local epoch,
SGD with learning rate 0.05) as a FedMAC scenario, with all that a round of it includes: the strategy, batches in
a drawn order, the uplink, the ledger, the line in ``rounds.jsonl``. Data are real digits (mnist-5k, nothing held
out, evaluation off); what they hold does not change the work. The uplinks are

* ``ideal``: every update arrives as it is;
* ``rlc``: random linear code with 0.1 channel uses a parameter, Rayleigh fading drawn anew each round, minimum-MSE
  power control with 50 units of energy a device and round, noise variance 1.

How: the difference of the record's ``wall_s`` from round to round, without the first round, which starts workers,
builds the power-control problem and, on Flower's engine, starts Ray. Run from the repository:
``.venv/bin/python benchmarks/fedmac_run.py --engine local --workers 2 --uplink rlc --devices 100 --samples 50``.
It prints one line of JSON, as ``bare_loop.py`` does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from bare_loop import BATCH_SIZE, LEARNING_RATE

from fedmac.engines import run_jobs
from fedmac.logs import quiet_flower
from fedmac.record import prepare
from fedmac.scenario import Scenario
from fedmac.session import plan

UPLINKS: dict[str, dict[str, Any]] = {
    "ideal": {"uplink": {"kind": "ideal"}},
    "rlc": {
        "uplink": {"kind": "over-the-air", "code": "random-linear", "ratio": 0.1},
        "power_control": {"name": "minimum-mse", "power": 1.0},
        "channel": {"fading": "rayleigh"},
    },
}


def make_scenario(options: argparse.Namespace) -> Scenario:
    """Describe the workload; one round more than is timed, for the warm-up."""
    return Scenario.load(
        {
            "name": "benchmark",
            "rounds": options.rounds + 1,
            "data": {
                "source": "mnist-5k",
                "devices": options.devices,
                "samples_per_device": options.samples,
                "test_fraction": 0.0,
            },
            "model": {"name": "mlp", "hidden": [128]},
            "training": {
                "local_epochs": 1,
                "batch_size": BATCH_SIZE,
                "learning_rate": LEARNING_RATE,
                "device": options.device,
            },
            "engine": {"kind": options.engine, "workers": options.workers},
            # There are no rows to evaluate on; with this, nothing is tried.
            "evaluation": {"every": options.rounds + 1},
            **UPLINKS[options.uplink],
        },
        {
            "channel.noise_power": 10 ** (-options.snr_db / 10),
            "engine.memory_mb": options.memory_mb,
            "engine.batched_devices": options.batched_devices,
        },
    )


def time_rounds(scenario: Scenario) -> list[dict[str, Any]]:
    """Run a scenario in a folder that is thrown away; give its record, round 0 first."""
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fedmac-benchmark-") as folder, quiet_flower():
        out = Path(folder) / "run"
        prepare(out, scenario, overwrite=False, resume=False)
        run_jobs(scenario, out, plan(scenario, out), records.append, workers=scenario.engine.workers or 1)
    return records


def main() -> None:
    """Time a scenario and print the line of JSON."""
    parser = argparse.ArgumentParser(description="Time FedMAC on one of its engines.")
    parser.add_argument("--engine", choices=("local", "flower"), default="local")
    parser.add_argument("--uplink", choices=sorted(UPLINKS), default="ideal")
    parser.add_argument("--workers", type=int, default=1, help="processes that train (1)")
    parser.add_argument("--snr-db", type=float, default=0.0, help="peak power of one device to noise (0)")
    parser.add_argument("--memory-mb", type=int, default=100, help="of the local engine, for held updates (100)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--batched-devices", type=int, help="of the local engine, in one computation (a GPU: several)")
    parser.add_argument("--devices", type=int, default=100, help="devices, all in every round (100)")
    parser.add_argument("--samples", type=int, default=50, help="samples per device (50)")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds after one warm-up (10)")
    options = parser.parse_args()
    records = time_rounds(make_scenario(options))
    heard = sum(bool(record["heard"]) for record in records[1:])
    if heard != options.rounds + 1:
        raise SystemExit(f"only {heard} of {options.rounds + 1} rounds were heard: this is not the work to time")
    seconds = [b["wall_s"] - a["wall_s"] for a, b in pairwise(records[1:])]
    facts = {"parameters": records[0]["parameters"], "round_seconds": seconds, "torch": torch.__version__}
    print(json.dumps(vars(options) | facts))


if __name__ == "__main__":
    main()
