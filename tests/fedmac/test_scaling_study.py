"""The scaling study: its clock is ResNet-18's, its search finds the best rate, its tables say what runs came to."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

import fedmac
from fedmac.scenario import Scenario

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    "scaling_cells", "scaling_learning", "scaling_server", "scaling_peers", "scaling_runs", "scaling_rates",
    "scaling_figures", "scaling",
)  # fmt: skip

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads one of the study's modules."""
    monkeypatch.syspath_prepend(ROOT / "scenarios")
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)

    def loaded(name: str) -> ModuleType:
        module = importlib.import_module(name)
        for one in NAMES:
            if one in sys.modules:
                monkeypatch.setitem(sys.modules, one, sys.modules[one])  # forgotten after the test
        return module

    return loaded


def test_a_step_and_a_message_take_as_long_as_those_of_resnet_18(load: Load) -> None:
    cells = load("scaling_cells")
    base = Scenario.load(ROOT / "scenarios/scaling.toml")
    settings = cells.Cell("weak", "data-centre", "none", 4).settings(base)
    flops, parameters = cells.size_of(base)
    assert parameters == 64 * 32 + 32 + 32 * 10 + 10
    # Products and sums of an example: 64 x 32 and 32 x 10 forward and for the weights' gradients, and 32 x 10 back to
    # the hidden layer; the input needs no gradient.
    assert flops == 2 * (2 * (64 * 32 + 320) + 320)
    step = flops / settings["devices"]["own"]["worker"]["flops_per_s"]
    message = 32 * parameters / (settings["network"]["up_mbps"] * 1e6)
    # Rates are written with four digits.
    assert step == pytest.approx(32 * 3 * 2 * 1.814e9 / 9.7e12, rel=1e-3)
    assert message == pytest.approx(32 * 11_689_512 / 200e9, rel=1e-3)


def test_the_scenario_is_the_cell_of_eight_workers_in_the_data_centre(load: Load) -> None:
    cells = load("scaling_cells")
    scenario = Scenario.load(ROOT / "scenarios/scaling.toml")
    settings = cells.Cell("weak", "data-centre", "mild", 8).settings(scenario)
    content = scenario.content()
    for table, keys in settings.items():
        assert {key: content[table][key] for key in keys} == keys
    assert [variant["name"] for variant in content["variants"]] == list(cells.SYSTEMS)
    for variant in scenario.resolve():
        wanted = cells.SYSTEMS[variant.name](8)
        assert {"name": variant.scenario.strategy.name, **variant.scenario.strategy.parameters} == wanted


def test_strong_scaling_shares_the_batch_out_and_weak_scaling_keeps_a_workers(load: Load) -> None:
    cells = load("scaling_cells")
    workers = [2, 16, 128]
    assert [p * cells.Cell("strong", "wifi", "none", p).batch for p in workers] == [128, 128, 128]
    assert [cells.Cell("weak", "wifi", "none", p).batch for p in workers] == [1, 1, 1]


@pytest.mark.parametrize("best", [0, 4, 9])
@pytest.mark.parametrize("start", [0, 5, 9])
def test_the_search_goes_downhill_to_the_best_rate(best: int, start: int, load: Load) -> None:
    rates, asked = load("scaling_rates"), set()

    def cost(rate: float) -> tuple[float, ...]:
        asked.add(rate)
        return (abs(rates.RATES.index(rate) - best),)

    assert rates.best_rate(cost, rates.RATES[start]) == rates.RATES[best]
    assert len(asked) <= abs(best - start) + 3  # the way, its ends' other neighbours, and the first step back


def test_curves_cross_where_their_times_are_equal(load: Load) -> None:
    figures = load("scaling_figures")
    workers = np.array([2, 8, 32, 128])
    falling, flat = pd.Series(640 / workers, workers), pd.Series(np.full(4, 16.0), workers)
    assert figures.crossing(falling, flat) == pytest.approx([40.0])
    assert figures.crossing(flat, falling) == pytest.approx([40.0])
    assert figures.crossing(falling, 2 * falling) == []


def test_seeds_that_did_not_reach_the_target_are_told(load: Load) -> None:
    figures = load("scaling_figures")
    assert figures.told(pd.Series([2.0, 4.0])) == "3 (2 to 4)"
    assert figures.told(pd.Series([2.0, None])) == "2, 1 of 2"
    assert figures.told(pd.Series([None, None], dtype=float)) == "-"


@pytest.mark.parametrize("system", [
    "synchronous", "backup-workers", "asynchronous-bounded", "stale-synchronous", "fedbuff", "gossip",
    "elastic-averaging", "ring-all-reduce",
])  # fmt: skip
def test_a_run_of_the_study_is_that_of_fedmac_run(system: str, load: Load, tmp_path: Path) -> None:
    runs, cells = load("scaling_runs"), load("scaling_cells")
    cell = cells.Cell("weak", "wifi", "heavy", 4)
    scenario = runs.scenario_of(runs.base_of(ROOT / "scenarios/scaling.toml"), cell, system, 0.1)
    rounds = fedmac.run(scenario, out=tmp_path / "run", rounds=24, workers=1, report=False, seed=3).rounds
    target = rounds[rounds["round"] % 16 == 0]["test_loss"].iloc[-1]  # looked at after 64 updates: 16 rounds of four
    told = runs.Runs(ROOT / "scenarios/scaling.toml", target + 1e-6, tmp_path).figures(cell, system, 0.1, 3)
    last = rounds[rounds["round"] == 16].iloc[0]
    # The ring's steps are on the rows of all at once, and its sums go round in another order: single precision.
    near = 1e-4 if system == "ring-all-reduce" else 0.0
    assert told["rounds"] == 16
    assert told["last_loss"] == pytest.approx(last["test_loss"], rel=near, abs=0.0)
    assert told["rows"] == 16 * 4
    for key, column, share in (
        ("time_s", "clock_s", 1), ("joules", "energy_j_per_device_mean", 4), ("utilisation", "utilisation_mean", 1)
    ):  # fmt: skip
        assert told[key] == pytest.approx(last[column] * share, rel=1e-12)  # a product more
    if "staleness" in told:
        counts = list(rounds[rounds["round"].between(1, 16)]["staleness"])
        assert told["staleness"] == [
            sum(one[s] for one in counts if s < len(one)) for s in range(max(map(len, counts)))
        ]
    if system in ("gossip", "elastic-averaging"):
        assert told["consensus_distance"] == pytest.approx(last["consensus_distance"], rel=1e-12)


@pytest.fixture
def study(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with two rates, a target that is soon reached, and short runs."""
    script = load("scaling")
    monkeypatch.setattr(script, "TARGET", 2.2)
    monkeypatch.setattr(load("scaling_rates"), "RATES", (0.1, 0.2))
    monkeypatch.setattr(load("scaling_runs"), "most_rounds", lambda workers, system: 300)
    monkeypatch.chdir(tmp_path)
    return script


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", *words, "--out", "study"])
    script.main()


def test_the_study_tells_time_and_joules_of_each_system_and_goes_on_with_what_is_there(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--only", "weak data-centre mild", "--workers", "2,4", "--seeds", "2", "--systems", "asynchronous,gossip")
    run(study, monkeypatch, *words)
    table = Path("study/table.md").read_text(encoding="utf-8")
    assert "### Seconds to a test loss of 2.2: weak, data-centre, mild" in table
    assert "| system | p = 2 | p = 4 |" in table
    rows = pd.read_json("study/rows.json")
    assert len(rows) == 2 * 2 * 2
    assert (rows["time_s"] > 0).all()
    line = next(line for line in table.splitlines() if line.startswith("| asynchronous |"))
    own = rows[(rows["system"] == "asynchronous") & (rows["workers"] == 2)]["time_s"]
    assert line.split(" | ")[1] == f"{own.mean():.3g} ({own.min():.3g} to {own.max():.3g})"
    for picture in ("scaling.svg", "scaling-replicas.svg"):
        assert "<svg" in Path("study", picture).read_text(encoding="utf-8")
    lines = Path("study/weak/data-centre/mild/p-4/runs.jsonl")
    before = lines.read_text(encoding="utf-8")
    last = before.splitlines()[-1]
    lines.write_text(before.removesuffix(last + "\n"), encoding="utf-8")  # as after a kill
    run(study, monkeypatch, *words)
    assert lines.read_text(encoding="utf-8") == before
    assert Path("study/table.md").read_text(encoding="utf-8") == table
    run(study, monkeypatch, *words[:-1], "asynchronous,gossip,synchronous", "--table")
    assert Path("study/table.md").read_text(encoding="utf-8") == table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "nowhere"), "--only nowhere: accepted: part of a name such as 'weak data-centre none p=2'"),
        (("--systems", "carrier-pigeons"), "--systems carrier-pigeons: accepted: synchronous, backup-workers"),
        (("--workers", "1"), "1: accepted: integers >= 2"),
        (("--table",), "--table: study: no runs of these cells there"),
    ],
)
def test_what_is_not_there_is_named(
    words: tuple[str, ...],
    message: str,
    study: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run(study, monkeypatch, *words)
    assert message in capsys.readouterr().err
