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


def test_batches_of_devices_are_set_against_the_same_devices_one_by_one(report: ModuleType) -> None:
    timings = [
        report.Timing("local-1", "ideal", 100, [4.0]),
        report.Timing("local-1-batches", "ideal", 100, [1.0, 2.0, 9.0]),
        report.Timing("local-cuda", "ideal", 100, [8.0]),
        report.Timing("local-cuda-batches", "ideal", 1000, [1.0]),  # of this size nothing else was timed
    ]
    text = report.render(report.environment(), timings, [])
    assert "| FedMAC local, 1 worker | ideal | 100 | 2 : 4 | 0.5 |" in text
    assert "GPU, devices one by one | ideal | 1" not in text.split("devices in batches : one by one")[1]


def test_a_gpu_is_timed_both_with_devices_in_batches_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    subjects = importlib.import_module("subjects")
    plan = subjects.Plan(devices=(100,))
    found = subjects.list_subjects(plan, subjects.SKIPPABLE, cuda=True, pfl_python=None)
    ideal = {subject.timing.engine: subject.command for subject in found if subject.timing.uplink == "ideal"}
    assert ideal["local-cuda"][-4:] == ("--device", "cuda", "--batched-devices", "1")
    assert ideal["local-cuda-batches"][-2:] == ("--device", "cuda")  # as many as the engine takes by itself
    (on_cpu, _) = subjects.list_subjects(plan, subjects.SKIPPABLE, cuda=False, pfl_python=None, batch=16)
    assert on_cpu.timing.engine == "local-1-batches"
    assert on_cpu.command[-4:] == ("--device", "cpu", "--batched-devices", "16")


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
