"""Flower's engine on a Ray cluster that is there already: it is used, gives the same rounds, and is left running."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import fedmac
from fedmac.engines.processes import Processes
from tests.fedmac.small_scenario import small

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(shutil.which("ray", path=str(Path(sys.executable).parent)) is None, reason="Ray is missing"),
]


@dataclass(frozen=True)
class Cluster:
    """A cluster of one machine."""

    address: str
    folder: Path

    @property
    def has_worked(self) -> bool:
        """Whether it started a worker for anybody."""
        return any(self.folder.glob("session_*/logs/worker-*"))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster; its sockets lie in a short path, as they must."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
    words += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
    # Ray's processes are found again by this mark in their environment, as those of our own engine are.
    mark = os.environ | {"FLWR_HOME": str(tmp_path / "cluster")}
    with (tmp_path / "ray.log").open("wb") as log:
        head = subprocess.Popen([str(ray), *words], env=mark, stdout=log, stderr=subprocess.STDOUT)
    processes = Processes(tmp_path / "cluster")
    processes.add(head.pid)
    try:
        _wait_for(port, tmp_path / "ray.log")
        yield Cluster(f"127.0.0.1:{port}", folder)
        assert head.poll() is None, "the cluster belongs to its owner"
    finally:
        processes.look()
        processes.stop()
        head.wait(timeout=10)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.2)


def test_a_run_on_a_cluster_equals_the_local_run_and_leaves_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    assert not cluster.has_worked
    scenario = small({"data.devices": 3}, rounds=2)
    there = fedmac.run(
        scenario,
        out=tmp_path / "there",
        engine="flower",
        settings={"engine.ray_address": cluster.address},
        report=False,
    )
    here = fedmac.run(scenario, out=tmp_path / "here", report=False)
    # float32 rounding, as in test_engines_agree.
    np.testing.assert_allclose(there.rounds["test_loss"], here.rounds["test_loss"], rtol=1e-6)
    assert cluster.has_worked
