"""The study of faults: which systems it runs under which, what it says of them, and that it goes on."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import tomli_w

from fedmac.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("study", "scaling_cells", "scaling_figures", "faults")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, in an empty folder."""
    monkeypatch.syspath_prepend(ROOT / "scenarios")
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    script = importlib.import_module("faults")
    for name in NAMES:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # forgotten after the test
    monkeypatch.chdir(tmp_path)
    return script


def made_small(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *systems: str, rounds: int) -> None:
    """The task with three workers, these of its systems, and so many rounds."""
    task: dict[str, Any] = tomllib.loads(script.TASK.read_text(encoding="utf-8"))
    task["data"] |= {"devices": 3, "samples_per_device": 30}
    task["variants"] = [variant for variant in task["variants"] if variant["name"] in systems]
    small = Path("task.toml").absolute()
    small.write_text(tomli_w.dumps(task), encoding="utf-8")
    rules = {name: rule for name, rule in script.RULES.items() if rule[0] in systems}
    for name, value in (("TASK", small), ("RULES", rules), ("ROUNDS", dict.fromkeys(systems, rounds))):
        monkeypatch.setattr(script, name, value)


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["faults", *words, "--out", "study"])
    script.main()


def table_of(kind: str) -> dict[str, list[str]]:
    """The cells of each system in a kind's table."""
    _, part = Path("study/table.md").read_text(encoding="utf-8").split(f"### {kind}")
    lines = part.split("### ")[0].strip().splitlines()[4:]
    return {cells[0]: cells[1:] for cells in ([c.strip() for c in line.strip("|").split("|")] for line in lines)}


def test_every_kind_of_fault_is_one_that_a_scenario_takes(study: ModuleType) -> None:
    for kind in study.FAULTS:
        scenario = Scenario.load(study.scenario_of(kind, {"gossip": 5.5}))
        variants = {variant.name: variant.scenario for variant in scenario.resolve()}
        assert {*study.RULES, "synchronous", "asynchronous", "gossip"} < set(variants)
        incidents = [] if variants["gossip"].faults is None else variants["gossip"].faults.incidents
        assert [one.at_s for one in incidents] == ([5.5] if "half-way" in kind else [])


def test_a_worker_is_away_for_the_share_of_time_that_the_name_says(study: ModuleType) -> None:
    for kind, share in (("a tenth away", 0.1), ("a third away", 1 / 3)):
        times = study.FAULTS[kind](0.0)
        assert times["mean_down_s"] / (times["mean_up_s"] + times["mean_down_s"]) == pytest.approx(share)


def test_a_rule_changes_nothing_of_its_system_but_what_it_says(study: ModuleType) -> None:
    scenario = Scenario.load(study.scenario_of("none", {}))
    variants = {variant.name: variant.scenario.content() for variant in scenario.resolve()}
    for name, (system, rule) in study.RULES.items():
        own, other = variants[name], variants[system]
        changed = {key for key in own | other if own.get(key) != other.get(key)} - {"name"}
        assert changed == {"strategy"}
        assert own["strategy"] == other["strategy"] | rule


def rounds(*rows: tuple[str, int, int, float, float, str | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["variant", "seed", "round", "clock_s", "test_loss", "stopped"])
    return frame.assign(energy_j_per_device_mean=frame["clock_s"] * 10)


def test_costs_are_those_of_the_first_round_at_the_target_or_the_reason_why_there_is_none(study: ModuleType) -> None:
    costs = study.costs_of(
        rounds(
            ("a", 0, 8, 1.0, 0.5, None), ("a", 0, 16, 2.0, 0.4, None), ("a", 0, 24, 3.0, 0.3, "later"),
            ("a", 1, 8, 1.5, 0.5, None), ("a", 1, 9, 1.6, 0.5, "its keeper is gone"),
            ("b", 0, 8, 7.0, 0.5, None),
        )
    )  # fmt: skip
    assert costs["seconds"].dropna().to_dict() == {("a", 0): 2.0}
    assert costs["seconds a round"].dropna().to_dict() == {("a", 0): 0.125}
    assert costs["joules"].dropna().to_dict() == {("a", 0): 160.0}  # of eight workers
    assert costs["why"].dropna().to_dict() == {("a", 1): "its keeper is gone", ("b", 0): "all of its 8 rounds"}
    assert study.half_of(costs) == {"a": 1.0, "b": 3.5}


def test_means_say_how_many_got_there(study: ModuleType) -> None:
    assert study.mean_of(pd.Series([1.0, 2.0])) == "1.50"
    assert study.mean_of(pd.Series([1.0, None])) == "1.00, 1 of 2"
    assert study.mean_of(pd.Series([8000.0, 9000.0])) == "8,500"
    assert study.mean_of(pd.Series([None, None], dtype=float)) == "-"


def test_the_study_says_what_faults_cost_and_why_runs_ended_and_goes_on_with_what_is_there(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_small(study, monkeypatch, "synchronous", "elastic-averaging", rounds=48)
    monkeypatch.setattr(study, "TARGET", 2.15)
    words = ("--only", "leaves", "--seeds", "1")
    run(study, monkeypatch, *words)
    left = table_of("One leaves half-way")
    assert list(left) == [
        "synchronous", "elastic-averaging", "synchronous-waits", "synchronous-deadline", "elastic-averaging-server",
    ]  # fmt: skip
    assert left["elastic-averaging"][0] == "-"
    assert left["elastic-averaging"][-1] == "1 of 1, the first: peer 0, which keeps the centre, is gone for good"
    assert left["synchronous-waits"][-1].startswith("1 of 1, the first: nothing can happen any more")
    for name in ("synchronous", "synchronous-deadline", "elastic-averaging-server"):
        assert float(left[name][0]) > 0
        assert not left[name][-1]
    written = Path("study/table.md").read_text(encoding="utf-8")
    assert "### Joules, as multiples of those without faults" in written
    model = Path("study/one-leaves-half-way/synchronous/model.safetensors")
    before = model.stat().st_mtime_ns
    run(study, monkeypatch, *words)
    assert model.stat().st_mtime_ns == before
    assert Path("study/table.md").read_text(encoding="utf-8") == written


def test_without_faults_everything_is_once_what_it_was(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made_small(study, monkeypatch, "ring-all-reduce", rounds=16)
    monkeypatch.setattr(study, "TARGET", 2.25)
    run(study, monkeypatch, "--only", "none", "--seeds", "1")
    cells = table_of("None")
    assert list(cells) == ["ring-all-reduce", "ring-that-stops"]
    assert all(own[1::2] == ["1", "1", "1"] for own in cells.values())
    assert cells["ring-all-reduce"] == cells["ring-that-stops"]


def test_a_kind_that_is_not_there_is_named(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(study, monkeypatch, "--only", "nowhere")
    assert "--only nowhere: accepted: part of a name such as 'none'" in capsys.readouterr().err
