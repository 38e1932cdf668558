"""A server and its workers on a deployment of real processes: nobody waits for a device that is gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.deployed_run import finished, records, start_run
from tests.end_to_end.federation import Federation, wait_for, workers_of

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]

SCENARIO = """
name = "without a barrier"
rounds = 5
data = { source = "digits", devices = 3, partition = "dirichlet", alpha = 1.0 }
training = { learning_rate = 0.1, local_epochs = 1 }
uplink = { kind = "ideal" }
strategy = { name = "asynchronous", server_learning_rate = 0.3 }
engine = { nodes_timeout_s = 60 }
"""
"""A step of a device takes more than the three seconds between two of its looks for a message. So two devices need more
for the last four rounds, of three steps each, than the twenty seconds after which the third is known to be gone."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A server and two devices; the third is each test's own."""
    federation = Federation(tmp_path_factory.mktemp("federation"), devices=3)
    try:
        federation.start_server()
        for device in (0, 2):
            federation.start_device(device)
        yield federation
    finally:
        federation.stop()


def start_and_kill(federation: Federation, scenario: str, folder: Path) -> subprocess.Popen[str]:
    """Start a run with three devices, and kill one of them while it trains."""
    federation.wait_until_online(2)
    federation.start_device(1, "-m", "tests.end_to_end.brisk_device", str(federation.folder), "1")
    federation.wait_until_online(3)
    (folder / "scenario.toml").write_text(scenario)
    run, killed = start_run(folder / "scenario.toml", federation, folder / "out"), federation.devices[1]
    wait_for(lambda: bool(records(folder / "out")) or run.poll() is not None, 240, "round 0")
    wait_for(lambda: bool(workers_of(killed)) or run.poll() is not None, 120, "a process that trains")
    killed.kill()
    return run


def failures(rounds: list[dict[str, Any]]) -> set[tuple[int, str]]:
    """Which devices failed, and how."""
    return {(failure["device"], failure["kind"]) for record in rounds[1:] for failure in record["failures"]}


def test_an_asynchronous_server_goes_on_without_a_device_that_is_killed_at_work(
    federation: Federation, tmp_path: Path
) -> None:
    run = start_and_kill(federation, SCENARIO, tmp_path)
    code, said = finished(run, 600)
    assert code == 0, said
    rounds = records(tmp_path / "out")
    assert [record["round"] for record in rounds] == list(range(6))
    # A round has as many updates as there were devices, whoever they come from, and each of them moves the model.
    assert [record["accepted"] for record in rounds[1:]] == [3] * 5
    assert [record["model_version"] for record in rounds[1:]] == [3, 6, 9, 12, 15]
    assert rounds[-1]["connected"] == 2
    assert failures(rounds) == {(1, "no-reply")}
    assert rounds[-1]["test_loss"] < rounds[0]["test_loss"]


@pytest.mark.skipif("FEDMAC_FAULTS" not in os.environ, reason="a minute more of waiting: make faults")
def test_a_synchronous_server_that_waits_for_a_device_that_was_killed_goes_on_once_it_is_back(
    federation: Federation, tmp_path: Path
) -> None:
    waits = SCENARIO.replace("rounds = 5", "rounds = 2")
    waits = waits.replace('"asynchronous", server_learning_rate = 0.3', '"synchronous", on_lost = "wait"')
    run = start_and_kill(federation, waits, tmp_path)
    federation.wait_until_online(2)
    before = len(records(tmp_path / "out"))
    federation.start_device(1)
    code, said = finished(run, 600)
    assert code == 0, said
    rounds = records(tmp_path / "out")
    assert [record["round"] for record in rounds] == [0, 1, 2]
    assert before < len(rounds)
    assert [(record["accepted"], record["connected"]) for record in rounds[1:]] == [(3, 3), (3, 3)]
    assert failures(rounds) == {(1, "no-reply")}
