"""A scenario of a system of small devices, and its rounds."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmac.record import MEASURED, read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from fedmac.scenario_merge import merge, nest

SMALL: dict[str, Any] = {
    "name": "systems",
    "rounds": 3,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "uplink": {"kind": "ideal"},
    "strategy": {"name": "asynchronous", "server_learning_rate": 0.25},
    "devices": {"profiles": ["flagship-phone", "microcontroller"], "jitter": 0.2},
    "engine": {"workers": 1},
}
SYSTEMS = ("synchronous", "asynchronous", "stale-synchronous", "fedbuff")


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    return merge(copy.deepcopy(SMALL), nest(dict(changes)))


def rounds_of(folder: Path, changes: Mapping[str, Any], **given: Any) -> list[dict[str, Any]]:
    run(Scenario.load(changed(changes)), out=folder, report=False, **given)
    return read_rounds(folder / "rounds.jsonl")


def simulated(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rounds without what this machine's speed is in; time and computing are simulated."""
    real = set(MEASURED) - {"clock_s", "compute_s"}
    return [{key: value for key, value in record.items() if key not in real} for record in rounds]
