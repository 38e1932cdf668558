"""The reproductions' scripts on small tasks: they train as `fedmac run` does, hold their budgets and go on."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fedmac
from channel import Channel, Rayleigh
from channel.codes import RandomLinearCode
from channel.power import FullPower
from channel.uplinks import AnalogUplink

FOLDER = Path(__file__).resolve().parents[2] / "scenarios/reproduce"
SMALL = {"source": "digits", "devices": 3, "test_fraction": 0.2}
ENTRIES = 650


def script(name: str) -> ModuleType:
    """A module of the folder, whose neighbours it imports."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()


@pytest.mark.parametrize("feedback", [False, True])
def test_the_reproductions_train_as_a_scenario_does(feedback: bool, tmp_path: Path) -> None:
    loop = script("softmax_over_the_air")
    decoder = "projection" if feedback else "unbiased"
    done = fedmac.run(
        {
            "name": "as-a-scenario", "rounds": 4, "data": {**SMALL, "partition": "shards", "shards": 2},
            "training": {"full_batch": True, "learning_rate": 0.3},
            "strategy": {"name": "fedavgm", "server_momentum": 0.9},
            "uplink": {"code": "random-linear", "ratio": 0.5, "decoder": decoder, "error_feedback": feedback},
            "power_control": {"name": "full-power", "receive": "unbiased", "energy_per_round": 2000.0},
            "channel": {"fading": "none", "noise_power": 1.0},
        },
        out=tmp_path / "run", workers=1, seed=3, report=False,
    ).rounds  # fmt: skip
    code = RandomLinearCode(ratio=0.5, decoder=decoder, error_feedback=feedback)
    uplink = AnalogUplink(code, FullPower("unbiased"), Channel(noise_power=1.0), energy_per_round=2000.0)
    air = loop.OverTheAir(uplink, seed=3)
    accuracy = loop.train(loop.Task(3, "shards", 3, source="digits"), air, 0.3, 4)
    # Both in single precision, with sums in another order.
    ours = {key: [record[key] for record in air.records] for key in ("receive_scale", "signal_mse_measured")}
    for key, figures in ours.items():
        np.testing.assert_allclose(figures, done[key].dropna().astype(float), rtol=1e-4)
    assert accuracy == pytest.approx(done["test_accuracy"].iloc[-1], abs=1.5 / 359)  # a row more or less


def test_all_schemes_have_the_same_channel_uses_and_energy() -> None:
    schemes = script("amiri_gunduz_schemes")
    for cell in script("amiri_gunduz").CELLS.values():
        budget, spent = cell[0], {}
        for name, scheme in schemes.SCHEMES.items():
            exchange = scheme.exchange(budget, 0)
            if name in ("d-dsgd", "noise-free"):
                continue
            grant, rounds = exchange.uplink.grant(budget.entries), scheme.rounds(budget)
            spent[name] = (rounds * grant.uses, rounds * grant.energy)
        assert len(spent) == 7
        uses, energy = budget.rounds * budget.uses, budget.rounds * budget.energy
        assert spent == {name: (uses, pytest.approx(energy)) for name in spent}


@given(st.floats(0, 300), st.integers(2, 500))
def test_a_packet_of_d_dsgd_has_the_most_entries_that_its_bits_hold(bits: float, entries: int) -> None:
    schemes = script("amiri_gunduz_schemes")
    kept = schemes.most_kept(bits, entries)
    slack = 1e-6  # logarithms of gamma functions
    assert kept == 0 or math.log2(math.comb(entries, kept)) + 33 <= bits + slack
    assert kept == entries // 2 or math.log2(math.comb(entries, kept + 1)) + 33 > bits - slack


def test_d_dsgd_sends_nothing_at_a_tenth_and_twelve_entries_at_half_the_uses() -> None:
    schemes = script("amiri_gunduz_schemes")
    tenth, half = schemes.DigitalDSGD(schemes.Budget(785, 50.0)), schemes.DigitalDSGD(schemes.Budget(3925, 500.0))
    assert (tenth.bits, tenth.kept) == (pytest.approx(21.6, abs=0.05), 0)
    assert (half.bits, half.kept) == (pytest.approx(162.1, abs=0.05), 12)


def test_what_d_dsgd_does_not_send_goes_with_the_next_update() -> None:
    schemes = script("amiri_gunduz_schemes")
    exchange = schemes.DigitalDSGD(schemes.Budget(100, 500.0, entries=50, devices=3))
    assert 0 < exchange.kept < 25
    updates, weights = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)), np.array([0.2, 0.3, 0.5])
    heard = sum(exchange(x, weights, number) for number, x in enumerate(updates, start=1))
    left = torch.from_numpy(weights) @ exchange.left.double()
    torch.testing.assert_close(heard + left, torch.from_numpy(weights) @ updates.sum(dim=0).double(), atol=1e-6, rtol=0)


def test_the_comparison_runs_what_is_missing_only_and_tunes_on_validation_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, schemes = script("amiri_gunduz"), script("amiri_gunduz_schemes")
    budget = schemes.Budget(65, 50.0, rounds=10, entries=ENTRIES, devices=3)
    monkeypatch.setattr(module, "CELLS", {"small": (budget, "iid")})
    monkeypatch.setattr(module, "SOURCE", "digits")
    monkeypatch.setattr(module, "RATES", {})
    monkeypatch.setattr(module, "OTHER_RATES", (0.1, 1.0))
    run(module, monkeypatch, "--seeds", "2", "--out", str(tmp_path))
    table = capsys.readouterr().out
    for name, scheme in schemes.SCHEMES.items():
        assert f"\n| {name} | {scheme.rounds(budget)} | " in table
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    done: list[Any] = []
    monkeypatch.setattr(module, "train", lambda *given: done.append(given) or json.loads(lines[-1])[1][0])
    run(module, monkeypatch, "--seeds", "2", "--out", str(tmp_path))
    assert capsys.readouterr().out == table
    assert len(done) == 1


def test_a_rate_is_chosen_by_its_accuracy_on_validation_rows(tmp_path: Path) -> None:
    asked = []

    def figures(cell: str, method: str, held_out: str, rate: float, seed: int) -> list[float]:
        asked.append((held_out, rate, seed))
        return [-abs(rate - 0.3) if held_out == "validation" else rate + seed / 10]

    done = script("tuned_runs").TunedRuns(tmp_path / "runs.jsonl", figures).tuned("c", "m", (1.0, 0.3, 0.1), seeds=2)
    assert (done.rate, done.edge, done.figures) == (0.3, False, [[0.3], [0.4]])
    assert asked == [("validation", rate, 0) for rate in (0.1, 0.3, 1.0)] + [("test", 0.3, 0), ("test", 0.3, 1)]
    assert (done.accuracy, done.span) == ("0.3500 ± 0.0707", "0.300 to 0.400")


def test_a_cell_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("amiri_gunduz", "power_control_training"):
        with pytest.raises(SystemExit):
            run(script(name), monkeypatch, "--only", "nowhere")
        assert "--only nowhere: accepted: part of" in capsys.readouterr().err


def test_minimum_mse_is_best_in_every_draw_and_full_power_has_a_floor() -> None:
    table = script("power_control_table")
    gains = np.stack([Rayleigh().coefficients(draw, 20, 0) for draw in range(200)])
    found = {snr: {n: table.errors(p, gains, snr) for n, p in table.POLICIES.items()} for snr in (-10, 10, 30)}
    for errors in found.values():
        for others in errors.values():
            assert np.all(errors["minimum MSE"] <= others * (1 + 1e-9))
        assert np.all(errors["truncated, best threshold"] <= errors["channel inversion"] * (1 + 1e-9))
    # The published 4.07 at 20 dB and above; 200 draws have a standard error of 0.06.
    assert found[30]["full power"].mean() == pytest.approx(4.07, abs=0.25)
    assert found[30]["minimum MSE"].mean() < 0.12
    assert found[-10]["full power"].mean() == pytest.approx(found[-10]["minimum MSE"].mean(), rel=0.01)


def test_training_at_high_snr_hears_with_full_power_s_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("power_control_training")
    monkeypatch.setattr(module, "CELLS", {"small": (30.0, "shards")})
    monkeypatch.setattr(module, "SOURCE", "digits")
    monkeypatch.setattr(module, "RATES", {})
    monkeypatch.setattr(module, "OTHER_RATES", (0.3,))
    monkeypatch.setattr(module, "ROUNDS", 5)
    run(module, monkeypatch, "--seeds", "1", "--out", str(tmp_path))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    errors = {row[0]: float(row[-1]) for row in rows if row[0] in module.METHODS}
    assert set(errors) == set(module.METHODS)
    assert errors["noise-free"] == 0.0
    assert errors["minimum MSE"] < 0.2 < errors["full power"]


def test_latency_ratios_are_those_expected_and_without_truncation_as_the_devices() -> None:
    latency = script("latency_ratio")
    for (snr_db, power), expected in latency.EXPECTED.items():
        for devices, figure in zip(latency.DEVICES, expected, strict=True):
            assert latency.ratio(devices, power, snr_db) == pytest.approx(figure, abs=1.0)  # theirs are whole numbers
    # The weakest of K has a gain ~ 1/K, which a share of 1/K of the band makes up for: its rate is that share.
    ratios = [latency.ratio(devices, "own-band", 20, threshold=1e-12) for devices in latency.DEVICES]
    assert latency.growth(ratios) == pytest.approx(1.0, abs=1e-3)


def test_latency_ratios_are_proportional_to_bits() -> None:
    latency = script("latency_ratio")
    ratio = latency.ratio(50, "own-band", 10)
    assert latency.ratio(50, "own-band", 10, bits=16) == pytest.approx(4 * ratio, rel=1e-3)
