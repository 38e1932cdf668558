"""The studies' scripts, each on a task so small that it takes seconds: they run, write what they say, and go on."""

from __future__ import annotations

import importlib.util
import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tomli_w

import fedmac

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, Any] = {"source": "digits", "devices": 3, "samples_per_device": 30, "test_fraction": 0.5}

Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a script of `scenarios`, its scenario made small: digits, few rows, two rounds."""

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / f"scenarios/{name}.py")
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, script)  # where dataclasses look for their module
        monkeypatch.syspath_prepend(ROOT / "scenarios")  # where scripts look for each other
        spec.loader.exec_module(script)
        if hasattr(script, "SCENARIO"):
            monkeypatch.setattr(script, "SCENARIO", small(ROOT / f"scenarios/{name}.toml", tmp_path))
        monkeypatch.chdir(tmp_path)
        return script

    return loaded


def small(path: Path, folder: Path) -> Path:
    scenario = tomllib.loads(path.read_text(encoding="utf-8"))
    scenario |= {"rounds": 2, "seeds": 1, "data": SMALL, "engine": {"workers": 1}}
    for variant in scenario["variants"]:
        variant.pop("rounds", None)
        if "uses" in variant.get("uplink", {}):
            variant["uplink"]["uses"] = 100
        if "link" in variant:
            variant["link"].pop("deadline_s", None)
    written = folder / path.name
    written.write_text(tomli_w.dumps(scenario), encoding="utf-8")
    return written


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *words])
    script.main()


def test_bits_against_accuracy_has_a_row_for_every_codec(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("bits_vs_accuracy")
    monkeypatch.setattr(script, "MODELS", {"softmax": {}})
    monkeypatch.setattr(script, "RATES", [0.1, 0.3])
    run(script, monkeypatch, "--only", "iid", "--seeds", "1", "--jobs", "1", "--out", "study")
    table = Path("study/table.md").read_text(encoding="utf-8")
    names = [variant["name"] for variant in tomllib.loads(script.SCENARIO.read_text(encoding="utf-8"))["variants"]]
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:3] for line in table.splitlines() if " | " in line}
    assert [name for name in names if name in rows] == names
    assert float(rows["float32"][0]) > 32  # bits an entry: the numbers, and what a packet has beside
    assert float(rows["rotated-2"][1]) < float(rows["eden-2"][1]) < float(rows["eden-1"][1])  # errors in closed form


def test_analog_against_digital_has_every_method_and_the_published_ratios(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("analog_vs_digital")
    monkeypatch.setattr(script, "CELLS", {"a cell": {"data.devices": 3}})
    monkeypatch.setattr(script, "RATES", [0.1, 0.3])
    run(script, monkeypatch, "--seeds", "1", "--jobs", "1", "--out", "study")
    table = Path("study/table.md").read_text(encoding="utf-8")
    for method in ("uncoded", "rlc-tenth", "a-dsgd-tenth", "eden-whole", "d-dsgd-whole"):
        assert f"\n| {method} | 2 |" in table
    for row in ("| 10 | 16 | 38 |", "| 50 | 56 | 206 |", "| 100 | 98 | 413 |", "| 200 | 175 | 826 |"):
        assert row in table


def test_power_against_bit_rate_spends_the_budget_whatever_the_ratio(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("power_vs_bit_rate")
    monkeypatch.setattr(script, "ENTRIES", 650)
    monkeypatch.setattr(script, "RATES", [0.1, 0.3])
    monkeypatch.setattr(script, "RATIOS", {"uncoded": (1.0,), "random-linear": (0.25,), "eden": (1.0, 4.0)})
    run(script, monkeypatch, "--only", "10", "--seeds", "1", "--jobs", "1", "--out", "study")
    (points,) = [list(script.points_of(10, Path("study/+10-dB/run")))]
    assert {(point["code"], point["ratio"]) for point in points} == {
        ("uncoded", 1.0), ("random-linear", 0.25), ("eden", 1.0), ("eden", 4.0),
    }  # fmt: skip
    # A device's power times the uses: ten units of noise energy an entry in each of two rounds.
    assert all(point["energy"] <= 2 * 10 * 650 * 1.01 for point in points)
    assert [point["bits"] is None for point in points] == [True, True, False, False]
    assert Path("study/pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "Pareto front" in Path("study/comparison.html").read_text(encoding="utf-8")
    assert "| +10 dB |" in Path("study/table.md").read_text(encoding="utf-8")


def test_planning_compares_all_variants_with_the_constant_budget_at_its_cost(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("planning")
    cell = {"uplink.uses": 30, "data.shards": None, "data.partition": "iid", "data.validation_fraction": 0.5}
    monkeypatch.setattr(script, "CELLS", {"a cell": cell})
    monkeypatch.setattr(script, "RATES", [0.1, 0.3])
    run(script, monkeypatch, "--seeds", "2", "--out", "study")
    table = Path("study/table.md").read_text(encoding="utf-8")
    table, less_warm_up = table.split("### Planned and pilot, less warm-up")
    assert less_warm_up.splitlines()[-1].count("±") == 4
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in table.splitlines() if " | " in line}
    assert [name for name in rows if name != "variant"] == ["constant", *script.COMPARED, "noise-free"]
    assert all(row[1] == "60" for name, row in rows.items() if name != "variant")  # 30 in each of two rounds
    assert all(int(row[2]) <= 20 for name, row in rows.items() if name != "variant")  # ten of energy in each
    assert not rows["constant"][5]
    assert all("±" in rows[name][5] for name in script.COMPARED)
    pilot = json.loads(Path("study/a-cell/pilot.json").read_text(encoding="utf-8"))
    assert [len(pilot[name]) for name in ("mean_norms", "largest_energies")] == [2, 2]
    assert "<svg" in Path("study/planning.svg").read_text(encoding="utf-8")
    runs = Path("study/a-cell/seed-1.csv").stat().st_mtime_ns
    run(script, monkeypatch, "--seeds", "2", "--out", "study")
    assert Path("study/a-cell/seed-1.csv").stat().st_mtime_ns == runs


@pytest.mark.parametrize("cell", [{}, {"channel.fading": "rayleigh", "power_control.name": "minimum-mse"}])
def test_models_side_by_side_come_to_what_they_come_to_in_runs_of_their_own(
    cell: dict[str, Any], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("planning")
    keys = {"uplink.uses": 60, "data.samples_per_device": 20, "rounds": 12, "seeds": 1, "training.warm_up": 5}
    scenario = script.scenario_of(cell | keys)
    scenario["variants"] = [one for one in scenario["variants"] if one["name"] != "pilot"]
    variants = [one.scenario for one in script.Scenario.load(scenario).resolve()]
    together = script.Models(variants, 0).train()
    apart = fedmac.run(scenario, out="runs", workers=1, report=False).rounds.groupby("variant", sort=False).last()
    # Sums in single precision come in another order.
    assert together["objective"].to_numpy() == pytest.approx(apart["train_objective"].to_numpy(), rel=1e-4)
    assert together["uses"].to_numpy() == pytest.approx(apart["channel_uses"].to_numpy())
    assert together["energy"].to_numpy() == pytest.approx(apart["energy_j_per_device_max"].to_numpy(), rel=1e-4)
    assert together["test_accuracy"].to_numpy() == pytest.approx(apart["test_accuracy"].to_numpy(), abs=0.01)


def test_without_noise_the_server_knows_the_mean_of_the_devices_shifts(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = load("device_shifts")
    task = tomllib.loads((ROOT / "scenarios/planning.toml").read_text(encoding="utf-8"))
    task |= {"rounds": 3, "data": SMALL | {"samples_per_device": 10, "validation_fraction": 0.5}}
    monkeypatch.setattr(script, "TASK", tmp_path / "task.toml")
    monkeypatch.setattr(script, "ROUNDS_TOLD", (2, 3))
    errors = {}
    for energy in (10.0, 1e16):
        task["power_control"]["energy_per_round"] = energy
        script.TASK.write_text(tomli_w.dumps(task), encoding="utf-8")
        errors[energy] = script.Task(0).train(script.Scheme("shifts"), 0.1)["error 3"]
    assert errors[10.0] > 1e-3
    assert errors[1e16] < 1e-9  # what is left is single precision
    monkeypatch.setattr(script, "RATES", [0.1])
    run(script, monkeypatch, "--seeds", "2", "--out", "study")
    rows = Path("study/table.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [scheme.name for scheme in script.SCHEMES]
    assert all("±" in row.split(" | ")[3] for row in rows[1:])


def test_dingo_over_the_air_is_tuned_run_and_goes_on_with_what_is_there(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load("dingo_over_the_air")
    monkeypatch.setattr(script, "DATA", {"digits": {"data.source": "digits"}})
    monkeypatch.setattr(script, "PARTITIONS", {"iid": {}})
    monkeypatch.setattr(script, "DEVICES", (3,))
    monkeypatch.setattr(script, "TUNED", {("fedavg", "gd-momentum"): {"training.learning_rate": [0.3, 1.0]}})
    words = ("--only", "+10", "--seeds", "1", "--jobs", "1", "--out", "study")
    run(script, monkeypatch, *words)
    table = Path("study/table.md").read_text(encoding="utf-8")
    assert "### digits iid 3 devices +10 dB" in table
    for method in ("dingo", "dingo-subspace", "dingo-as-published", "giant", "fedavg", "fedadam", "gd-momentum"):
        assert f"\n| {method} | " in table
    model = next(Path("study").glob("*/sweep/cells/*/seed-0/dingo/model.safetensors"))
    before = model.stat().st_mtime_ns
    run(script, monkeypatch, *words)
    assert Path("study/table.md").read_text(encoding="utf-8") == table
    assert model.stat().st_mtime_ns == before


def test_second_order_prints_costs_to_targets(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = load("second_order")
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    small(ROOT / "scenarios/second_order_mlp.toml", tmp_path)
    run(script, monkeypatch, "--only", "mlp", "--seeds", "1", "--out", "study")
    printed = capsys.readouterr().out
    assert "### second_order_mlp" in printed
    assert "\n| dingo-safe | " in printed


def test_phones_are_compared_at_the_energy_of_the_run_over_the_air(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("phones")
    scenario = tomllib.loads(script.SCENARIO.read_text(encoding="utf-8"))
    scenario["data"]["validation_fraction"] = 0.2
    script.SCENARIO.write_text(tomli_w.dumps(scenario), encoding="utf-8")
    monkeypatch.setattr(script, "RATES", [0.1])
    monkeypatch.setattr(script, "SERVER_RATES", {"asynchronous digital": [0.1, 0.3]})
    monkeypatch.setattr(script, "TARGET", 0.0)
    run(script, monkeypatch, "--only", "microcontrollers", "--seeds", "2", "--out", "study")
    rows = [line.split(" | ") for line in Path("study/table.md").read_text(encoding="utf-8").splitlines()[4:]]
    assert [row[0].strip("| ") for row in rows] == list(script.METHODS)
    joules = [float(row[3]) for row in rows]
    assert max(joules) == joules[0] > 0
    assert "</svg>" in Path("study/phones.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["bits_vs_accuracy", "analog_vs_digital", "planning", "dingo_over_the_air", "second_order", "phones"]
)
def test_a_cell_that_is_not_there_is_named(
    name: str, load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(load(name), monkeypatch, "--only", "nowhere")
    assert "--only nowhere: accepted: part of" in capsys.readouterr().err
