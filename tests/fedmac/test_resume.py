"""A run that is cut off after any of its rounds and goes on ends as one that was never cut off, to the last bit."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import fedmac
from fedmac.checkpoint import Checkpoint, CheckpointFile
from strategies.names import STRATEGIES
from tests.fedmac.small_scenario import small
from tests.run_outcome import outcome

torch.set_num_threads(1)

ROUNDS = 3

SECOND_ORDER: dict[str, Any] = {
    "data.devices": 3,
    "data.samples_per_device": 30,
    "training.learning_rate": None,
    "training.l2": 1e-2,
    "uplink": {"kind": "ideal"},
    "power_control": {},
    "channel": {},
}
AIR: dict[str, Any] = SECOND_ORDER | {
    "uplink": {"code": "uncoded"},
    "power_control": {"energy_per_round": 1e6},
    "channel": {"fading": "rayleigh"},
}
PACKETS: dict[str, Any] = {
    "uplink": {"kind": "digital"},
    "power_control": {"power": 4.0},
    "codec": {"name": "dithered", "levels": 3},
}
DEADLINE: dict[str, Any] = {"link.deadline_s": 400.0, "link.retransmissions": 1}


def of_strategy(name: str) -> dict[str, Any]:
    """Changes with which the strategy runs on its own kind of link."""
    strategy = {"name": name}
    if STRATEGIES[name].second_order:
        return SECOND_ORDER | {"strategy": strategy}
    if STRATEGIES[name].on_clock:
        return {"strategy": strategy, "uplink": {"kind": "ideal"}, "power_control": {}, "channel": {}}
    own = {"strategy": strategy | ({"beta": 0.25} if name == "fedtrimmedavg" else {})}
    return (PACKETS if STRATEGIES[name].individual else {}) | own


MOMENTUM = {"name": "fedavgm", "server_momentum": 0.9, "server_learning_rate": 0.7}
PARTS: dict[str, dict[str, Any]] = {
    "momentum of the server": {"strategy": MOMENTUM},
    "devices sampled": {"strategy": {"name": "fedavg", "fraction_train": 0.5}},
    "momentum of devices": {"training.momentum": 0.5, "training.local_steps": 3},
    "mini-batches": {"training": {"learning_rate": 0.1, "local_epochs": 1, "batch_size": 16}},
    "error feedback of a code": {"uplink": {"code": "random-linear", "ratio": 0.25, "decoder": "projection",
                                            "error_feedback": True}},
    "error feedback in two workers": {"uplink": {"code": "random-mask", "ratio": 0.25, "decoder": "projection",
                                                 "error_feedback": True}, "engine.workers": 2},
    "sparse-amp": {"uplink": {"code": "sparse-amp", "ratio": 0.25}},
    "average power": {"power_control": {"name": "average-power", "power": 1.0}},
    "minimum power by cvxpy": {"power_control": {"name": "minimum-power", "power": 50.0, "mse": 0.2, "solver": "cvxpy",
                                                 "infeasible": "least-error"}},
    "minimum error by cvxpy": {"power_control": {"energy_per_round": 50.0, "solver": "cvxpy"}},
    "a plan": {"plan": {"name": "power-law", "every": 2}},
    "a plan of blocks": {"plan": {"blocks": True}, "model": {"name": "mlp"}},
    "fading from round to round": {"channel": {"fading": "gauss-markov", "correlation": 0.9}},
    "outages from round to round": {"impairments": {"availability": 0.6, "mean_outage": 2.0}},
    "error feedback of packets": PACKETS | {"codec": {"name": "sparse-binary", "fraction": 0.1, "error_feedback": 1.0}},
    "error feedback and lost packets": PACKETS | DEADLINE | {"power_control": {"power": 1.0}, "codec": {
        "name": "dithered", "levels": 3, "error_feedback": 1.0}, "link.name": "fixed-rate", "link.bits_per_use": 1.0},
    "adaptation": PACKETS | DEADLINE | {"link": {"packets": "least-error", "mean_bits": 3.0, "csi": "previous",
                                                 "outer_loop": True, "select": 3, "deadline_s": 4000.0,
                                                 "retransmissions": 1}},
    "nested codes": PACKETS | {"codec": {"name": "nested"}},
    "dingo over the air": AIR | {"strategy": {"name": "dingo"}},
    "dingo as published": AIR | {"strategy": {"name": "dingo", "over_the_air": "as-published"}},
    "dingo in a subspace": AIR | {"strategy": {"name": "dingo", "subspace": 0.3}},
    "giant over the air": AIR | {"strategy": {"name": "giant"}},
    "devices lost from dingo": AIR | {"strategy": {"name": "dingo"}, "impairments": {"availability": 0.7}},
    "a method that stops": SECOND_ORDER | {"strategy": {"name": "dingo", "gradient_tolerance": 0.1}},
    "an attacker in quarantine": PACKETS | {
        "attackers": {"count": 1, "kind": "scaled-update", "factor": 1e6},
        "trust": {"largest_norm_ratio": 5.0, "bad_replies": 1, "quarantine_rounds": 1}},
    "checkpoints now and then": {"strategy": MOMENTUM, "engine.checkpoint_every": 2},
}  # fmt: skip
if find_spec("dp_accounting"):
    PARTS["privacy accounted for"] = {
        "training.clip_norm": 1.0,
        "power_control": {"name": "full-power", "receive": "unbiased", "norms": "bound"},
        "channel": {"snr_db": 0.0},
        "privacy": {"delta": 1e-5},
    }
CASES = {f"strategy {name}": of_strategy(name) for name in STRATEGIES} | PARTS


class Cut(Exception):
    """In place of a crash."""


def cut_off(monkeypatch: pytest.MonkeyPatch, after: int, *, written: bool) -> None:
    """End the run when it is about to write the checkpoint of a round, or has just done so."""
    save = CheckpointFile.save

    def saving(self: CheckpointFile, checkpoint: Checkpoint) -> None:
        if checkpoint.round < after or written:
            save(self, checkpoint)
        if checkpoint.round == after:
            raise Cut

    monkeypatch.setattr(CheckpointFile, "save", saving)


def scenario_of(changes: dict[str, Any], **top: Any) -> dict[str, Any]:
    """The small scenario; a table given whole takes the place of its own, and a key that is None goes."""
    scenario = small({"data.samples_per_device": 40}, rounds=ROUNDS, **top)
    for key, value in changes.items():
        table, _, inner = key.partition(".")
        if inner:
            scenario[table] = scenario.get(table, {}) | {inner: value}
        else:
            scenario[table] = value
    return {
        table: {k: v for k, v in content.items() if v is not None} if isinstance(content, dict) else content
        for table, content in scenario.items()
    }


def run(scenario: dict[str, Any], out: Path, **options: Any) -> fedmac.Run:
    return fedmac.run(scenario, out=out, report=False, **options)


@pytest.fixture(autouse=True)
def _every_checkpoint_is_of_use() -> Iterator[None]:
    gc.freeze()  # Flower collects garbage whenever it reads a record, and there is much that is none
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(starts anew|no checkpoints).*")
        yield
    gc.unfreeze()


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_run_cut_off_after_each_round_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    scenario = scenario_of(changes)
    run(scenario, tmp_path / "whole")
    rounds = len(outcome(tmp_path / "whole")[0])
    assert rounds > 2, "too short to be cut off"
    every = scenario["engine"].get("checkpoint_every", 1)
    for round in range(every, rounds, every):
        with monkeypatch.context() as patch:
            cut_off(patch, round, written=round % 2 == 0)
            with pytest.raises(Cut):
                run(scenario, tmp_path / "cut", resume=round > every)
    run(scenario, tmp_path / "cut", resume=True)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
