"""Objectives are recorded where they are asked for, and their gaps are measured from the optimum."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression

import fedmac
from fedmac.build_devices import build_workplace
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from tests.fedmac.command_line import Command
from tests.fedmac.small_scenario import VARIANTS, small, write

L2 = 0.01
CONVEX: dict[str, Any] = {
    "data.test_fraction": 0.2,  # 1,438 rows: 719 on each of two devices
    "data.devices": 2,
    "model.bias": False,
    "training.l2": L2,
    "training.dtype": "float64",
}


def test_the_optimum_is_that_of_scikit_learn() -> None:
    scenario = Scenario.load(small(CONVEX))
    (found,) = fedmac.optimum(scenario)
    work = build_workplace(scenario, 0)
    pooled = work.data.train
    # Its penalty is ||w||^2 / 2 against C times the sum of the losses.
    model = LogisticRegression(C=1 / (L2 * len(pooled)), fit_intercept=False, tol=1e-10, max_iter=2000)
    model.fit(pooled.inputs.numpy(), pooled.targets.numpy())
    w = torch.from_numpy(model.coef_.reshape(-1))
    value, gradient = work.mean_objective().value_and_gradient(w)
    # Near the optimum f - f* <= ||gradient||^2 / (2 l2), whichever search stopped earlier.
    norm = max(float(gradient.norm()), found.gradient_norm)
    assert norm < 1e-4
    assert found.objective == pytest.approx(value, abs=norm**2 / L2)
    assert found.variants == ("small",)


def test_dingo_gets_to_the_optimum_and_records_the_gap(tmp_path: Path) -> None:
    settings = CONVEX | {"strategy.name": "dingo", "strategy.theta": 1e-4, "uplink.kind": "ideal", "rounds": 12}
    content = small(settings) | {"training": {"l2": L2, "dtype": "float64"}}
    (found,) = fedmac.optimum(content)
    watched = Scenario.load(content, {"evaluation.objective": True, "evaluation.optimum": found.objective})
    rounds = fedmac.run(watched, out=tmp_path / "run").rounds
    assert rounds["objective_gap"].iloc[0] == pytest.approx(math.log(10) - found.objective, rel=1e-12)
    assert abs(rounds["objective_gap"].iloc[-1]) < 1e-8
    assert rounds["train_gradient_norm"].iloc[-1] < 1e-5
    # What the strategy says of the iterate where an iteration began is what the round before was evaluated at.
    torch.testing.assert_close(
        torch.tensor(rounds["objective"].iloc[1:].to_numpy(dtype=float)),
        torch.tensor(rounds["train_objective"].iloc[:-1].to_numpy(dtype=float)),
        rtol=1e-12,
        atol=0.0,
    )


def test_first_order_methods_lower_the_same_objective(tmp_path: Path) -> None:
    watched = small(CONVEX | {"evaluation.objective": True, "uplink.kind": "ideal"})
    rounds = fedmac.run(watched, out=tmp_path / "run").rounds
    assert rounds["train_objective"].is_monotonic_decreasing
    assert rounds["train_gradient_norm"].notna().all()
    assert "objective_gap" not in rounds


def test_variants_that_minimise_the_same_share_an_optimum(fedmac: Command, tmp_path: Path) -> None:
    variants = [*VARIANTS, {"name": "stiff", "training": {"l2": 0.1}}]
    told = fedmac("optimum", write(tmp_path, small(CONVEX, variants=variants))).out.splitlines()
    assert [line.split("  ")[-1] for line in told] == ["rlc, ideal", "stiff"]
    assert float(told[0].split()[0]) < float(told[1].split()[0]), "a larger l2 costs more"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluation.optimum": 0.2}, "evaluation.optimum = 0.2: objective is not recorded"),
        ({"evaluation.objective": 1}, "evaluation.objective = 1"),
        ({"evaluation.objective": True, "evaluation.optimum": math.nan}, "evaluation.optimum = nan"),
    ],
)
def test_what_cannot_be_recorded_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says.replace(".", r"\.")):
        Scenario.load(small(changes))


def test_a_model_with_running_averages_has_no_objective_of_its_parameters_alone(tmp_path: Path) -> None:
    changes = {"model.name": "tests.fedmac.test_optimum:normalised", "evaluation.objective": True}
    with pytest.raises(ScenarioError, match=r"state that is not trained.*evaluation\.objective = true"):
        fedmac.run(small(changes), out=tmp_path / "run")


def normalised(input_shape: tuple[int, ...], num_classes: int) -> torch.nn.Module:
    width = math.prod(input_shape)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, num_classes))
