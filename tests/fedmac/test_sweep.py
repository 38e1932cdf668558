"""Sweeps: every cell and seed once, whatever fails, and gone on with after any end."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from torch import nn

from fedmac import record
from fedmac.engines.processes import process_table
from fedmac.record import MEASURED, FolderInTheWay
from fedmac.runs import Run
from fedmac.runs import run as run_scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.studies.sweep import perform as module
from fedmac.studies.sweep.folder import State, Sweep, is_sweep, read_sweep
from fedmac.studies.sweep.grid import check_grid
from fedmac.studies.sweep.perform import job_of, sweep, sweep_settings
from fedmac.studies.sweep.plan import estimate
from fedmac.studies.sweep.progress import SweepProgress
from fedmac.studies.sweep.start import locked, plan_sweep, write_sweep_folder
from fedmac.studies.sweep.table import SweepTable
from fedmac.studies.sweep.view import outcome_table
from fedmac.studies.task import Task
from tests.fedmac.command_line import Command, drawn, narrow
from tests.fedmac.small_scenario import VARIANTS, small, write
from tests.interruptible import interruptible

ROOT = Path(__file__).resolve().parents[2]
GRID = {"uplink.ratio": [0.25, 0.5]}
SCENARIO = small(variants=VARIANTS)


def model_with_a_fate(input_shape: Sequence[int], num_classes: int, fate: str) -> nn.Module:
    """A model that brings about what its name says, in the process of a job only."""
    if fate == "noisy":
        print("a job that prints")
    if Path("/proc/self/fd/1").resolve().suffix == ".log":
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fate == "raises":
            raise ZeroDivisionError("by fate")
        if fate == "exits":
            os._exit(7)
        if fate == "full_disk":
            record.os.write = _no_space  # type: ignore[attr-defined]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def _no_space(_file: int, _data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two cells of two variants under two seeds; to be left as it is."""
    return sweep(SCENARIO, grid=GRID, seeds=2, jobs=2, out=tmp_path_factory.mktemp("sweep") / "s")


@pytest.fixture
def copied(finished: Sweep, tmp_path: Path) -> Path:
    """A copy of the finished sweep, to be changed."""
    return Path(shutil.copytree(finished.folder, tmp_path / "copy"))


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what the clock of this machine says."""
    return table.drop(columns=[name for name in MEASURED if name in table])


def rounds_files(folder: Path) -> dict[Path, int]:
    """When each record of a sweep was last written."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("rounds.jsonl")}


def test_the_table_has_a_row_for_each_cell_variant_and_seed_in_the_order_of_the_plan(finished: Sweep) -> None:
    table = finished.table
    rows = list(zip(table["cell"], table["variant"], table["seed"], strict=True))
    assert rows == [
        (f"uplink.ratio={ratio}", variant, seed)
        for ratio in (0.25, 0.5)
        for variant in ("rlc", "ideal")
        for seed in (0, 1)
    ]
    assert set(table["status"]) == {"done"}
    assert list(table["uplink.ratio"]) == [0.25] * 4 + [0.5] * 4
    assert list(table["uplink.kind"]) == ["over-the-air", "over-the-air", "ideal", "ideal"] * 2
    assert set(table["data.devices"]) == {4}
    assert set(table["parameters"]) == {650}
    assert table["test_accuracy"].between(0, 1).all()
    assert (table["energy_j_per_device_mean"] > 0).all()
    assert "test_accuracy_std" not in table


def test_a_run_of_a_sweep_is_the_run_that_a_person_would_have_made(finished: Sweep, tmp_path: Path) -> None:
    alone = run_scenario(SCENARIO, settings={"uplink.ratio": 0.5, "seed": 1}, out=tmp_path / "r", report=False)
    row = finished.table.query("cell == 'uplink.ratio=0.5' and variant == 'rlc' and seed == 1").iloc[0]
    figures = alone.summary["variants"][0]
    for name in ("test_accuracy", "channel_uses", "energy_j_per_device_mean", "air_time_s"):
        assert row[name] == figures[name]
    # PyTorch adds up the loss in another order where it has another number of threads: float32 rounding.
    assert row["test_loss"] == pytest.approx(figures["test_loss"], rel=1e-5)
    there = finished.cells[1].runs()[1]
    assert Run(there).summary["variants"][0]["test_accuracy"] == row["test_accuracy"]


def test_a_sweep_is_read_back_as_it_was_planned(finished: Sweep) -> None:
    assert is_sweep(finished.folder)
    assert not is_sweep(finished.folder / "cells")
    there = read_sweep(finished.folder)
    assert there == finished
    assert (there.grid, there.seeds) == (GRID, [0, 1])
    assert [sorted(cell.runs()) for cell in there.cells] == [[0, 1], [0, 1]]
    assert {there.state(cell, seed).status for cell, seed in there.jobs} == {"done"}
    left = {path.name for path in finished.folder.rglob("*")}
    assert not {name for name in left if name.endswith((".log", ".failed", ".part"))}


def test_what_is_done_is_not_run_again(copied: Path, finished: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_jobs(tasks: list[Task], *_: object, **__: object) -> None:
        assert tasks == []

    monkeypatch.setattr(module, "run_in_processes", no_jobs)
    again = sweep(SCENARIO, grid=GRID, seeds=2, out=copied)
    pd.testing.assert_frame_equal(again.table, finished.table)
    assert rounds_files(copied) == rounds_files(finished.folder)


def test_what_was_cut_off_begins_anew_and_gives_the_same_table(copied: Path, finished: Sweep) -> None:
    cells = read_sweep(copied).cells
    (cells[0].run_folder(0) / "rlc" / "model.safetensors").unlink()
    with (cells[0].run_folder(0) / "rlc" / "rounds.jsonl").open("a") as file:
        file.write('{"variant": "rlc", "see')
    shutil.rmtree(cells[1].run_folder(1))
    cells[1].run_folder(1).mkdir()  # killed while the folder was made: half of it is there
    (cells[1].run_folder(1) / "scenario.toml.part").write_text("na")
    assert [read_sweep(copied).state(cells[0], 0).status, cells[1].state(1).status] == ["unfinished", "unfinished"]
    before = rounds_files(copied)
    again = sweep(SCENARIO, grid=GRID, seeds=2, jobs=1, out=copied)
    pd.testing.assert_frame_equal(comparable(again.table), comparable(finished.table))
    after = rounds_files(copied)
    rerun = {path.parent.parts[1:] for path in after if after[path] != before.get(path)}
    # The ideal link of the first had come to its end: its rounds are written over by themselves, not run again.
    assert {("uplink.ratio=0.25", "seed-0", "rlc"), ("uplink.ratio=0.5", "seed-1", "rlc")} <= rerun
    assert not {part for part in rerun if part[:2] in {("uplink.ratio=0.25", "seed-1"), ("uplink.ratio=0.5", "seed-0")}}


def test_a_sweep_may_grow_and_keeps_what_is_there(copied: Path, finished: Sweep) -> None:
    grown = sweep(SCENARIO, grid={"uplink.ratio": [0.1, 0.25, 0.5]}, seeds=3, only=["rlc", "ideal"], out=copied)
    assert len(grown.table) == 3 * 3 * 2
    assert set(grown.table["status"]) == {"done"}
    old = grown.table.query("cell != 'uplink.ratio=0.1' and seed < 2").reset_index(drop=True)
    pd.testing.assert_frame_equal(old, finished.table)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"settings": {"data.devices": 5}}, "data.devices: 4 there, 5 here"),
        ({"settings": {"name": "other"}}, "name: 'small' there, 'other' here"),
        ({"grid": {"uplink.ratio": [0.25, 0.75]}}, "grid uplink.ratio: 0.25, 0.5 there, 0.25, 0.75 here"),
        ({"grid": {"rounds": [3]}}, "grid: uplink.ratio there, rounds here"),
        ({"seeds": 1}, "seeds: 0 to 1 there, 0 here"),
        ({"only": ["rlc"]}, "only: all variants there, rlc here"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_with_the_difference(
    finished: Sweep, changes: dict[str, Any], difference: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")}
    with pytest.raises(FolderInTheWay, match=re.escape(difference)):
        sweep(SCENARIO, **{"grid": GRID, "seeds": 2, "out": finished.folder, **changes})
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*")} == before


def test_a_folder_of_something_else_is_refused_and_so_is_one_in_use(tmp_path: Path, finished: Sweep) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderInTheWay, match="exists and is not a sweep's folder"):
        sweep(SCENARIO, grid=GRID, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with locked(finished.folder), pytest.raises(FolderInTheWay, match="a sweep is running in it"):
        sweep(SCENARIO, grid=GRID, seeds=2, out=finished.folder)


def test_a_failed_cell_is_reported_with_its_reason_and_the_others_go_on(
    fedmac: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = write(tmp_path, small(model={"name": "tests.fedmac.test_sweep:model_with_a_fate", "fate": "none"}))
    words = ["sweep", scenario, "--grid", "model.fate=killed,raises,exits,full_disk,noisy", "--jobs", 2, "--out", "d"]
    ended = fedmac(*words)
    assert ended.code == 1
    reasons = {cell.settings["model.fate"]: reason for cell, _, reason in read_sweep("d").failures}
    assert reasons["killed"] == "killed by signal 9; often the machine has run out of memory"
    assert reasons["raises"] == "ZeroDivisionError: by fate"
    assert reasons["exits"] == "ended with exit code 7"
    assert re.fullmatch(r"d/cells/.*/rounds\.jsonl: cannot be written: No space left on device", reasons["full_disk"])
    for fate, reason in reasons.items():
        assert f"fedmac: failed: model.fate={fate} seed 0: {reason}" in ended.err
    assert "4 of 5 jobs failed; the same command runs them again" in ended.err
    table = read_sweep("d").table.set_index("model.fate")
    assert list(table["status"]) == ["failed"] * 4 + ["done"]
    assert table.loc["killed", "reason"] == reasons["killed"]
    assert table["test_accuracy"].notna().tolist() == [False] * 4 + [True]
    # What a job prints is kept only where it may explain a failure.
    assert "ZeroDivisionError" in Path("d/cells/model.fate=raises/seed-0.log").read_text()
    assert not Path("d/cells/model.fate=noisy/seed-0.log").exists()
    again: list[Task] = []
    monkeypatch.setattr(module, "run_in_processes", lambda jobs, *_, **__: again.extend(jobs))
    fedmac(*words)
    assert [task.name for task in again] == [f"model.fate={fate} seed 0" for fate in reasons]


def test_commands_for_a_scheduler_do_the_work_and_the_sweep_then_only_makes_the_table(
    fedmac: Command, finished: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sweep", write(tmp_path, SCENARIO), "--grid", "uplink.ratio=0.25,0.5", "--out", "my d", "--only", "rlc"]
    ended = fedmac(*words, "--commands")
    assert ended.code == 0
    commands = [shlex.split(line) for line in ended.out.splitlines()]
    assert len(commands) == 2
    assert not list(Path("my d").rglob("rounds.jsonl"))
    for command in commands:
        assert command[0] == "fedmac"
        assert fedmac(*command[1:]).code == 0
    assert fedmac(*words, "--commands").out == ""
    monkeypatch.setattr(module, "run_in_processes", lambda jobs, *_, **__: [1 / 0 for _ in jobs])
    assert fedmac(*words).code == 0
    table = read_sweep("my d").table
    same = finished.table.query("variant == 'rlc' and seed == 0")
    assert list(table["test_accuracy"]) == list(same["test_accuracy"])


def test_a_dry_run_shows_plan_budget_and_time_and_writes_nothing(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, SCENARIO)
    ended = fedmac("sweep", path, "--grid", "uplink.ratio=0.25,0.5", "--seeds", 2, "--jobs", 2, "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert lines[0] == "small: 2 cells x 2 seeds x 2 variants = 8 runs"
    assert "24 rounds in 4 jobs, 2 side by side" in lines
    # 650 parameters: 162 or 325 uses a round, for 3 rounds; 50 units of energy a round.
    assert "rlc 486 to 975 150 normalised" in lines
    assert "all runs 5,844 1,200 normalised" in lines
    assert re.fullmatch(r"estimated time: .* \(from a trial of the first rounds\)", lines[-1])
    assert narrow(ended.out)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_estimate_rests_on_finished_runs_where_there_are_some(finished: Sweep, copied: Path) -> None:
    assert estimate(finished, 2, trial=None).seconds == 0
    there = read_sweep(copied)
    shutil.rmtree(there.cells[0].run_folder(0))
    shutil.rmtree(there.cells[1].run_folder(1))
    left = estimate(there, 1, trial=None)
    assert left.basis == "from 4 finished runs"
    mean = there.table.query("(cell == 'uplink.ratio=0.25') == (seed == 1)").groupby("variant")["wall_s"].mean().sum()
    assert left.seconds == pytest.approx(2 * mean)
    assert estimate(there, 2, trial=None).seconds == pytest.approx(mean)


BAD_INPUT: list[tuple[list[str], str]] = [
    (["--grid", "uplink.rato=0.1,0.2"], "uplink.rato = 0.1: unknown key; did you mean ratio?"),
    (["--grid", "uplink.ratio=0.1,2"], "uplink.ratio = 2: accepted: a number > 0 and <= 1"),
    (["--grid", "uplink.ratio=0.1,2"], "(cell uplink.ratio=2)"),
    (["--grid", "data.devices=3,4.5"], "data.devices = 4.5: accepted: an integer >= 1"),
    (["--grid", "model.name=softmax,cnnn"], "model.name = 'cnnn' is not known"),
    (["--grid", "seed=1,2"], "grid: seed: the same for all cells"),
    (["--grid", "uplink.ratio"], "accepted: KEY=VALUE,VALUE,…"),
    (["--grid", "rounds=1,2", "--set", "rounds=3"], "grid: rounds is set to one value as well"),
    (["--grid", "rounds=1,2", "--only", "nobody"], "only = 'nobody': no such variant; accepted: rlc, ideal"),
    (["--grid", "rounds=1,2", "--ray-address", "auto"], 'accepted: kind = "flower"'),
    (["--grid", "rounds=1,2", "--dry-run", "--commands"], "--dry-run and --commands: accepted: one of the two"),
    (["--grid", "rounds=1,2", "--out", "small.toml"], "small.toml: exists and is not a sweep's folder"),
]


@pytest.mark.parametrize(("words", "answer"), BAD_INPUT)
def test_bad_input_ends_with_2_before_anything_starts(
    fedmac: Command, tmp_path: Path, words: list[str], answer: str
) -> None:
    path = write(tmp_path, SCENARIO)
    ended = fedmac("sweep", path, *words)
    assert (ended.code, ended.out) == (2, "")
    assert answer in ended.err
    assert "Traceback" not in ended.err
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_all_cells_that_cannot_run_are_named_at_once() -> None:
    with pytest.raises(ScenarioError) as refused:
        plan_sweep(SCENARIO, check_grid({"uplink.ratio": [0.5, 2, 3], "rounds": [1, 2]}), settings={})
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "uplink.ratio = 2",
        "uplink.ratio = 3",
    ]
    assert "(cell uplink.ratio=2,rounds=1 and 1 more)" in str(refused.value)


def test_the_cluster_reaches_the_jobs_and_only_one_runs_there_at_a_time(tmp_path: Path) -> None:
    settings = sweep_settings({}, engine="flower", ray_address="ray://head:10001")
    planned = plan_sweep(SCENARIO, check_grid(GRID), settings=settings, out=tmp_path / "d")
    planned.folder.mkdir()
    write_sweep_folder(planned)
    job = job_of(planned, read_sweep(tmp_path / "d").cells[0], 0, workers=7)
    assert job.content["engine"] == {**job.content["engine"], "kind": "flower", "ray_address": "ray://head:10001"}
    assert job.content["engine"].get("workers") != 7
    assert module.at_once(planned, None, 2)[0] == 1
    assert module.at_once(planned, 2, 2)[0] == 2


def test_a_key_of_several_types_becomes_text_in_the_table(tmp_path: Path) -> None:
    scenario = small(model={"name": "mlp"})
    planned = plan_sweep(scenario, check_grid({"strategy.name": ["fedavg", "fedadam"]}), settings={}, out=tmp_path)
    table = SweepTable(planned)
    for cell, seed in planned.jobs:
        table.update(cell, seed, State("missing"))
    rows = [row for rows in table.rows.values() for row in rows]
    rows[0] |= {"model.x": 1, "model.y": [1, 2], "model.z": 1, "model.t": True}
    rows[1] |= {"model.x": "a", "model.y": 3.5, "model.z": 2.5}
    table.write()
    read = pd.read_parquet(tmp_path / "sweep.parquet")
    assert read["model.x"].tolist() == ["1", "a"]
    assert read["model.y"].tolist() == ["[1, 2]", "3.5"]
    assert read["model.z"].tolist() == [1.0, 2.5]
    assert read["model.t"].isna().tolist() == [False, True]
    assert read["status"].tolist() == ["missing", "missing"]


def test_the_best_cells_fit_80_columns(finished: Sweep) -> None:
    table = SweepTable(finished)
    for cell, seed in finished.jobs:
        table.update(cell, seed, State("done"))
    outcomes = table.outcomes()
    means = finished.table.groupby(["cell", "variant"])["test_accuracy"].mean()
    assert [outcome.mean for outcome in outcomes] == pytest.approx(sorted(means, reverse=True))
    console = Console(file=io.StringIO(), width=80)
    console.print(outcome_table(finished, outcomes * 5))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8 more in the table" in " ".join(text.split())
    assert len([line for line in text.splitlines() if "± 0" in line]) == 12


def test_progress_shows_cells_the_time_left_and_the_best_on_a_terminal(
    finished: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    table = SweepTable(finished)
    states = {(cell.name, seed): State("missing") for cell, seed in finished.jobs}
    file = io.StringIO()
    progress = SweepProgress(Console(file=file, force_terminal=True, width=80))
    progress.begin(finished, table, states)
    first, second = finished.jobs[:2]
    progress.job_begun(*first)
    progress.job_begun(*second)
    table.update(*first, State("done"))
    progress.job_ended(*first, None)
    table.update(*second, State("failed", "why"))
    progress.job_ended(*second, "why")
    progress.job_begun(*finished.jobs[2])
    progress.poll()
    progress.end()
    shown = drawn(file.getvalue())
    assert "cells: 0 of 2 done, 1 failed; jobs: 1 of 4 done, 1 running, 1 failed" in shown
    assert "rounds" in shown
    assert "18/24" in shown  # 6 of each job that has ended, and of the one that runs
    assert re.search(r"best so far: test_accuracy 0\.\d{3} \(1 seed\), (rlc|ideal), ratio=0\.25", shown)
    assert narrow(shown, 78)


def _alive(marker: str) -> set[int]:
    """Processes that were started with the marker in their environment."""
    found = set()
    for pid in process_table():
        try:
            if marker.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


def _until(there: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("rounds.jsonl"))


SCRIPT = """
    from fedmac.studies.sweep.perform import sweep
    # Without a __main__ guard, as in a notebook.
    sweep("small.toml", grid={"uplink.ratio": [0.25, 0.5]}, jobs=2, out="d")
"""


def test_a_killed_sweep_leaves_no_process_behind_and_goes_on_to_the_same_table(tmp_path: Path) -> None:
    write(tmp_path, small(rounds=100, engine={}, variants=VARIANTS))
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    marker = f"SWEEP_OF_A_TEST={uuid.uuid4()}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict([marker.split("=")])
    process = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment)
    _until(lambda: _lines(tmp_path / "d") > 120 or process.poll() is not None, "no rounds")
    assert process.poll() is None
    process.kill()
    process.wait()
    _until(lambda: not _alive(marker), "processes outlived the sweep")
    killed = read_sweep(tmp_path / "d")
    assert "unfinished" in {killed.state(cell, seed).status for cell, seed in killed.jobs}
    again = sweep(tmp_path / "small.toml", grid=GRID, out=tmp_path / "d")
    whole = sweep(tmp_path / "small.toml", grid=GRID, out=tmp_path / "whole")
    pd.testing.assert_frame_equal(comparable(again.table), comparable(whole.table))


def test_ctrl_c_ends_all_processes_and_says_how_to_go_on(tmp_path: Path) -> None:
    path = write(tmp_path, small(rounds=5000, engine={}, variants=VARIANTS))
    marker = f"SWEEP_OF_A_TEST={uuid.uuid4()}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict([marker.split("=")])
    words = ["-m", "fedmac.cli", "sweep", str(path), "--grid", "uplink.ratio=0.25,0.5", "--jobs", "2", "--out", "d"]
    process = subprocess.Popen(
        interruptible(*words),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _until(lambda: _lines(tmp_path / "d") > 20 or process.poll() is not None, "no rounds")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[-1] == "fedmac: interrupted; what is done is in d, and the same command goes on from there"
    assert "Traceback" not in err
    _until(lambda: not _alive(marker), "processes outlived the sweep")
    assert set(read_sweep(tmp_path / "d").table["status"]) == {"unfinished"}
