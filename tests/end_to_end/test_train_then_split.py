"""The chain of scenarios/train_then_split.toml by its commands: trained over the air, shared out, run on processes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedmac.cli import app
from fedmac.repurposing.team import read_team
from strategies.repurpose import account, load_plan

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "scenarios" / "train_then_split.toml"
TEAM = ROOT / "scenarios" / "teams" / "over_the_air.toml"


def said(*arguments: object) -> str:
    """What a command says, which must succeed."""
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def number(pattern: str, text: str) -> float:
    """The number that a pattern's group finds."""
    found = re.search(pattern, text)
    assert found, text
    return float(found[1].replace(",", ""))


def test_a_model_trained_over_the_air_runs_on_four_processes(tmp_path: Path) -> None:
    run, plan, outputs = tmp_path / "split", tmp_path / "split" / "plan", tmp_path / "outputs.safetensors"
    said("run", SCENARIO, "--out", run, "--set", "rounds=3", "--set", "engine.workers=1")
    said("repurpose", run, "--workers", 4, "--max-drop", 0.02, "--points", 3, "--calibration", 500)
    told = said("infer", plan, "--workers", 4, "--batch", 10, "--model", run, "--out", outputs)

    read, sample = load_plan(plan), load_file(plan / "sample.safetensors")
    assert torch.allclose(load_file(outputs)["outputs"], read.run(sample["inputs"]), rtol=1e-5, atol=1e-5)
    assert number(r"largest difference to one process: (\S+) of", told) <= 1e-5
    assert number(r"bytes sent: ([\d,]+),", told) == len(sample["inputs"]) * account(read).bytes > 0
    facts = tomllib.loads((plan / "plan.toml").read_text(encoding="utf-8"))["facts"]
    assert facts["accuracy_judged"] >= facts["accuracy_model"] - 0.02
    right = float((load_file(outputs)["outputs"].argmax(1) == sample["targets"]).float().mean())
    assert f"accuracy: {right:.4f}" in told
    assert number(r"latency: (\S+) ms a batch \(median\), estimate", told) > 0
    assert number(r"estimate (\S+) ms at", told) > 0


def test_the_team_that_comes_along_shares_one_band() -> None:
    workers, links = read_team(TEAM).built()
    assert [worker.speed for worker in workers] == [2e8, 2e8, 1e8, 1e8]
    assert links.shared
    # rates fall with distance: 21, 25 and 72 m from the first
    assert (np.diff(links.rate[0, 1:]) < 0).all()
