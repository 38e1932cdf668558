"""An autoencoder by the command line: it learns, with first- and second-order strategies, and no page needs classes."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmac.build import rehearse
from fedmac.build_devices import build_workplace
from fedmac.record import read_rounds
from fedmac.runs import Run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge, nest
from fedmac.studies.compare.comparison import compare
from fedmac.studies.sweep.folder import State
from fedmac.studies.sweep.grid import check_grid
from fedmac.studies.sweep.start import plan_sweep
from fedmac.studies.sweep.table import SweepTable
from fedmac.studies.sweep.view import outcome_table
from fedmac.studies.tune.perform import tune
from tests.fedmac.command_line import Command, narrow, one_line
from tests.fedmac.small_scenario import small, write

AUTOENCODER: dict[str, Any] = {
    "name": "autoencoder",
    "rounds": 4,
    "data": {"source": "digits", "devices": 3},
    "model": {"name": "autoencoder", "hidden": [8]},
    "training": {"loss": "reconstruction", "learning_rate": 0.01, "batch_size": 8},
    "uplink": {"kind": "ideal"},
    "engine": {"workers": 1},
}
TWO = [{"name": "slow"}, {"name": "fast", "training": {"learning_rate": 0.05}}]


def changed(changes: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """The scenario with dotted keys and top-level keys changed."""
    return merge(copy.deepcopy(AUTOENCODER), nest(changes or {}) | top)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fedavg_lowers_the_reconstruction_loss(fedmac: Command, tmp_path: Path, dtype: str) -> None:
    ended = fedmac("run", write(tmp_path, changed({"training.dtype": dtype})), "--no-report")
    assert (ended.code, ended.err) == (0, "")
    losses = [line["test_loss"] for line in read_rounds(Path("runs/autoencoder/rounds.jsonl"))]
    assert len(losses) == 5
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dingo_lowers_the_objective_of_an_autoencoder_in_each_iteration(
    fedmac: Command, tmp_path: Path, dtype: str
) -> None:
    """A line says the objective where its iteration began, so that four lines hold three iterations.

    What DINGO vouches for is the gradient's norm; in the first iterations, far from any stationary point and with
    solves cut short, the objective falls with it.
    """
    scenario = AUTOENCODER | {
        "training": {"loss": "reconstruction", "l2": 1e-3, "dtype": dtype},
        "strategy": {"name": "dingo", "inner_iterations": 5},
    }
    ended = fedmac("run", write(tmp_path, scenario), "--no-report")
    assert (ended.code, ended.err) == (0, "")
    lines = read_rounds(Path("runs/autoencoder/rounds.jsonl"))[1:]
    assert len(lines) == 4
    for figure in ("objective", "gradient_norm", "test_loss"):
        assert all(after[figure] < before[figure] for before, after in itertools.pairwise(lines)), figure


def test_the_objective_of_a_device_is_the_loss_that_it_trains() -> None:
    scenario = changed({"training.dtype": "float64", "training.full_batch": True})
    work = build_workplace(Scenario.load(scenario), 0)
    start = work.trainer.state.clone()
    objective = work.objective(1)
    value, gradient = objective.value_and_gradient(start)
    state, examples, loss = work.train(start, 1, {})
    # Sums of 479 x 64 terms in float64.
    assert (loss, examples) == (pytest.approx(value, rel=1e-12), 479)
    torch.testing.assert_close(state, start - 0.01 * gradient, rtol=1e-12, atol=1e-12)


def test_no_figure_is_called_accuracy_where_there_are_no_classes(fedmac: Command, tmp_path: Path) -> None:
    scenario = changed({"data.validation_fraction": 0.1}, variants=TWO, rounds=2)
    ended = fedmac("run", write(tmp_path, scenario), "--seeds", 2, "--no-report")
    assert (ended.code, ended.err) == (0, "")
    assert "loss" in ended.out
    assert "accuracy" not in ended.out
    assert narrow(ended.out)
    lines = read_rounds(Path("runs/autoencoder/slow/rounds.jsonl"))
    assert all({"test_loss", "validation_loss"} <= line.keys() for line in lines)
    assert not any("accuracy" in key for line in lines for key in line)
    assert fedmac("report", "runs/autoencoder").code == 0
    page = Path("runs/autoencoder/report.html").read_text(encoding="utf-8")
    assert "Lowest test loss: fast" in page
    assert "<h2>Test loss</h2>" in page
    assert "<h2>Test accuracy</h2>" not in page
    run = Run("runs/autoencoder")
    assert run.plot().layout.yaxis.title.text == "test loss"
    assert run.model is not None


def test_runs_without_accuracy_are_compared_by_their_test_loss(fedmac: Command, tmp_path: Path) -> None:
    assert fedmac("run", write(tmp_path, changed(variants=TWO)), "--no-report").code == 0
    ended = fedmac("compare", "runs/autoencoder")
    assert ended.code == 0
    assert "fast is lower than slow" in one_line(ended.out)
    assert compare(["runs/autoencoder"]).y == "test_loss"


def test_the_best_cell_of_a_sweep_is_that_of_the_least_loss(tmp_path: Path) -> None:
    grid = check_grid({"training.learning_rate": [0.01, 0.02, 0.03]})
    table = SweepTable(plan_sweep(AUTOENCODER, grid, settings={}, out=tmp_path))
    for (cell, seed), loss in zip(table.sweep.jobs, (0.5, None, 0.25), strict=True):
        table.update(cell, seed, State("missing"))
        figures = {"status": "done", "test_accuracy": None, "test_loss": loss}
        table.rows[cell.name, seed] = [row | figures for row in table.rows[cell.name, seed]]
    outcomes = table.outcomes()
    assert [(outcome.merit, outcome.mean) for outcome in outcomes[:2]] == [("test_loss", 0.25), ("test_loss", 0.5)]
    assert outcomes[2].mean is None  # diverged
    headings = [str(column.header) for column in outcome_table(table.sweep, outcomes).columns]
    assert headings == ["learning_rate", "seeds", "loss", "uses", "energy"]


def test_tuning_asks_for_the_validation_loss(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, changed(rounds=1))
    over = ("--over", "training.learning_rate=0.001,0.05", "--seeds", 1, "--jobs", 1)
    ended = fedmac("tune", path, *over)
    assert ended.code == 2
    assert one_line(ended.err).strip() == (
        "fedmac: metric = 'validation_accuracy': training.loss = \"reconstruction\" has no accuracy; "
        "accepted: validation_loss"
    )
    assert not Path("runs").exists()
    assert fedmac("tune", path, *over, "--metric", "validation_loss").code == 0
    tuned = tune(path, {"training.learning_rate": [0.001, 0.05]}, seeds=1, jobs=1, metric="validation_loss")
    assert tuned.best["autoencoder"] == {"training.learning_rate": 0.05}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"training.loss": "reconstruction"},
            'model.name = "softmax": 10 outputs, but training.loss = "reconstruction" compares them with the 64 '
            'inputs; accepted: "autoencoder", or a package.module:factory with 64 outputs',
        ),
        (
            {"training.loss": "reconstruction", "model.name": "cnn"},
            'model.name = "cnn": 10 outputs, but training.loss = "reconstruction"',
        ),
        (
            {"model.name": "autoencoder"},
            'model.name = "autoencoder": gives back its input, but training.loss = "cross-entropy" needs scores of '
            'classes; accepted: "softmax", "mlp", "cnn", or training.loss = "reconstruction"',
        ),
        (
            {"training.loss": "squared"},
            'training.loss = \'squared\': accepted: "cross-entropy", "reconstruction"',
        ),
        (
            {"model.name": "mlp", "model.activation": "gelu"},
            "model.activation = 'gelu' is not known; accepted: relu, tanh, softplus",
        ),
    ],
)
def test_a_model_that_does_not_go_with_the_loss_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        rehearse(Scenario.load(small(changes)))
    assert words in str(refused.value)


FACTORIES = """
from torch import nn

def images(input_shape, num_classes):
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 1, 3, padding=1))

def other_inputs(input_shape, num_classes):
    return nn.Linear(63, 64)
"""


def test_a_factory_of_the_right_size_is_an_autoencoder_whatever_shape_it_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_autoencoders.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    own = changed(model={"name": "own_autoencoders:images"})
    rehearse(Scenario.load(own))
    work = build_workplace(Scenario.load(own), 0)
    before = work.trainer.state.clone()
    state, _, _ = work.train(before, 0, {})
    assert not state.equal(before)
    own["model"]["name"] = "own_autoencoders:other_inputs"
    with pytest.raises(ScenarioError, match=r'model\.name = "own_autoencoders:other_inputs": cannot take a row'):
        rehearse(Scenario.load(own))
