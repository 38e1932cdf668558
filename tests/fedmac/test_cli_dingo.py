"""DINGO by the command line: a scenario is all it takes to repeat a run of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedmac.record import read_rounds
from tests.fedmac.command_line import Command, one_line

REFERENCES = Path(__file__).parents[1] / "references" / "dingo"

PROBLEM_A: dict[str, Any] = {
    "name": "problem-a",
    "rounds": 10,
    "data": {
        "source": "mnist-5k", "shuffle_seed": 0, "partition": "contiguous", "devices": 5, "test_fraction": 0.0,
    },
    "model": {"name": "softmax", "bias": False, "init": "zeros"},
    "training": {"l2": 2e-7, "dtype": "float64"},
    "strategy": {"name": "dingo", "inner_iterations": 5},
    "uplink": {"kind": "ideal"},
    "engine": {"workers": 1},
}  # fmt: skip
"""5,000 rows on five devices, with the weight 1 / (n s_i) of the L2 term that the authors' code has."""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "problem-a.toml"
    path.write_text(tomli_w.dumps(PROBLEM_A))
    return path


def test_a_scenario_repeats_problem_a_of_the_reference(fedmac: Command, scenario: Path) -> None:
    ended = fedmac("run", scenario, "--no-report")
    assert (ended.code, ended.err) == (0, "")
    expected = json.loads((REFERENCES / "A_dingo_sub5.json").read_text())["rows"]
    rounds = read_rounds(Path("runs/problem-a/rounds.jsonl"))
    assert [line["round"] for line in rounds] == list(range(11))
    for line, made in zip(rounds[1:], expected[:-1], strict=True):
        assert line["iteration"] == made["iter"] == line["round"] - 1
        assert (line["case"], line["step_size"]) == (made["case"], made["alpha"])
        assert line["objective"] == pytest.approx(made["f"], rel=1e-7)
        assert line["gradient_norm"] == pytest.approx(made["gnorm"], rel=1e-7)
    # Rounds before w_t is the iterate: 0, then one more than four an iteration.
    assert [line["communication_rounds"] for line in rounds[1:]] == [0, *range(5, 41, 4)]


def test_a_run_is_the_same_for_every_number_of_workers(fedmac: Command, scenario: Path) -> None:
    figures = []
    for workers in (1, 2):
        short = ["--set", "rounds=2", "--set", "data.source=digits", "--no-report", "--out", f"out{workers}"]
        assert fedmac("run", scenario, *short, "--workers", workers).code == 0
        lines = read_rounds(Path(f"out{workers}/rounds.jsonl"))
        figures.append([(line["objective"], line["gradient_norm"], line["vectors_up"]) for line in lines[1:]])
    assert figures[0] == figures[1]


def test_dingo_is_listed_with_what_sets_it_apart(fedmac: Command) -> None:
    assert "dingo Newton-type, lowers the gradient's norm; no learning rate" in one_line(
        fedmac("list", "strategies").out
    )


OUT_OF_ORDER = """
from torch import nn

class Network(nn.Linear):
    def forward(self, inputs):
        raise ValueError("the sensor is out of order")

def network(input_shape, num_classes):
    return Network(64, num_classes).double()
"""


def test_a_run_in_which_nobody_answers_ends_with_the_devices_reason(
    fedmac: Command, scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every device fails at its first message; the server itself has no rows to look at."""
    (tmp_path / "own_networks.py").write_text(OUT_OF_ORDER)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"source": "digits", "devices": 3, "test_fraction": 0.0}
    scenario.write_text(tomli_w.dumps(PROBLEM_A | {"model": {"name": "own_networks:network"}, "data": data}))
    ended = fedmac("run", scenario, "--no-report")
    assert ended.code == 1
    assert "DINGO: none of 3 devices answered to 'gradient': ValueError: the sensor" in one_line(ended.err)
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("strategy.exchange=oficial", "strategy.exchange = 'oficial': accepted: lean, official"),
        ("training.learning_rate=0.1", 'training.learning_rate = 0.1: has no meaning with strategy.name = "dingo"'),
        ("strategy.line_search_steps=0", "strategy.line_search_steps = 0: accepted: an integer >= 1"),
        ("strategy.name=fedavg", "training.learning_rate: missing"),
    ],
)
def test_what_dingo_does_not_take_is_refused_before_anything_starts(
    fedmac: Command, scenario: Path, setting: str, words: str
) -> None:
    ended = fedmac("run", scenario, "--set", setting)
    assert ended.code == 2
    assert words in one_line(ended.err)
    assert not Path("runs").exists()
