"""Restructures a trained model along the communication cost, compares with baselines, and leaves a plan folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from fedmac.repurposing.trained_model import TrainedModel
from strategies.repurpose.accounts import Accounts, account
from strategies.repurpose.baselines import direct, naive, sparse
from strategies.repurpose.calibration import Calibration, calibrate
from strategies.repurpose.front import Point, accuracy_on, judge_model, path, point_at, search
from strategies.repurpose.method import Method
from strategies.repurpose.part_file import save_parts
from strategies.repurpose.plan import Plan
from strategies.repurpose.plan_file import save_plan
from strategies.repurpose.workers import Links, Worker

SAMPLE = "sample.safetensors"
SAMPLE_ROWS = 100
"""Inputs that lie beside a plan, for `fedmac infer`."""


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan: at most one of these; without any, the path's most accurate plan.

    Attributes
    ----------
    max_drop : float, optional
        Largest drop of accuracy.
    max_sends : int, optional
        Most activations sent for one input.
    cost : float, optional
        The communication cost itself.
    """

    max_drop: float | None = None
    max_sends: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a plan with its accuracies and costs."""

    name: str
    plan: Plan
    accounts: Accounts
    judged: float
    test: float | None
    latency: float
    energy: float


@dataclass(frozen=True)
class Study:
    """All that was found: the path, the pick and the baselines (naive first, which answers as the model does)."""

    trained: TrainedModel
    calibration: Calibration
    team: Sequence[Worker]
    links: Links
    points: list[Point]
    picked: Entry
    baselines: list[Entry]


def study(
    trained: TrainedModel,
    team: Sequence[Worker],
    links: Links,
    wish: Wish,
    *,
    points: int,
    note: Callable[[Point], None],
    method: Method,
) -> Study:
    """Search, and judge the pick beside the baselines.

    Parameters
    ----------
    trained, team, links, wish
    points : int
        Of the path.
    note : callable
        Told each point as it is found.
    method : Method
    """
    calibration = calibrate(trained.model, trained.calibration.inputs)
    judge = accuracy_on(trained.judged.inputs, trained.judged.targets)
    if wish.cost is not None:
        best = point_at(calibration, team, judge, wish.cost, links, method)
        found = [best]
        note(best)
    elif wish.max_drop is None and wish.max_sends is None:
        found = path(calibration, team, judge, points=points, links=links, note=note, method=method)
        best = max(found, key=lambda p: (p.accuracy, -p.accounts.sends))
    else:
        found, best = search(
            calibration,
            team,
            judge,
            max_drop=wish.max_drop,
            max_sends=wish.max_sends,
            points=points,
            links=links,
            note=note,
            method=method,
        )
    kept = {name: int(layer.kept.sum()) for name, layer in best.plan.layers.items()}
    others = {"naive": naive(calibration, team), "direct": direct(calibration, team)}
    others["sparse"] = sparse(calibration, team, kept)
    entries = [_entry(name, plan, trained, team, links) for name, plan in others.items()]
    return Study(
        trained, calibration, team, links, found, _entry("repurposed", best.plan, trained, team, links), entries
    )


def model_accuracy(found: Study) -> float:
    """Accuracy of the model itself on the rows that plans are judged by."""
    return judge_model(found.calibration, accuracy_on(found.trained.judged.inputs, found.trained.judged.targets))


def front_table(found: Study) -> pd.DataFrame:
    """A row for each point of the path."""
    rows = [
        {
            "communication_cost": point.communication_cost,
            "sends": point.accounts.sends,
            "bytes": point.accounts.bytes,
            "accuracy": point.accuracy,
            "latency_s": point.latency,
            "energy_j": point.accounts.energy(found.team, found.links),
        }
        for point in found.points
    ]
    return pd.DataFrame(rows)


def write_study(found: Study, out: Path) -> None:
    """Write plan, parts, sample inputs and the table of the path into a folder."""
    picked = found.picked
    facts: dict[str, Any] = {
        "source": found.trained.source,
        "accuracy_judged": picked.judged,
        "accuracy_model": found.baselines[0].judged,
        "latency_s": picked.latency,
        "energy_j": picked.energy,
    }
    if picked.test is not None:
        facts["accuracy_test"] = picked.test
    save_plan(picked.plan, out, facts)
    save_parts(picked.plan, out / "parts")
    rows = found.trained.test if len(found.trained.test) else found.trained.judged
    sample = {"inputs": rows.inputs[:SAMPLE_ROWS].contiguous(), "targets": rows.targets[:SAMPLE_ROWS].contiguous()}
    save_file(sample, out / SAMPLE)
    front_table(found).to_csv(out / "front.csv", index=False)


def _entry(name: str, plan: Plan, trained: TrainedModel, team: Sequence[Worker], links: Links) -> Entry:
    counts = account(plan)
    test = accuracy_on(trained.test.inputs, trained.test.targets)(plan) if len(trained.test) else None
    judged = accuracy_on(trained.judged.inputs, trained.judged.targets)(plan)
    return Entry(name, plan, counts, judged, test, counts.latency(team, links), counts.energy(team, links))
