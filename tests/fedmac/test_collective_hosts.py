"""Systems without a server on several hosts, each with a torchrun of its own: here two of them on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from fedmac.engines.superlink import free_port
from fedmac.record import read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import write

SMALL: dict[str, Any] = {
    "name": "hosts",
    "rounds": 8,
    "data": {"source": "digits", "devices": 4, "partition": "dirichlet", "alpha": 0.5},
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "uplink": {"kind": "ideal"},
    "strategy": {"name": "gossip", "graph": "ring"},
    "evaluation": {"every": 4},
    "engine": {"workers": 1, "checkpoint_every": 4},
    "variants": [
        {"name": "gossip"},
        {"name": "elastic", "strategy": {"name": "elastic-averaging"}},
    ],
}

ROOT = Path(__file__).resolve().parents[2]


def test_two_hosts_of_two_processes_come_to_the_simulated_models_and_process_0_alone_writes_on_its_host(
    tmp_path: Path,
) -> None:
    run(Scenario.load(SMALL), out=tmp_path / "local", report=False)
    hosts = [tmp_path / "a host", tmp_path / "another host"]
    for host in hosts:
        host.mkdir()
    with launched(write(tmp_path, SMALL), hosts) as launchers:
        codes = [launcher.wait(timeout=300) for launcher in launchers]
    said = "\n".join((host / "log").read_text(errors="replace") for host in hosts)
    assert codes == [0, 0], said
    # Which of them gets process 0, the hosts settle among themselves.
    (out,) = (host / "run" for host in hosts if (host / "run").exists())
    for name in ("gossip", "elastic"):
        models = [load_file(folder / name / "model.safetensors") for folder in (tmp_path / "local", out)]
        assert models[0].keys() == models[1].keys()
        assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0]), name
        there, here = (read_rounds(folder / name / "rounds.jsonl") for folder in (tmp_path / "local", out))
        assert [record["round"] for record in here] == list(range(9))
        for number in (4, 8):  # the processes meet
            assert here[number]["connected"] == 4
            for key in ("train_loss", "test_loss", "consensus_distance"):
                assert here[number][key] == there[number][key], (name, key)
    assert (out / "summary.json").exists()


@contextmanager
def launched(scenario: Path, hosts: Sequence[Path]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A torchrun for each host, as its user calls it there; a host is a folder in which it writes ``run`` and ``log``.

    Whatever still runs at the end is ended.
    """
    words = ["--nnodes", str(len(hosts)), "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--local-addr", "127.0.0.1"]
    words += ["-m", "fedmac.engines.collective", str(scenario)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    launchers: list[subprocess.Popen[bytes]] = []
    try:
        for host in hosts:
            command = [sys.executable, "-m", "torch.distributed.run", *words, "--out", str(host / "run")]
            with (host / "log").open("wb") as log:
                both: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT}
                launchers.append(subprocess.Popen(command, cwd=host, env=environment, **both))
        yield launchers
    finally:
        for launcher in launchers:
            launcher.terminate()  # it ends its processes
        for launcher in launchers:
            end(launcher)


def end(launcher: subprocess.Popen[bytes]) -> None:
    """Wait for a launcher that was told to end, and kill one that does not."""
    try:
        launcher.wait(timeout=60)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()
