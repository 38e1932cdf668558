"""Error feedback on devices that are reached by message goes on after the server's crash, to the last bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clients.app import client_app, device_number
from clients.kept_residual import KeptResiduals, keeping_residuals
from fedmac.build_devices import build_workplace
from fedmac.checkpoint import Checkpoint
from fedmac.engines.local import LocalGrid
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import small
from tests.fleet import MessageGrid

ROUNDS = 6

FEEDBACK: dict[str, dict[str, Any]] = {
    "over the air": {
        "uplink": {"code": "random-linear", "ratio": 0.25, "decoder": "projection", "error_feedback": True}
    },
    "in packets that may be lost": {
        "uplink": {"kind": "digital"},
        "power_control": {"power": 4.0},
        "codec": {"name": "dithered", "levels": 3, "error_feedback": 0.9},
        "link": {"deadline_s": 400.0, "retransmissions": 1},
    },
    "over the air, a checkpoint every two rounds": {
        "uplink": {"code": "random-linear", "ratio": 0.25, "decoder": "projection", "error_feedback": True},
        "engine.checkpoint_every": 2,
    },
}


class Killed(Exception):
    """The server is no more."""


class Federation:
    """Devices with disks of their own, and the server's checkpoints; Flower's runs come and go."""

    def __init__(self, disk: Path, feedback: str) -> None:
        changes: dict[str, Any] = {"training.full_batch": True} | FEEDBACK[feedback]
        content = small(changes, rounds=ROUNDS)
        content |= {name: changes[name] for name in ("uplink", "power_control") if name in changes}
        self.scenario = Scenario.load(content)
        self.disk = disk
        self.checkpoints: list[Checkpoint] = []

    def run(self, past: Checkpoint | None = None, killed_in: int | None = None) -> NDArray[Any]:
        """The final model of a Flower run, in which all devices begin with an empty ``Context.state``."""
        work = build_workplace(self.scenario, 0)
        app = client_app(lambda _context, _config: work, [keeping_residuals(lambda: self.disk, device_number)])
        (variant,) = self.scenario.resolve()

        def note(record: dict[str, Any]) -> None:
            if record["round"] == killed_in:
                raise Killed  # devices have sent, and keep what that left over; the server remembers nothing of it

        def save(checkpoint: Checkpoint) -> None:
            self.checkpoints.append(copy.deepcopy(checkpoint))

        with LocalGrid(work, app) as inner:
            model = learn(LearningTask(variant, 0, work, note, past, save), MessageGrid(inner))
        return np.concatenate([array.reshape(-1) for array in model.values()])


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_a_resumed_run_ends_with_the_model_of_an_unbroken_one(feedback: str, tmp_path: Path) -> None:
    whole = Federation(tmp_path / "whole", feedback).run()
    broken = Federation(tmp_path / "broken", feedback)
    for killed_in in (3, 4):  # and again
        with pytest.raises(Killed):
            broken.run(broken.checkpoints[-1] if broken.checkpoints else None, killed_in)
    np.testing.assert_array_equal(broken.run(broken.checkpoints[-1]), whole)


def test_a_device_whose_disk_is_lost_starts_with_nothing_left_over(tmp_path: Path) -> None:
    broken = Federation(tmp_path / "broken", "over the air")
    with pytest.raises(Killed):
        broken.run(killed_in=4)
    broken.disk = tmp_path / "another"
    model = broken.run(broken.checkpoints[-1])
    assert np.isfinite(model).all()
    assert not np.array_equal(model, Federation(tmp_path / "whole", "over the air").run())


def test_devices_keep_no_more_than_a_resumed_run_can_ask_for(tmp_path: Path) -> None:
    Federation(tmp_path, "over the air").run()
    (run,) = tmp_path.iterdir()
    for device in range(4):
        assert KeptResiduals(tmp_path, run.name, device).numbers() == [ROUNDS - 1, ROUNDS]


def test_devices_without_error_feedback_keep_nothing(tmp_path: Path) -> None:
    FEEDBACK_NONE = {"uplink": {"code": "random-linear", "ratio": 0.25}}
    FEEDBACK["none"] = FEEDBACK_NONE
    try:
        Federation(tmp_path, "none").run()
    finally:
        del FEEDBACK["none"]
    assert list(tmp_path.iterdir()) == []
