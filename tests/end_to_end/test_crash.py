"""`kill -9` at any moment costs time and nothing else: resumed until it is done, a run ends as one that was never hit.

The number of kills is FEDMAC_CRASHES, 3 unless given; `make crash` deals out 50. Runs whose checkpoints go by
replies get half as many.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedmac
from fedmac.record import COSTS, MEASURED, read_rounds
from fedmac.runs import Run
from tests.run_outcome import outcome

KILLS = int(os.environ.get("FEDMAC_CRASHES", "3"))
SEED = int(os.environ.get("FEDMAC_CRASH_SEED", "0"))
PATIENCE = 300.0
"""Seconds that a run may take to write its next round: far more than it needs, so that a hang is an error."""

SCENARIO: dict[str, Any] = {
    "name": "crash",
    "rounds": 12,
    "data": {"source": "digits", "devices": 6, "samples_per_device": 60},
    "training": {"learning_rate": 0.3, "full_batch": True},
    "uplink": {"code": "random-linear", "ratio": 0.25},
    "power_control": {"energy_per_round": 50.0},
    "channel": {"fading": "gauss-markov", "correlation": 0.9},
    "engine": {"workers": 2},
}
FEEDBACK = {"code": "random-linear", "ratio": 0.25, "decoder": "projection", "error_feedback": True}
MOMENTUM = {"name": "fedavgm", "server_momentum": 0.9}
EXACT = {"uplink": {"code": "uncoded"}, "power_control": {"energy_per_round": 1e5}}
IDEAL = {"uplink": {"kind": "ideal"}}
VARIANTS: list[dict[str, Any]] = [
    {"name": "momentum and error feedback", "strategy": MOMENTUM, "uplink": FEEDBACK},
    {"name": "adam", "strategy": {"name": "fedadam"}, "impairments": {"availability": 0.7, "mean_outage": 2.0}},
    {"name": "a plan", "plan": {"name": "power-law", "every": 3}},
    {"name": "average power", "power_control": {"name": "average-power", "power": 1.0}},
    {
        "name": "packets and their feedback",
        "uplink": {"kind": "digital"},
        "power_control": {"power": 1.0},
        "codec": {"name": "dithered", "levels": 3, "error_feedback": 1.0},
        "link": {"deadline_s": 3000.0, "retransmissions": 1, "csi": "previous", "outer_loop": True},
    },
    {"name": "dingo over the air", "strategy": {"name": "dingo"}} | EXACT,
    {"name": "giant over the air", "strategy": {"name": "giant"}, "training": {"l2": 1e-2}} | EXACT,
    {"name": "asynchronous", "strategy": {"name": "asynchronous", "server_learning_rate": 0.2}} | IDEAL,
    {"name": "gossip", "strategy": {"name": "gossip", "mode": "pull"}} | IDEAL,
]

SYSTEMS: dict[str, Any] = {
    "name": "systems",
    "rounds": 12,
    "data": SCENARIO["data"],
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "engine": {"workers": 2, "checkpoint_every": 0, "checkpoint_arrivals": 1},
}
"""With checkpoints after replies alone, of which a round has six."""

OF_SYSTEMS: list[dict[str, Any]] = [
    {"name": "synchronous", "strategy": {"name": "synchronous"}} | IDEAL,
    {"name": "asynchronous", "strategy": {"name": "asynchronous", "server_learning_rate": 0.2}} | IDEAL,
    {"name": "stale-synchronous", "strategy": {"name": "stale-synchronous"}} | IDEAL,
    {"name": "fedbuff", "strategy": {"name": "fedbuff", "buffer": 4}, "uplink": {"kind": "digital"}},
]


def write(path: Path, scenario: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(scenario))
    return path


def start(*words: object, **given: Any) -> subprocess.Popen[str]:
    """`fedmac run` as the leader of a process group of its own."""
    command = [sys.executable, "-m", "fedmac.cli", "run", *map(str, words), "--no-report"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, start_new_session=True, text=True, **pipes, **given)


def finish(process: subprocess.Popen[str]) -> None:
    """Let it come to its end, which must be a good one."""
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said


def lines_in(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/rounds.jsonl"))


def killed(process: subprocess.Popen[str], folder: Path, draws: random.Random) -> bool:
    """Kill the run and all its workers at a random moment; False if it came to its end before."""
    # Start-up takes longer than all rounds: by the clock alone hardly a kill would come between two of them.
    by_clock = draws.random() < 0.2
    new_lines, delay = draws.randint(1, 30), draws.uniform(0.0, 4.0 if by_clock else 0.02)
    end, wanted = time.monotonic() + PATIENCE, lines_in(folder) + new_lines
    while not by_clock and process.poll() is None and not wanted - new_lines < lines_in(folder) >= wanted:
        wanted = min(wanted, lines_in(folder) + new_lines)  # lines of a round cut off are dropped on resuming
        assert time.monotonic() < end, f"no {wanted} rounds after {PATIENCE} s"
        time.sleep(0.001)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


def check_usable(folder: Path) -> None:
    """What a kill leaves is a run folder that can be read: each variant's rounds from the first on, none twice."""
    if (folder / "scenario.toml").is_file() and (folder / "environment.json").is_file():
        Run(folder).summary  # noqa: B018 reading it is the point
    for path in folder.glob("*/rounds.jsonl"):
        rounds = [line["round"] for line in read_rounds(path)]
        assert rounds == list(range(len(rounds)))


def resume(file: Path, folder: Path) -> subprocess.Popen[str]:
    """By the run folder alone; by the scenario where there is not even that."""
    there = (folder / "scenario.toml").is_file()
    return start(folder, "--resume") if there else start(file, "--out", folder, "--resume")


def costs(folder: Path) -> list[dict[str, Any]]:
    rows = json.loads((folder / "summary.json").read_text())["variants"]
    return [{cost: row[cost] for cost in COSTS if cost not in MEASURED} for row in rows]


@pytest.mark.parametrize(
    ("scenario", "variants", "most"),
    [(SCENARIO, VARIANTS, KILLS), (SYSTEMS, OF_SYSTEMS, max(1, KILLS // 2))],
    ids=["rounds", "replies"],
)
def test_killed_at_random_moments_a_run_ends_as_one_that_was_not(
    scenario: dict[str, Any], variants: list[dict[str, Any]], most: int, tmp_path: Path
) -> None:
    file, whole = write(tmp_path / "crash.toml", scenario | {"variants": variants}), tmp_path / "whole"
    fedmac.run(file, out=whole, report=False)
    draws, kills, runs = random.Random(SEED), 0, 0
    while kills < most:
        runs += 1
        folder = tmp_path / f"killed-{runs}"
        process = start(file, "--out", folder)
        while kills < most and killed(process, folder, draws):
            kills += 1
            check_usable(folder)
            process = resume(file, folder)
        if process.poll() is None:
            finish(process)
        for variant in variants:
            assert outcome(folder / variant["name"]) == outcome(whole / variant["name"]), variant["name"]
        assert costs(folder) == costs(whole)
        assert json.loads((folder / "summary.json").read_text())["interrupted"] is False
    print(f"{kills} kills in {runs} runs")


def test_a_run_that_has_no_room_left_names_the_file_and_goes_on_when_there_is(tmp_path: Path) -> None:
    content = SCENARIO | {"uplink": FEEDBACK, "strategy": MOMENTUM}
    file = write(tmp_path / "full.toml", content)
    fedmac.run(content, out=tmp_path / "whole", report=False)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    process = start(file, "--out", tmp_path / "full", preexec_fn=no_room)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "cannot be written: File too large" in said
    assert "Traceback" not in said
    finish(start(tmp_path / "full", "--resume"))
    assert outcome(tmp_path / "full") == outcome(tmp_path / "whole")
