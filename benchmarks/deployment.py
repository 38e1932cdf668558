"""Where a round's time goes in a deployment: one server and a few devices on this machine, over TLS.

What is timed: rounds of FedAvg on 5,000 digits (MLP 784-128-10, one local epoch, nothing coded) on SuperNodes that
start a process for each message, as Flower does. A device's process says how long its interpreter, importing torch,
the other imports, its data and its training took (``timed_process``); the rest of a round is polling and carrying:
SuperNodes ask the SuperLink for messages every 3 s, and the ServerApp asks it for replies every 3 s.

How: shares of the mean round, without the first, of one run; seconds depend on what else the machine does, shares less
so. Run from the repository: ``.venv/bin/python benchmarks/deployment.py --devices 1 --rounds 6``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from fedmac.deployment.folders import ServerFolder
from fedmac.deployment.initialise import initialise
from fedmac.deployment.server import control_of
from fedmac.engines.deployment import run_on_superlink, wait_for_devices
from fedmac.engines.flower import write_app
from fedmac.record import SCENARIO, prepare
from fedmac.scenario import Scenario

HERE = Path(__file__).resolve().parent
START_SECONDS = 120.0

PARTS = ("interpreter", "import torch", "other imports, message", "data", "training and coding")
"""Parts of the life of a device's process."""

REST = "polls, transfer, the server's own work"


def make_scenario(devices: int, rounds: int) -> Scenario:
    """The workload."""
    return Scenario.load(
        {
            "name": "deployment",
            "rounds": rounds,
            "data": {"source": "mnist-5k", "devices": devices},
            "model": {"name": "mlp", "hidden": [128]},
            "training": {"local_epochs": 1, "learning_rate": 0.05},
            "uplink": {"kind": "ideal"},
        }
    )


@contextmanager
def federation(place: Path, devices: int) -> Iterator[ServerFolder]:
    """A server and its devices, online; they are gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    initialise(place / "deployment", devices=devices, hosts=("localhost",), port=port)
    folder = ServerFolder.load(place / "deployment")
    environment = os.environ | {"FEDMAC_TIMES": str(place / "times.jsonl"), "PYTHONPATH": str(HERE / "timed_process")}
    parts: list[subprocess.Popen[bytes]] = []
    with (place / "log").open("wb") as log:
        try:
            for words in (["server"], *(["device", "--id", str(device)] for device in range(devices))):
                command = [sys.executable, "-m", "fedmac.cli", "deploy", words[0], str(folder.path.parent), *words[1:]]
                parts.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True))
            wait_until_up(folder, devices)
            yield folder
        finally:
            for part in parts:
                part.send_signal(signal.SIGTERM)
            for part in parts:
                part.wait(timeout=60)


def wait_until_up(folder: ServerFolder, devices: int) -> None:
    """Wait until the server answers and the devices are online."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            wait_for_devices(control_of(folder), devices, START_SECONDS)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def run(devices: int, rounds: int) -> tuple[list[float], list[dict[str, Any]]]:
    """Seconds of each round but the first, and what devices' processes have said of the same rounds."""
    with tempfile.TemporaryDirectory(prefix="fedmac-", dir="/tmp") as directory:
        place = Path(directory)
        out, scenario = place / "out", make_scenario(devices, rounds)
        prepare(out, scenario, overwrite=False, resume=False)
        text = (out / SCENARIO).read_text() + "\n"
        config = {"scenario": text, "overrides": "", "only": "", "out": str(out), "prepared": True}
        with federation(place, devices) as folder:
            app = write_app(place / "app", config, clientapp="timed_client:app")
            (app / "timed_client.py").write_text((HERE / "timed_process/timed_client.py").read_text())
            control, log = control_of(folder), place / "flower.log"
            run_on_superlink(app, config, control, devices=devices, nodes_timeout=60.0, log=log, on_poll=lambda: None)
        times = [json.loads(line) for line in (place / "times.jsonl").read_text().splitlines()]
        walls = [json.loads(line)["wall_s"] for line in (out / "rounds.jsonl").read_text().splitlines()]
    seconds = [after - before for before, after in pairwise(walls)][1:]
    return seconds, [row for row in times if row["round"] > 1]


def shares(seconds: list[float], times: list[dict[str, Any]]) -> dict[str, float]:
    """Mean seconds of each part of a round; those of devices' processes are of the slowest device of each round."""
    by_round: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in times:
        by_round[row["round"]].append(row)
    slowest = [max(rows, key=lambda row: sum(row[name] for name in PARTS)) for rows in by_round.values()]
    parts = {name: fmean(row[name] for row in slowest) for name in PARTS}
    return parts | {REST: fmean(seconds) - sum(parts.values())}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6, help="one of them is not counted (at least 2)")
    options = parser.parse_args()
    if options.devices < 1 or options.rounds < 2:
        parser.error("--devices: at least 1; --rounds: at least 2")
    seconds, times = run(options.devices, options.rounds)
    parts = shares(seconds, times)
    total = fmean(seconds)
    print(f"a round: {total:.1f} s (mean of {len(seconds)}, {options.devices} devices, load {os.getloadavg()[0]:.1f})")
    print("\n| part of a round | s | share |\n|---|---|---|")
    for name, value in parts.items():
        print(f"| {name} | {value:.2f} | {value / total:.0%} |")


if __name__ == "__main__":
    main()
