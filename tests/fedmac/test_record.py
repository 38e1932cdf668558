"""The run folder: what is in it, that it survives what goes wrong, and that it is never taken from its owner."""

from __future__ import annotations

import errno
import json
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.record import (
    MEASURED,
    FolderInTheWay,
    RecordError,
    RunFolder,
    check_folder,
    environment,
    measured,
    prepare,
    read_rounds,
    summary_row,
    write_json,
)
from fedmac.scenario import Scenario, Variant
from fedmac.session import plan, summarise, summary_of
from tests.fedmac.small_scenario import VARIANTS, small

SCENARIO = Scenario.load(small())
SYSTEM = {"strategy": {"name": "synchronous"}, "uplink": {"kind": "ideal"}}
VARIANT = Variant("small", SCENARIO)


def line(seed: int = 0, round: int = 1, **figures: Any) -> dict[str, Any]:
    """A round's record."""
    return {"variant": "small", "seed": seed, "round": round} | figures


def test_a_round_is_a_line_and_reads_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", VARIANT)
    records = [line(round=n, test_loss=1.0 / (n + 1), silent=[1, 2], name="ü\u2028x") for n in range(3)]
    for record in records:
        folder.append(record)
    assert read_rounds(folder.rounds) == records
    assert folder.rounds.read_bytes().count(b"\n") == 3


def test_what_is_not_finite_is_null_so_that_every_reader_takes_the_line(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, VARIANT)
    folder.append(line(test_loss=float("nan"), gains=[1.0, float("inf")], more={"x": -float("inf")}))
    (read,) = read_rounds(folder.rounds)
    assert (read["test_loss"], read["gains"], read["more"]) == (None, [1.0, None], {"x": None})


def _full(file: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _half(write: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    return lambda file, data: write(file, data[: len(data) // 2])


@pytest.mark.parametrize("half", [False, True], ids=["nothing fits", "half a line fits"])
def test_a_full_disk_is_named_and_leaves_the_earlier_lines_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    folder = RunFolder(tmp_path, VARIANT)
    folder.append(line(round=0))
    with monkeypatch.context() as patch:
        patch.setattr("fedmac.record.os.write", _half(os.write) if half else _full)
        with pytest.raises(RecordError, match="No space left on device") as error:
            folder.append(line(round=1))
    assert str(folder.rounds) in str(error.value)
    folder.append(line(round=2))
    assert [r["round"] for r in read_rounds(folder.rounds)] == [0, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_device_that_is_full_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, VARIANT)
    folder.rounds.symlink_to("/dev/full")
    with pytest.raises(RecordError, match=r"rounds\.jsonl: cannot be written: No space left on device"):
        folder.append(line())


def test_a_line_cut_short_by_a_crash_is_left_out_and_a_broken_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text('{"round": 0}\n{"round": 1')
    assert read_rounds(path) == [{"round": 0}]
    path.write_text('{"round": 0\n{"round": 1}\n')
    with pytest.raises(RecordError, match=r"rounds\.jsonl: line 1 is not valid JSON"):
        read_rounds(path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"n": 1})
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(RecordError, match="full"):
        write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}


def test_rounds_of_seeds_that_did_not_finish_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, VARIANT)
    for seed in (0, 1):
        folder.append(line(seed=seed))
    folder.save_model(0, {"w": np.ones(3, np.float32)})
    assert (folder.finished(0), folder.finished(1)) == (True, False)
    folder.drop_unfinished()
    assert [r["seed"] for r in read_rounds(folder.rounds)] == [0]


def test_the_first_seeds_model_has_the_plain_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, VARIANT)
    names = [folder.save_model(seed, {"w": np.zeros(1, np.float32)}).name for seed in (0, 1)]
    assert names == ["model.safetensors", "model-seed-1.safetensors"]


def test_a_summary_has_means_over_seeds_of_the_last_values() -> None:
    rounds = [
        line(0, 0, test_accuracy=0.1, test_loss=2.0, parameters=650, wall_s=0.0),
        line(0, 1, test_accuracy=0.4, test_loss=1.0, channel_uses=10, energy_j_per_device_mean=3.0, wall_s=2.0),
        line(0, 2, channel_uses=20, energy_j_per_device_mean=5.0, wall_s=4.0),
        line(1, 0, test_accuracy=0.1, test_loss=2.0, wall_s=0.0),
        line(1, 2, test_accuracy=0.8, test_loss=3.0, channel_uses=20, energy_j_per_device_mean=7.0, wall_s=6.0),
    ]
    row = summary_row(VARIANT, rounds)
    assert (row["name"], row["rounds"], row["seeds"], row["parameters"]) == ("small", 2, [0, 1], 650)
    assert row["test_accuracy"] == pytest.approx(0.6)
    assert row["test_accuracy_std"] == pytest.approx(np.std([0.4, 0.8], ddof=1))
    assert row["test_loss"] == pytest.approx(2.0)
    assert (row["channel_uses"], row["energy_j_per_device_mean"], row["wall_s"]) == (20, 6.0, 5.0)


@pytest.mark.parametrize("name", ["train_objective", "objective_gap", "train_gradient_norm"])
def test_a_summary_has_the_last_objective_where_it_is_recorded(name: str) -> None:
    rounds = [line(0, 0, **{name: 1.0}), line(0, 1, **{name: 4e-6}), line(0, 2), line(1, 2, **{name: 0.0})]
    row = summary_row(VARIANT, rounds)
    assert row[name] == pytest.approx(2e-6)
    assert row[f"{name}_std"] == pytest.approx(np.std([4e-6, 0.0], ddof=1))
    assert summary_row(VARIANT, [line(0, 1)])[name] is None


def test_a_run_that_diverged_has_no_loss_rather_than_an_earlier_one() -> None:
    row = summary_row(VARIANT, [line(0, 1, test_loss=1.0), line(0, 2, test_loss=None)])
    assert (row["test_loss"], row["test_loss_std"]) == (None, None)


def test_a_summary_of_nothing_is_a_summary() -> None:
    row = summary_row(VARIANT, [])
    assert (row["rounds"], row["seeds"], row["test_accuracy"], row["channel_uses"]) == (0, [], None, 0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_one_seed_has_no_spread_and_a_mean_lies_between_its_values(values: list[float]) -> None:
    row = summary_row(VARIANT, [line(seed, 1, test_accuracy=v) for seed, v in enumerate(values)])
    # fmean rounds once: a mean of equal values may leave their range by a unit in the last place.
    assert min(values) - 1e-15 <= row["test_accuracy"] <= max(values) + 1e-15
    assert len(values) > 1 or row["test_accuracy_std"] == 0.0


def test_a_new_folder_gets_the_resolved_scenario_and_the_environment(tmp_path: Path) -> None:
    out = tmp_path / "a" / "run"
    prepare(out, SCENARIO, overwrite=False, resume=False)
    assert Scenario.load(tomllib.loads((out / "scenario.toml").read_text())) == SCENARIO
    written = json.loads((out / "environment.json").read_text())
    assert written.keys() == environment().keys()
    assert {"fedmac", "flwr", "torch", "cvxpy"} <= written["versions"].keys()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    prepare(tmp_path, SCENARIO, overwrite=False, resume=False)
    assert (tmp_path / "scenario.toml").is_file()


def test_a_run_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    prepare(tmp_path, SCENARIO, overwrite=False, resume=False)
    (tmp_path / "rounds.jsonl").write_text("precious\n")
    with pytest.raises(FolderInTheWay, match="accepted: another folder, --overwrite or --resume") as error:
        prepare(tmp_path, SCENARIO, overwrite=False, resume=False)
    assert str(tmp_path) in str(error.value)
    prepare(tmp_path, SCENARIO, overwrite=False, resume=True)
    assert (tmp_path / "rounds.jsonl").read_text() == "precious\n"
    prepare(tmp_path, SCENARIO, overwrite=True, resume=False)
    assert not (tmp_path / "rounds.jsonl").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_or_file_that_is_no_run_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("precious")
    for out in (tmp_path, thesis):
        with pytest.raises(FolderInTheWay, match="is not a run folder; accepted: another folder"):
            prepare(out, SCENARIO, overwrite=overwrite, resume=False)
    assert thesis.read_text() == "precious"


def test_a_run_of_another_scenario_is_not_resumed_and_the_difference_is_named(tmp_path: Path) -> None:
    base = Scenario.load(small(variants=VARIANTS))
    prepare(tmp_path, base, overwrite=False, resume=False)
    other = Scenario.load(base, {"data.devices": 5, "rounds": 9})
    with pytest.raises(FolderInTheWay) as error:
        check_folder(tmp_path, other, overwrite=False, resume=True)
    message = str(error.value)
    assert "data.devices: 4 there, 5 here" in message
    assert "rounds: 3 there, 9 here" in message
    assert "variants" not in message


def test_a_run_is_resumed_on_another_engine_and_with_other_words(tmp_path: Path) -> None:
    prepare(tmp_path, SCENARIO, overwrite=False, resume=False)
    before = (tmp_path / "scenario.toml").read_text()
    other = Scenario.load(SCENARIO, {"engine.workers": 2, "description": "now with a comment"})
    check_folder(tmp_path, other, overwrite=False, resume=True)
    assert (tmp_path / "scenario.toml").read_text() == before


def test_overwrite_and_resume_exclude_each_other_even_in_a_new_folder(tmp_path: Path) -> None:
    with pytest.raises(FolderInTheWay, match="accepted: one of the two"):
        check_folder(tmp_path / "new", SCENARIO, overwrite=True, resume=True)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"file/run.*cannot be written: Not a directory"):
        prepare(tmp_path / "file" / "run", SCENARIO, overwrite=False, resume=False)


def test_variants_get_a_folder_each_and_one_row_each(tmp_path: Path) -> None:
    scenario = Scenario.load(small(variants=VARIANTS, seeds=2))
    prepare(tmp_path, scenario, overwrite=False, resume=False)
    jobs = plan(scenario, tmp_path)
    assert [(job.variant.name, job.seed) for job in jobs] == [("rlc", 0), ("rlc", 1), ("ideal", 0), ("ideal", 1)]
    jobs[2].folder.append({"variant": "ideal", "seed": 0, "round": 1, "test_accuracy": 0.5})
    summary = summarise(scenario, tmp_path, interrupted=True)
    assert (
        summary
        == json.loads((tmp_path / "summary.json").read_text())
        == summary_of(scenario, tmp_path, interrupted=True)
    )
    assert [(row["name"], row["rounds"]) for row in summary["variants"]] == [("rlc", 0), ("ideal", 1)]
    assert json.loads((tmp_path / "ideal" / "summary.json").read_text())["variants"] == [summary["variants"][1]]


def test_what_an_earlier_run_of_other_variants_left_stays_in_the_summary(tmp_path: Path) -> None:
    scenario = Scenario.load(small(variants=VARIANTS))
    prepare(tmp_path, scenario, overwrite=False, resume=False)
    for name in ("ideal", "rlc"):
        plan(scenario, tmp_path, [name])
    assert [row["name"] for row in summarise(scenario, tmp_path)["variants"]] == ["rlc", "ideal"]


def test_the_clock_is_measured_where_it_is_not_simulated() -> None:
    clock = {"compute_s", "clock_s"}
    plain, system = (Scenario.load(small() | changes) for changes in ({}, SYSTEM))
    in_real_time = Scenario.load(small() | SYSTEM | {"engine": {"kind": "flower"}})
    assert clock <= set(MEASURED) == set(measured(plain)) == set(measured(in_real_time))
    assert set(MEASURED) - set(measured(system)) == clock


def test_the_summary_says_that_its_clock_is_simulated_and_who_attacks() -> None:
    row = summary_row(Variant("small", Scenario.load(small() | SYSTEM)), [line()])
    assert row["clock"] == "simulated"
    assert "attackers" not in row
    attacked = Scenario.load(small() | {"attackers": {"devices": [1, 2], "kind": "gaussian"}})
    row = summary_row(Variant("small", attacked), [line()])
    assert (row["attackers"], row["attack"]) == (2, "gaussian")
    assert "clock" not in row


def test_the_summary_has_delta_beside_epsilon() -> None:
    needs = {"training.clip_norm": 1.0, "power_control.norms": "bound"}
    private = Scenario.load(small({"privacy.delta": 1e-5, **needs}))
    row = summary_row(Variant("small", private), [line(privacy_epsilon=2.5)])
    assert (row["privacy_delta"], row["privacy_epsilon"]) == (1e-5, 2.5)
