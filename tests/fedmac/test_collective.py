"""Systems without a server as processes: the same models as on the simulated clock, also after a crash."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fedmac.engines import collective
from fedmac.engines.collective import check_backend, where_vectors_lie
from fedmac.engines.superlink import EngineError
from fedmac.record import read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
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

CPU = {"device": "cpu"}
ROOT = Path(__file__).resolve().parents[2]


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


TENSORS = """
import os
import sys
import torch
from fedmac import learn_collective
from fedmac.engines import collective

if "--resume" not in sys.argv:  # process 1 is gone in the sixth step of the second variant
    train = learn_collective.CollectivePart.step

    def step(part, peer, step, x):
        assert isinstance(x, torch.Tensor)
        assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
        if part.config["variant"] == "gossip" and (peer, step) == (1, 6):
            os._exit(9)
        return train(part, peer, step, x)

    learn_collective.CollectivePart.step = step
collective.where_vectors_lie = lambda variants: torch.device("cpu")
sys.exit(collective.main())
"""


def torchrun(processes: int, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Start so many processes on this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, *words], env=environment, timeout=200, check=False, capture_output=True, text=True)


def test_vectors_that_are_tensors_come_to_the_same_models_also_resumed(tmp_path: Path) -> None:
    """As between GPUs, here on the CPU: messages are exchanged in batches, and training is given tensors."""
    scenario = copy.deepcopy(SMALL) | {"rounds": 12, "engine": {"workers": 1, "checkpoint_every": 4}}
    run(Scenario.load(scenario), out=tmp_path / "local", report=False)
    script = tmp_path / "tensors.py"
    script.write_text(TENSORS, encoding="utf-8")
    words = [str(script), str(write(tmp_path, scenario)), "--out", str(tmp_path / "real")]
    for more in ([], ["--resume"]):
        done = torchrun(3, [*words, *more])
        assert "models go by gloo\n" in done.stdout
        assert (done.returncode == 0) == bool(more), done.stderr
        if not more:
            log = tmp_path / "said"
            log.write_text(re.sub("^fedmac: .*\n", "", done.stderr, flags=re.MULTILINE), encoding="utf-8")
            assert collective.last_words(log, 0) == "process 1 ended with exit code 9"
    for name in ("ring", "gossip", "elastic"):
        models = [load_file(tmp_path / kind / name / "model.safetensors") for kind in ("local", "real")]
        assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0]), name
        there, here = (read_rounds(tmp_path / kind / name / "rounds.jsonl") for kind in ("local", "real"))
        assert here[0]["backend"] == "gloo"
        assert here[-1]["bits_per_device_mean"] == there[-1]["bits_per_device_mean"]
        assert here[-1]["consensus_distance"] == there[-1]["consensus_distance"]


def test_nccl_without_gpus_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scenario = SMALL | {"engine": {"kind": "collective", "backend": "nccl"}, "training": SMALL["training"] | CPU}
    with pytest.raises(EngineError, match=r'engine.backend = "nccl": training is not on GPUs; accepted: .* or "gloo"'):
        run(Scenario.load(scenario), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nccl_with_fewer_gpus_than_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    scenario = Scenario.load(SMALL | {"engine": {"kind": "collective", "backend": "nccl"}})
    with pytest.raises(EngineError, match=r'"nccl": 3 processes, GPUs here: 2; accepted: a GPU for each process'):
        check_backend(scenario)
    assert where_vectors_lie(scenario.resolve()) == torch.device("cuda", 1)
    on_cpu, on_another = ({"training": SMALL["training"] | {"device": device}} for device in ("cpu", "cuda:0"))
    for other in ({"engine": {"kind": "collective", "backend": "gloo"}}, on_cpu, on_another):
        assert where_vectors_lie(Scenario.load(SMALL | other).resolve()) is None


def test_variants_that_are_not_to_run_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    variants = [*SMALL["variants"], {"name": "on a CPU", "training": CPU}, {"name": "many", "data": {"devices": 9}}]
    scenario = Scenario.load(SMALL | {"variants": variants, "engine": {"kind": "collective", "backend": "nccl"}})
    check_backend(scenario, ["ring", "gossip"])
    for only in ([], ["on a CPU"], ["many"]):
        with pytest.raises(EngineError):
            check_backend(scenario, only)


def test_a_variant_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert collective.main([str(write(tmp_path, SMALL)), "--only", "rign"]) == 1
    assert "only = 'rign': no such variant; accepted: ring, gossip, elastic" in capsys.readouterr().err


SMALLEST = SMALL | {"rounds": 2, "data": {"source": "digits", "devices": 2}}


def test_processes_that_have_no_gpu_of_their_own_refuse_nccl_and_write_nothing(tmp_path: Path) -> None:
    scenario = SMALLEST | {"training": SMALL["training"] | CPU, "engine": {"backend": "nccl"}}
    words = ["-m", "fedmac.engines.collective", str(write(tmp_path, scenario)), "--out", str(tmp_path / "run")]
    done = torchrun(2, words)
    assert done.returncode == 1
    assert 'fedmac: engine.backend = "nccl": peer 0 uses no GPU; accepted: a GPU for each process' in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_backend_is_the_collective_engines_alone() -> None:
    with pytest.raises(ScenarioError, match=r"engine.backend"):
        Scenario.load(SMALL | {"engine": {"backend": "gloo"}})


def test_another_number_of_processes_than_of_peers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert collective.main([str(write(tmp_path, SMALL)), "--out", str(tmp_path / "run")]) == 1
    assert 'variant "ring" has 3 peers, but torchrun has started 2 processes' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
