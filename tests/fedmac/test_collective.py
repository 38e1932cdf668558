"""Systems without a server as processes: the same models as on the simulated clock, also after a crash."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedmac.engines import collective
from fedmac.record import read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import write
from tests.killer import Killed, Killer

SMALL: dict[str, Any] = {
    "name": "peers",
    "rounds": 60,
    "data": {"source": "digits", "devices": 3},
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "uplink": {"kind": "ideal"},
    "strategy": {"name": "ring-all-reduce"},
    "evaluation": {"every": 5},
    "variants": [
        {"name": "ring"},
        {"name": "gossip", "strategy": {"name": "gossip", "mode": "pull"}},
        {"name": "elastic", "strategy": {"name": "elastic-averaging", "every": 2}},
    ],
}


def test_processes_come_to_the_simulated_model_to_the_bit_also_where_a_run_was_cut_off(tmp_path: Path) -> None:
    scenario = copy.deepcopy(SMALL)
    run(
        Scenario.load(scenario | {"engine": {"workers": 1, "checkpoint_every": 0}}),
        out=tmp_path / "local",
        report=False,
    )
    scenario["engine"] = {"kind": "collective", "checkpoint_every": 1}
    with pytest.raises(Killed):
        run(Scenario.load(scenario), out=tmp_path / "real", report=False, progress=Killer(1))
    before = len(read_rounds(tmp_path / "real" / "ring" / "rounds.jsonl"))
    run(Scenario.load(scenario), out=tmp_path / "real", report=False, resume=True)
    assert before > 1
    for name in ("ring", "gossip", "elastic"):
        models = [load_file(tmp_path / kind / name / "model.safetensors") for kind in ("local", "real")]
        assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0]), name
        there, here = (read_rounds(tmp_path / kind / name / "rounds.jsonl") for kind in ("local", "real"))
        assert [record["round"] for record in here] == list(range(61))
        for one, other in zip(there[1:], here[1:], strict=True):
            assert one["train_loss"] == other["train_loss"]
            assert one["consensus_distance"] == other["consensus_distance"]
            assert one.get("test_loss") == other.get("test_loss")
        assert here[-1]["bits_per_device_mean"] == there[-1]["bits_per_device_mean"]
        clocks = [record["clock_s"] for record in here[1:]]
        assert clocks == sorted(clocks)
        assert 0 < here[-1]["compute_s"] < here[-1]["clock_s"]


def test_another_number_of_processes_than_of_peers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert collective.main([str(write(tmp_path, SMALL)), "--out", str(tmp_path / "run")]) == 1
    assert 'variant "ring" has 3 peers, but torchrun has started 2 processes' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
