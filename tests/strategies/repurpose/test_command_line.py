"""From a run folder to a plan to processes, by the command line."""

from __future__ import annotations

import multiprocessing
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fedmac.cli import app
from fedmac.repurposing.team import read_team
from fedmac.runs import run
from fedmac.scenario_errors import ScenarioError
from strategies.repurpose import account, load_plan, repurpose, save_parts, save_plan
from strategies.repurpose.accounts import transfer_time
from strategies.repurpose.part_file import part_path
from tests.strategies.repurpose.networks import dense, inputs

SCENARIO = {
    "name": "tiny",
    "rounds": 30,
    "data": {"source": "digits", "devices": 2, "test_fraction": 0.2},
    "model": {"name": "mlp", "hidden": [16, 12]},
    "training": {"learning_rate": 0.5, "full_batch": True},
    "uplink": {"kind": "ideal"},
    "engine": {"workers": 1},
}
TEAM = """
[[workers]]
speed = 1e6
energy_per_multiply_add = 1e-11
place = [0.0, 0.0]
[[workers]]
speed = 2e6
memory = 8000
place = [30.0, 0.0]
[radio]
power_dbm = 10.0
bandwidth_hz = 1e6
"""


TWO = "[[workers]]\n[[workers]]\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    run(SCENARIO, out=folder, report=False)
    return folder


def called(*arguments: object) -> Result:
    """What a command ends with; its errors of input are raised."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def refused(*arguments: object) -> str:
    """Why a command is refused."""
    with pytest.raises(ScenarioError) as error:
        called(*arguments)
    return str(error.value)


def test_a_trained_run_is_split_and_runs_on_processes(trained: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    ended = called("repurpose", trained, "--workers", 2, "--max-drop", 0.05, "--points", 4, "--out", plan)
    assert ended.exit_code == 0, ended.output
    assert "repurposed" in ended.output
    assert {path.name for path in plan.iterdir()} == {
        "plan.toml", "plan.safetensors", "parts", "sample.safetensors", "front.csv", "report.html",
    }  # fmt: skip
    text = tomllib.loads((plan / "plan.toml").read_text(encoding="utf-8"))
    assert text["facts"]["accuracy_judged"] >= text["facts"]["accuracy_model"] - 0.05
    front = pd.read_csv(plan / "front.csv")
    assert len(front) >= 5
    assert front["communication_cost"][0] == 0
    assert text["sends"] in set(front["sends"])
    assert text["sends"] < (16 + 12)  # all activations, each to the other worker
    page = (plan / "report.html").read_text(encoding="utf-8")
    assert all(part in page for part in ("What accuracy costs", "Weights, before and after", "Each worker"))

    outputs = tmp_path / "outputs.safetensors"
    ended = called("infer", plan, "--workers", 2, "--batch", 10, "--model", trained, "--out", outputs)
    assert ended.exit_code == 0, ended.output
    rows = load_file(plan / "sample.safetensors")["inputs"]
    read = load_plan(plan)
    sent = f"{len(rows) * account(read).bytes:,}"
    assert f"bytes sent: {sent}, planned: {sent}" in ended.output
    assert torch.allclose(load_file(outputs)["outputs"], read.run(rows), rtol=1e-5, atol=1e-5)


def test_a_team_of_unequal_devices_over_the_air(trained: Path, tmp_path: Path) -> None:
    team = tmp_path / "team.toml"
    team.write_text(TEAM, encoding="utf-8")
    ended = called("repurpose", trained, "--team", team, "--cost", 0.05, "--out", tmp_path / "plan")
    assert ended.exit_code == 0, ended.output
    plan = load_plan(tmp_path / "plan")
    owned = [[int((owners == q).sum()) for q in range(2)] for owners in plan.owners[-3:]]
    # the second is twice as fast, and its memory holds more than two thirds of the weights
    assert owned == [[5, 11], [4, 8], [3, 7]]
    facts = tomllib.loads((tmp_path / "plan" / "plan.toml").read_text(encoding="utf-8"))["facts"]
    assert facts["energy_j"] > 0


def test_links_are_given_for_each_pair_of_workers(tmp_path: Path) -> None:
    team = tmp_path / "team.toml"
    team.write_text(f"{TWO}[links]\nrate = [[0, 1e6], [2e6, 0]]\nenergy_per_bit = 1e-9\ndelay = 0.5\n")
    workers, links = read_team(team).built()
    assert len(workers) == 2
    sent = np.array([[0, 1000], [3000, 0]])  # bytes; each sends while it receives
    assert transfer_time(sent, links) == pytest.approx(0.5 + max(8 * 1000 / 1e6, 8 * 3000 / 2e6))
    counts = account(repurpose(dense(), inputs(dense()), workers, 0.0, links=links))
    assert counts.energy(workers, links) == pytest.approx(8e-9 * counts.bytes)


def test_a_factory_with_its_weights_is_a_model_too(trained: Path, tmp_path: Path) -> None:
    from clients.models import build

    weights = tmp_path / "cnn.safetensors"
    save_file(build("cnn", (8, 8), 10).state_dict(), weights)
    arguments = ("repurpose", "clients.models:cnn", "--weights", weights, "--data", "digits", "--workers", 2)
    ended = called(*arguments, "--cost", 1.0, "--calibration", 200, "--out", tmp_path / "plan")
    assert ended.exit_code == 0, ended.output
    again = refused(*arguments, "--cost", 1.0, "--out", tmp_path / "plan")
    assert again.endswith("accepted: a new folder (--out FOLDER)")
    save_file({"nothing": torch.zeros(1)}, weights)
    assert "not of model" in refused(*arguments, "--cost", 1.0, "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "accepted: one of --workers N and --team FILE"),
        (("--workers", 2, "--max-drop", 0.1, "--cost", 1.0), "accepted: at most one of them"),
        (("--workers", 13), "has 12 units; accepted: at most 12 workers"),
        (("--workers", 2, "--max-sends", 0, "--weights", "x.safetensors"), "is a run folder; accepted: without them"),
        (("--team", "no.toml"), "no such file; accepted: a TOML file with [[workers]]"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    trained: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    assert said in refused("repurpose", trained, *options, "--points", 2, "--out", tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[workers]]\nspeed = -1.0\n", "team.toml: workers[0].speed = -1.0: accepted: a number > 0"),
        ("[[workers]]\n[radio]\npower_dbm = 1.0\nbandwidth_hz = 1e6\n", "workers[0].place: not given"),
        ("workers = 3\n", "workers = 3"),
        ("[[workers]]\nsped = 1.0\n", "workers[0].sped = 1.0: unknown key; did you mean"),
        ("[[workers]]\nmemory = 100.0\n", "bytes are missing"),
        ("[[workers]]\n[links]\nrate = 0\n", "links.rate = 0: accepted: a number > 0, or a matrix"),
        ("[[workers]]\n[links]\nrate = 'x'\n", "links.rate = 'x': accepted: a number > 0, or a matrix"),
        (f"{TWO}[links]\nrate = [[0, 1], [0, 0]]\n", "links.rate = 0 from device 1 to device 0: accepted: a number"),
        (f"{TWO}[links]\nrate = [[0, 1]]\n", "links.rate = [0, 1] in row 0: 2 values; accepted: 1"),
        (f"{TWO}[links]\nrate = [[0]]\n", "links.rate = a matrix of 1 devices: accepted: of 2"),
        (f"{TWO}[links]\nenergy_per_bit = -1.0\n", "links.energy_per_bit = -1.0: accepted: a number > 0"),
    ],
)
def test_a_team_that_cannot_be_is_refused(trained: Path, tmp_path: Path, text: str, said: str) -> None:
    team = tmp_path / "team.toml"
    team.write_text(text, encoding="utf-8")
    assert said in refused("repurpose", trained, "--team", team, "--cost", 1.0, "--out", tmp_path / "plan")


def test_inference_refuses_what_is_not_of_the_plan(trained: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    assert called("repurpose", trained, "--workers", 2, "--cost", 1.0, "--out", plan).exit_code == 0
    assert "the plan is for 2; accepted: 2" in refused("infer", plan, "--workers", 3)
    save_file({"inputs": torch.zeros(2, 5)}, tmp_path / "narrow.safetensors")
    assert "inputs of shape (2, 5)" in refused("infer", plan, "--inputs", tmp_path / "narrow.safetensors")
    other = tmp_path / "other"
    run(SCENARIO | {"rounds": 1}, out=other, report=False)
    assert "model: its hash is" in refused("infer", plan, "--model", other)
    assert refused("infer", tmp_path).endswith(f"a plan lies in it; accepted: {plan}")
    assert "no plan here" in refused("infer", tmp_path / "parts")


def test_a_plan_is_checked_against_any_seed_of_a_run(tmp_path: Path) -> None:
    runs, plan = tmp_path / "run", tmp_path / "plan"
    run(SCENARIO | {"rounds": 1, "seeds": 2}, out=runs, report=False)
    assert called("repurpose", runs, "--seed", 1, "--workers", 2, "--cost", 1.0, "--out", plan).exit_code == 0
    assert called("infer", plan, "--batch", 100, "--model", runs, "--seed", 1).exit_code == 0
    assert "model: its hash is" in refused("infer", plan, "--model", runs)
    assert "seed = 1; accepted: with --model RUN only" in refused("infer", plan, "--seed", 1)


def test_a_plan_saved_in_python_is_run_by_the_command(tmp_path: Path) -> None:
    model, x = dense(), inputs(dense())
    made = repurpose(model, x, workers=2, communication_cost=0.01)
    save_plan(made, tmp_path / "plan")
    save_parts(made, tmp_path / "plan" / "parts")
    save_file({"inputs": x[:5]}, tmp_path / "plan" / "sample.safetensors")
    ended = called("infer", tmp_path / "plan", "--out", tmp_path / "outputs.safetensors")
    assert ended.exit_code == 0, ended.output
    found = load_file(tmp_path / "outputs.safetensors")["outputs"]
    assert torch.allclose(found, made.run(x[:5]), rtol=1e-5, atol=1e-5)
    assert part_path(tmp_path / "plan" / "parts", 1).is_file()


@pytest.mark.parametrize("command", ["repurpose", "infer"])
def test_an_interruption_is_said_and_leaves_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    plan = tmp_path / "plan"
    if command == "infer":
        assert called("repurpose", trained, "--workers", 2, "--cost", 1.0, "--out", plan).exit_code == 0
        monkeypatch.setattr("strategies.repurpose.processes._wait", interrupted)
        ended = called("infer", plan)
        assert ended.stderr == "fedmac: interrupted; there are no outputs\n"
        assert not [child for child in multiprocessing.active_children() if child.name.startswith("worker-")]
    else:
        monkeypatch.setattr("fedmac.repurposing.study.path", interrupted)
        ended = called("repurpose", trained, "--workers", 2, "--out", plan)
        assert ended.stderr.endswith("fedmac: interrupted; nothing was written\n")
        assert not plan.exists()
    assert ended.exit_code == 1


def test_a_model_without_classes_is_refused(tmp_path: Path) -> None:
    scenario = SCENARIO | {"rounds": 1, "model": {"name": "autoencoder", "hidden": [8, 4]}}
    scenario["training"] = {"learning_rate": 0.1, "full_batch": True, "loss": "reconstruction"}
    run(scenario, out=tmp_path / "run", report=False)
    assert "plans are judged by their accuracy" in refused("repurpose", tmp_path / "run", "--workers", 2)
