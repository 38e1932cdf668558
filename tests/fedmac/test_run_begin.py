"""A log says of a run whether it begins or goes on, and with how much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedmac
from fedmac.logs import log_to
from tests.fedmac.small_scenario import VARIANTS, small

STARTS = ("run_started", "run_resumed")


def starts(log: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in events if event["event"] in STARTS]


def run(folder: Path, log: Path, **more: Any) -> dict[str, Any]:
    with log_to(log, "json"):
        fedmac.run(small(variants=VARIANTS), out=folder, report=False, **more)
    return starts(log)[-1]


def test_a_new_run_begins(tmp_path: Path) -> None:
    event = run(tmp_path / "r", tmp_path / "log")
    assert (event["event"], event["message"]) == ("run_started", f"the run in {tmp_path / 'r'} begins")


def test_a_run_that_is_done_resumes_with_all_its_rounds(tmp_path: Path) -> None:
    run(tmp_path / "r", tmp_path / "log")
    event = run(tmp_path / "r", tmp_path / "log", resume=True)
    assert (event["event"], event["rounds_found"]) == ("run_resumed", 8)
    assert event["message"].endswith("resumes: 8 rounds are in its record; 2 of 2 are done")


class CutOff(Exception):
    """The command is killed."""


class CutsOff:
    """What is shown of a run, until its round 2: that has been recorded, and has no checkpoint yet."""

    def begin(self, _jobs: object) -> None:
        """Show nothing."""

    def note(self, record: dict[str, Any]) -> None:
        if record["round"] == 2:
            raise CutOff

    def end(self) -> None:
        """Show nothing."""


def test_a_run_that_was_cut_off_resumes_after_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CutOff):
        run(tmp_path / "r", tmp_path / "log", progress=CutsOff())
    event = run(tmp_path / "r", tmp_path / "log", resume=True)
    assert (event["event"], event["rounds_found"]) == ("run_resumed", 2)
    assert event["message"].endswith("resumes: 2 rounds are in its record; 0 of 2 are done; rlc (seed 0) after round 1")
