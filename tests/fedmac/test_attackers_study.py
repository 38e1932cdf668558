"""The study of attackers on a task so small that it takes seconds, and its figure of the shift of the mean."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import tomli_w

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scenarios/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, script)  # where dataclasses look for their module
    spec.loader.exec_module(script)
    return script


def test_every_method_and_attack_has_its_place_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("attackers", monkeypatch)
    scenario = tomllib.loads(script.SCENARIO.read_text(encoding="utf-8"))
    scenario |= {"rounds": 1, "evaluation": {"every": 1}}
    scenario["data"] |= {"samples_per_device": 10, "validation_fraction": 0.0}
    scenario["variants"] = [one for one in scenario["variants"] if one["name"] in ("air-bound-loud", "packets-krum")]
    for variant in scenario["variants"]:
        variant.pop("rounds", None)
        variant.pop("evaluation", None)
    small = tmp_path / "attackers.toml"
    small.write_text(tomli_w.dumps(scenario), encoding="utf-8")
    monkeypatch.setattr(script, "SCENARIO", small)
    out = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["attackers", "--only", "turned round, 20", "--seeds", "1", "--out", out])
    script.main()
    lines = (tmp_path / "out/table.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| method | channel uses | turned round, 20 % |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [v["name"] for v in scenario["variants"]]


def test_a_run_that_diverged_counts_as_no_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("attackers", monkeypatch)
    rows = [
        ("air", 0, 0.8, 10, "none"),
        ("air", 1, 0.6, 10, "none"),
        ("air", 0, 0.5, 10, "a"),
        ("air", 1, None, 10, "a"),
    ]
    results = pd.DataFrame(rows, columns=["variant", "seed", "test_accuracy", "channel_uses", "attack"])
    assert script.table(results).splitlines()[2] == "| air | 10 | 0.700 (0.600) | 0.250 (0.000) |"


@pytest.mark.parametrize("name", ["air, bound for all", "air, bound, at full power"])
def test_the_shift_of_the_mean_stays_below_what_power_allows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("attackers_pull", monkeypatch)
    first = script.Round(script.METHODS[name])
    pulls = [first.pull(factor, exchanges=3) for factor in (1.0, 1e4)]
    for pull, allowed in pulls:
        assert pull <= allowed < np.inf
    assert pulls[1][0] < 1.2 * pulls[0][0]


def test_without_a_bound_the_shift_grows_with_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("attackers_pull", monkeypatch)
    for name in ("mean of packets", "air, norms as said"):
        first = script.Round(script.METHODS[name])
        small, large = (first.pull(factor, exchanges=2)[0] for factor in (100.0, 1e4))
        assert large == pytest.approx(100 * small, rel=0.05)
