"""The benchmark of the engines: that it runs and reads its figures rightly. No figure itself is tested."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("engines_report")


def test_a_quick_run_prints_every_row_and_writes_every_figure(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    small = ["--devices", "4", "--rounds", "2", "--skip", "flower,pfl,bare,memory,local-1"]
    command = [sys.executable, str(BENCHMARKS / "engines.py"), "--quick", *small, "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| 4 |")]
    assert [(row[1], row[2]) for row in rows] == [
        ("ideal", "FedMAC local, 2 workers"),
        ("RLC, Rayleigh", "FedMAC local, 2 workers"),
    ]
    assert [row[6:] for row in rows] == [["-", "1 |"]] * 2  # two workers take once as long as two workers
    timings = json.loads(figures.read_text())["timings"]
    assert [len(timing["seconds"]) for timing in timings] == [2, 2]
    assert all(second > 0 for timing in timings for second in timing["seconds"])


def test_ratios_are_of_medians_and_targets_are_judged_by_them(report: ModuleType) -> None:
    timings = [
        report.Timing("local-1", "ideal", 100, [2.0, 1.0, 9.0]),
        report.Timing("local-2", "ideal", 100, [1.0]),
        report.Timing("local-1", "rlc", 100, [2.6]),
        report.Timing("pfl", "ideal", 100, [5.0]),
        report.Timing("flower", "ideal", 100, [7.0]),
    ]
    memory = [report.Memory("ideal", 1000, 599_000_000), report.Memory("rlc", 1000, 601_000_000)]
    judged = {(target.what, target.verdict) for target in report.targets(timings, memory)}
    assert judged >= {
        ("pfl-research / FedMAC local, 1 worker, 100 devices", "met"),  # 2.5, 2 wanted
        ("pfl-research / FedMAC local, 2 workers, 100 devices", "met"),  # 5, 3.5 wanted
        ("Flower's engine / FedMAC local, 2 workers, 100 devices", "missed"),  # 7, 8 wanted
        ("Flower's engine / FedMAC local, 2 workers, 1000 devices", "not measured"),
        ("RLC, Rayleigh / ideal, FedMAC local, 1 worker, 100 devices", "missed"),  # 1.3, 1.25 wanted
        ("memory, ideal, 1000 devices", "met"),
        ("memory, RLC, Rayleigh, 1000 devices", "missed"),
    }


def test_a_timing_that_failed_keeps_its_row(report: ModuleType) -> None:
    facts = report.environment()
    text = report.render(facts, [report.Timing("pfl", "ideal", 100, failure="no end")], [])
    assert "| 100 | ideal | pfl-research, 1 process | failed |" in text


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="PSS is Linux's")
def test_peak_memory_counts_children_and_shared_pages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    memory = importlib.import_module("memory")
    # 100 MB shared by parent and child, and 50 MB of the child's own.
    program = "import os, time; a = b'1' * 100_000_000; pid = os.fork(); b = b'' if pid else b'2' * 50_000_000; "
    program += "time.sleep(0.5); pid and os.waitpid(pid, 0)"
    with subprocess.Popen([sys.executable, "-c", program], text=True) as process:
        peak = memory.peak_pss(process, timeout=20)
    # The interpreters themselves weigh 5 to 15 MB; without the child it would be 100 MB, counted twice 250 MB.
    assert 150e6 < peak < 180e6
