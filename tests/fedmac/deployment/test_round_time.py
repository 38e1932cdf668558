"""The benchmark of a round in a deployment: its parts make the whole. No figure itself is tested."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("deployment")


def test_the_parts_of_a_round_make_the_whole_and_are_those_of_its_slowest_device(benchmark: ModuleType) -> None:
    rows = [
        {"round": round, "device": device} | dict.fromkeys(benchmark.PARTS, seconds)
        for round, device, seconds in ((2, 0, 1.0), (2, 1, 2.0), (3, 0, 2.0), (3, 1, 0.5))
    ]
    parts = benchmark.shares([20.0, 22.0], rows)
    assert sum(parts.values()) == pytest.approx(21.0)
    assert [parts[name] for name in benchmark.PARTS] == [2.0] * len(benchmark.PARTS)
    assert parts[benchmark.REST] == pytest.approx(21.0 - 2.0 * len(benchmark.PARTS))


def test_the_workload_is_a_scenario(benchmark: ModuleType) -> None:
    scenario = benchmark.make_scenario(3, 5)
    assert (scenario.data.devices, scenario.rounds) == (3, 5)
