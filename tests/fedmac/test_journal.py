"""What a round's line says is the server's word, whatever devices call their metrics."""

from __future__ import annotations

from typing import Any

from fedmac.build_devices import build_workplace
from fedmac.journal import Journal
from fedmac.learning_task import LearningTask
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import small


def lines_of(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of round 0 and of a round of whose devices these are the mean metrics."""
    scenario = Scenario.load(small())
    (variant,) = scenario.resolve()
    lines: list[dict[str, Any]] = []
    task = LearningTask(variant, 3, build_workplace(scenario, 3), lines.append)
    journal = Journal(task, {"placement": "as it was"})
    journal.evaluate(0, task.initial())
    journal.note_exchange({"devices": [0], "participants": 1, "failures": [], "metrics": metrics})
    journal.evaluate(1, task.initial())
    return lines


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if not key.startswith("wall_")}


def test_a_device_s_metrics_are_in_the_line() -> None:
    line = lines_of({"num-examples": 7.0, "train_loss": 0.5, "temperature": 40.0})[1]
    assert (line["train_loss"], line["temperature"]) == (0.5, 40.0)
    assert "num-examples" not in line


def test_metrics_take_no_name_of_which_the_server_speaks() -> None:
    honest = lines_of({"train_loss": 0.5})
    names = ("variant", "seed", "round", "test_accuracy", "test_loss", "validation_loss", "parameters", "placement")
    forged = lines_of({"train_loss": 0.5} | dict.fromkeys((*names, "participants", "stopped", "spans"), 9.0))
    assert list(map(without_time, forged)) == list(map(without_time, honest))
