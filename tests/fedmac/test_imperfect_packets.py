"""What imperfect radios do to packets: what docs/radio.md says of each, and nothing where it says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedmac.record import read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import small

DIGITAL = {"uplink": {"kind": "digital"}, "channel": {"fading": "rayleigh", "snr_db": 10.0}}


def rounds_of(folder: Path, impairments: dict[str, float]) -> list[dict[str, Any]]:
    content = small(None, rounds=6) | DIGITAL
    content.pop("power_control")
    if impairments:
        content["impairments"] = impairments
    run(Scenario.load(content), out=folder, report=False)
    return read_rounds(folder / "rounds.jsonl")


def test_a_turned_phase_changes_nothing_of_packets(tmp_path: Path) -> None:
    plain, turned = rounds_of(tmp_path / "plain", {}), rounds_of(tmp_path / "turned", {"phase_error_deg": 5.0})
    for key in ("participants", "arrived", "test_loss", "channel_uses"):
        assert [one.get(key) for one in turned] == [one.get(key) for one in plain]
    assert turned[-1]["energies"] == pytest.approx(plain[-1]["energies"])  # |h e^jφ|² is |h|² to rounding


def test_interference_takes_from_the_rate_and_loses_no_packet(tmp_path: Path) -> None:
    plain, disturbed = rounds_of(tmp_path / "plain", {}), rounds_of(tmp_path / "disturbed", {"interference_db": 0.0})
    assert [one["participants"] for one in disturbed[1:]] == [4] * 6
    assert disturbed[-1]["air_time_s"] > plain[-1]["air_time_s"]
