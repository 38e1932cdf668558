"""Runs from Python: what comes out, that it can be repeated, resumed and read, and what happens at the edges."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import fedmac
from fedmac.engines import local
from fedmac.engines.superlink import EngineError
from fedmac.lock import held
from fedmac.record import MEASURED, FolderInTheWay, NoRunHere, RecordError
from fedmac.runs import Run
from fedmac.scenario_errors import ScenarioError
from strategies.exchange_of_means import NOT_FINITE
from tests.fedmac.small_scenario import VARIANTS, small, write
from tests.killer import Killed, Killer

FIGURES = ["test_accuracy", "test_loss", "train_loss", "mse_measured", "channel_uses", "energy_j_per_device_max"]


def rounds_of(run: Run) -> pd.DataFrame:
    """The record without what a repetition may change: the time it took."""
    return run.rounds.drop(columns=list(MEASURED), errors="ignore").set_index(["variant", "seed", "round"]).sort_index()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fedmac.run(small(variants=VARIANTS, seeds=2), out=tmp_path_factory.mktemp("runs") / "r")


def test_a_run_leaves_all_files_that_the_record_promises(run: Run) -> None:
    names = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    own = ("scenario.toml", "rounds.jsonl", "summary.json", "model.safetensors", "model-seed-1.safetensors")
    top = {"scenario.toml", "summary.json", "environment.json", "report.html"}
    assert names == top | {f"{variant}/{name}" for variant in ("rlc", "ideal") for name in own}


def test_the_test_rows_are_not_looked_at_where_the_scenario_says_so(tmp_path: Path, run: Run) -> None:
    changes = {"evaluation.test": False, "data.validation_fraction": 0.2}
    blind = fedmac.run(small(changes, variants=VARIANTS, seeds=2), out=tmp_path / "blind")
    assert not [column for column in blind.rounds.columns if column.startswith("test_")]
    assert blind.rounds["validation_accuracy"].notna().all()
    assert all(row["test_accuracy"] is None for row in blind.summary["variants"])


def test_the_clock_is_air_time_and_the_slowest_devices_computing(run: Run) -> None:
    rounds = run.rounds[run.rounds["round"] > 0]
    assert (rounds["clock_s"] == rounds["air_time_s"] + rounds["compute_s"]).all()
    for _, rows in rounds.groupby(["variant", "seed"]):
        assert rows["train_s_max"].cumsum().tolist() == pytest.approx(rows["compute_s"].tolist())
        assert (rows["train_s_mean"] <= rows["train_s_max"]).all()
        phases = rows["wall_train_s"] + rows["wall_uplink_s"] + rows["wall_evaluate_s"]
        assert (phases < rows["wall_s"]).all()


def test_a_run_without_a_report_leaves_everything_else(tmp_path: Path) -> None:
    quiet = fedmac.run(small(), out=tmp_path / "quiet", report=False)
    names = {path.name for path in quiet.folder.iterdir()}
    assert names == {"scenario.toml", "environment.json", "rounds.jsonl", "summary.json", "model.safetensors"}


def test_the_summary_has_its_keys_and_agrees_with_the_rounds(run: Run) -> None:
    assert run.summary == json.loads((run.folder / "summary.json").read_text())
    assert (run.summary["name"], run.summary["interrupted"], run.variants) == ("small", False, ["rlc", "ideal"])
    last = run.rounds[run.rounds["round"] == 3].groupby("variant")
    for row in run.summary["variants"]:
        assert {
            "name", "rounds", "seeds", "test_accuracy", "test_accuracy_std", "test_loss", "test_loss_std",
            "channel_uses", "energy_j_per_device_mean", "energy_j_per_device_max", "air_time_s", "wall_s",
        } <= row.keys()  # fmt: skip
        assert (row["rounds"], row["seeds"]) == (3, [0, 1])
        accuracy = last.get_group(row["name"])["test_accuracy"]
        assert row["test_accuracy"] == pytest.approx(accuracy.mean())
        assert row["test_accuracy_std"] == pytest.approx(accuracy.std())
        # d = 64 x 10 + 10 = 650, of which a quarter, in each of three rounds; the limit is 50 a round.
        assert row["channel_uses"] == 3 * round(650 / 4)
        assert row["energy_j_per_device_max"] <= 150.0 * (1 + 1e-9)


def test_the_rounds_are_a_frame_with_a_row_for_each_variant_seed_and_round(run: Run) -> None:
    frame = run.rounds
    assert len(frame) == 2 * 2 * (3 + 1)
    assert frame.groupby(["variant", "seed"])["round"].apply(list).tolist() == [[0, 1, 2, 3]] * 4
    assert set(FIGURES) <= set(frame.columns)


def test_the_model_is_the_one_that_was_tested_last(run: Run) -> None:
    from fedmac.build_devices import build_data

    data = build_data(run.scenario, 0)
    model = run.model
    assert isinstance(model, torch.nn.Module)
    with torch.no_grad():
        right = (model(data.test.inputs).argmax(1) == data.test.targets).double().mean().item()
    last = run.rounds.query("variant == 'rlc' and seed == 0 and round == 3")["test_accuracy"].item()
    assert right == pytest.approx(last)
    assert not torch.equal(next(model.parameters()), next(run.load_model("rlc", 1).parameters()))


def test_a_model_that_is_not_there_is_refused_in_words(run: Run) -> None:
    with pytest.raises(RecordError, match=r"variant = 'mask'.*accepted: rlc, ideal"):
        run.load_model("mask")
    with pytest.raises(RecordError, match="has not come to its end under seed 7"):
        run.load_model("rlc", 7)


@pytest.mark.parametrize("x", ["round", "channel_uses", "energy", "air_time"])
def test_a_run_plots_its_accuracy(run: Run, x: str) -> None:
    figure = run.plot(x)
    assert len(figure.data) >= 2


def test_a_run_shows_itself_in_a_notebook_and_in_a_shell(run: Run) -> None:
    assert repr(run).startswith(f"Run('{run.folder}': rlc 0.")
    html = run._repr_html_()
    assert "<table" in html
    assert "ideal" in html
    assert "report.html" in html


def test_a_run_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fedmac.run(small(rounds=1), out=tmp_path / "r")
    assert capfd.readouterr() == ("", "")


def test_path_dict_and_scenario_give_the_same_run(tmp_path: Path) -> None:
    content = small()
    runs = [
        fedmac.run(source, out=tmp_path / str(n))
        for n, source in enumerate([content, str(write(tmp_path, content)), fedmac.Scenario.load(content)])
    ]
    for other in runs[1:]:
        pd.testing.assert_frame_equal(rounds_of(runs[0]), rounds_of(other))


def test_the_scenario_in_the_run_folder_gives_the_same_run_again(run: Run, tmp_path: Path) -> None:
    again = fedmac.run(run.folder / "scenario.toml", out=tmp_path / "again")
    pd.testing.assert_frame_equal(rounds_of(run), rounds_of(again))
    alone = fedmac.run(run.folder / "rlc" / "scenario.toml", out=tmp_path / "alone")
    mine = rounds_of(run).xs("rlc").dropna(axis="columns", how="all")
    pd.testing.assert_frame_equal(mine, rounds_of(alone).xs("small"))


def test_keys_are_set_from_python_in_every_way(tmp_path: Path) -> None:
    run = fedmac.run(
        small(variants=[{"name": "a", "rounds": 9}, {"name": "b"}]),
        out=tmp_path / "r",
        only=["a"],
        rounds=1,
        seed=5,
        training={"learning_rate": 0.25},
        settings={"data.devices": 3},
        workers=1,
        engine="local",
    )
    (variant,) = (v.scenario for v in run.scenario.resolve() if v.name == "a")
    assert (variant.rounds, variant.seed, variant.data.devices) == (1, 5, 3)
    assert (variant.training.learning_rate, variant.training.full_batch) == (0.25, True)
    assert (run.variants, set(run.rounds["seed"])) == (["a"], {5})
    assert run.rounds["devices"].dropna().map(len).tolist() == [3]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fedmac.run(small(), out=out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for how in ({"resume": True}, {"overwrite": True}):
        with held(out, "of a run"), pytest.raises(FolderInTheWay, match=r"a run is going on in it; accepted: another"):
            fedmac.run(small(), out=out, **how)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    fedmac.run(small(), out=out, overwrite=True)  # whoever held it has let go


def test_without_a_folder_each_run_gets_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [str(fedmac.run(small(rounds=0)).folder) for _ in range(2)]
    assert folders == ["runs/small", "runs/small-2"]


def test_evaluation_is_made_as_often_as_asked_and_after_the_last_round(tmp_path: Path) -> None:
    run = fedmac.run(small({"evaluation.every": 2, "data.validation_fraction": 0.2}), out=tmp_path / "r")
    frame = run.rounds.set_index("round")
    assert frame.index[frame["test_accuracy"].notna()].tolist() == [0, 2, 3]
    assert frame.index[frame["validation_accuracy"].notna()].tolist() == [0, 2, 3]
    assert frame["channel_uses"].notna().tolist() == [False, True, True, True]
    assert run.summary["variants"][0]["validation_accuracy"] == frame["validation_accuracy"].iloc[-1]


@pytest.mark.parametrize("limit", [{"power": 0.0}, {"energy_per_round": 0.0}])
def test_without_power_nobody_is_heard_and_the_record_says_so(tmp_path: Path, limit: Mapping[str, float]) -> None:
    run = fedmac.run(small() | {"power_control": limit}, out=tmp_path / "r")
    frame = run.rounds[run.rounds["round"] > 0]
    assert not frame["heard"].any()
    assert frame["silent"].tolist() == [[0, 1, 2, 3]] * 3
    assert run.rounds["test_loss"].nunique() == 1
    assert run.summary["variants"][0]["energy_j_per_device_max"] == 0.0
    assert (run.folder / "report.html").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        {"data.devices": 1},
        {"channel.noise_power": 0.0},
        {"data.test_fraction": 0.0},
        {"strategy.fraction_evaluate": 1.0},
    ],
    ids=str,
)
def test_edges_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    run = fedmac.run(small(changes, rounds=1), out=tmp_path / "r")
    assert run.summary["variants"][0]["rounds"] == 1


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_run_that_diverges_comes_to_its_end_and_is_recorded_as_such(tmp_path: Path) -> None:
    loud = {"channel.noise_power": 1e75, "power_control.name": "full-power", "power_control.receive": "unbiased"}
    run = fedmac.run(small(loud), out=tmp_path / "r")
    row = run.summary["variants"][0]
    assert (row["rounds"], row["test_loss"], row["test_loss_std"]) == (3, None, None)
    assert (run.folder / "report.html").is_file()


def test_what_no_model_can_hold_is_not_added_and_the_record_says_so(tmp_path: Path) -> None:
    loud = {"channel.noise_power": 1e100, "power_control.name": "full-power", "power_control.receive": "unbiased"}
    rounds = fedmac.run(small(loud), out=tmp_path / "r").rounds
    assert rounds["test_loss"].nunique() == 1  # the initial model's
    assert all(NOT_FINITE in said for said in rounds["warnings"][1:])


def test_a_run_in_which_no_device_ever_sends_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"norm is .*e\+37, .*at most 1e\+18"):
        fedmac.run(small({"training.learning_rate": 1e38}), out=tmp_path / "r")
    assert len(Run(tmp_path / "r").rounds) == 4


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, reason: type[BaseException] = KeyboardInterrupt) -> None:
    """Stop the run when a round is trained once more than `after` times."""
    train = local.LocalGrid.train_cohort
    left = iter(range(after))

    def stopping(self: local.LocalGrid, *args: Any) -> Any:
        if next(left, None) is None:
            raise reason
        return train(self, *args)

    monkeypatch.setattr(local.LocalGrid, "train_cohort", stopping)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a run stopped in the second round of its second seed."""
    with monkeypatch.context() as patch:
        interrupt(patch, after=4)
        with pytest.raises(KeyboardInterrupt):
            fedmac.run(small(variants=VARIANTS, seeds=2), out=tmp_path / "r")
    return tmp_path / "r"


def test_an_interrupted_run_is_usable(interrupted: Path) -> None:
    run = Run(interrupted)
    assert run.summary["interrupted"] is True
    assert run.rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 1}
    assert (interrupted / "report.html").is_file()
    assert isinstance(run.model, torch.nn.Module)
    with pytest.raises(RecordError, match="accepted: a finished run"):
        run.load_model("rlc", 1)


def test_a_resumed_run_equals_one_that_was_not_interrupted(interrupted: Path, run: Run) -> None:
    before = (interrupted / "rlc" / "model.safetensors").stat().st_mtime_ns
    resumed = fedmac.run(small(variants=VARIANTS, seeds=2), out=interrupted, resume=True)
    pd.testing.assert_frame_equal(rounds_of(resumed), rounds_of(run))
    assert resumed.summary["interrupted"] is False
    assert (interrupted / "rlc" / "model.safetensors").stat().st_mtime_ns == before
    for mine, theirs in zip(
        resumed.load_model("ideal", 1).parameters(), run.load_model("ideal", 1).parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_resuming_a_finished_run_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fedmac.run(small(), out=tmp_path / "r")
    interrupt(monkeypatch, after=0)
    again = fedmac.run(small(), out=tmp_path / "r", resume=True)
    pd.testing.assert_frame_equal(first.rounds, again.rounds)


def test_a_run_that_was_killed_can_be_read_and_resumed(interrupted: Path, run: Run) -> None:
    for name in ("summary.json", "report.html", "rlc/summary.json"):
        (interrupted / name).unlink()
    with (interrupted / "rlc" / "rounds.jsonl").open("a") as file:
        file.write('{"variant": "rlc", "se')
    killed = Run(interrupted)
    assert (killed.summary["interrupted"], killed.variants) == (True, ["rlc", "ideal"])
    assert len(killed.rounds) == 4 + 2
    resumed = fedmac.run(small(variants=VARIANTS, seeds=2), out=interrupted, resume=True)
    pd.testing.assert_frame_equal(rounds_of(resumed), rounds_of(run))


def test_variants_run_one_after_the_other_end_in_one_folder(tmp_path: Path, run: Run) -> None:
    for only in ("ideal", "rlc"):
        last = fedmac.run(small(variants=VARIANTS, seeds=2), out=tmp_path / "r", only=[only], resume=True)
    pd.testing.assert_frame_equal(rounds_of(last), rounds_of(run))
    assert last.variants == ["rlc", "ideal"]


def test_a_run_of_some_variants_that_was_cut_off_goes_on_with_these_alone(tmp_path: Path, run: Run) -> None:
    """Cut off twice: what the first resumption goes by is there for the second. Others run when they are named."""
    scenario, folder = small(variants=VARIANTS, seeds=2), tmp_path / "r"
    with pytest.raises(Killed):
        fedmac.run(scenario, out=folder, only=["ideal"], progress=Killer(2), report=False)
    with pytest.raises(Killed):
        fedmac.run(folder, resume=True, progress=Killer(3), report=False)
    resumed = fedmac.run(folder, resume=True, report=False)
    assert resumed.variants == ["ideal"]
    assert resumed.rounds.groupby("seed")["round"].max().to_dict() == {0: 3, 1: 3}
    whole = fedmac.run(folder, resume=True, only=["rlc"], report=False)
    pd.testing.assert_frame_equal(rounds_of(whole), rounds_of(run))


def test_another_scenario_is_refused_as_such_though_its_variants_are_others_than_were_named(tmp_path: Path) -> None:
    fedmac.run(small(variants=VARIANTS), out=tmp_path / "r", only=["ideal"], report=False)
    with pytest.raises(FolderInTheWay, match="a run of another scenario"):
        fedmac.run(small(), out=tmp_path / "r", resume=True)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not valid JSON"), ("[]", "not valid JSON"), ('{"only": "ideal"}', "only = 'ideal'")]
)
def test_an_environment_that_does_not_say_what_to_run_is_named(tmp_path: Path, text: str, said: str) -> None:
    fedmac.run(small(variants=VARIANTS), out=tmp_path / "r", only=["ideal"], report=False)
    (tmp_path / "r" / "environment.json").write_text(text)
    with pytest.raises(RecordError, match=rf"environment\.json: {said}.*accepted:.*--only"):
        fedmac.run(tmp_path / "r", resume=True)
    assert fedmac.run(tmp_path / "r", resume=True, only=["ideal"], report=False).variants == ["ideal"]


def test_a_full_disk_ends_the_run_and_keeps_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_to, left = os.write, iter(range(2))

    def filling(file: int, data: bytes) -> int:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_to(file, data)

    with monkeypatch.context() as patch:
        patch.setattr("fedmac.record.os.write", filling)
        with pytest.raises(RecordError, match=r"rounds\.jsonl: cannot be written: No space left on device"):
            fedmac.run(small(), out=tmp_path / "r")
    run = Run(tmp_path / "r")
    assert (run.summary["interrupted"], run.rounds["round"].tolist()) == (True, [0, 1])


def test_a_disk_too_full_for_the_summary_does_not_hide_why_the_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    interrupt(monkeypatch, after=1, reason=ArithmeticError)
    monkeypatch.setattr("fedmac.session.write_json", no_room)
    with pytest.raises(ArithmeticError):
        fedmac.run(small(), out=tmp_path / "r")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"only": ["nobody"]}, ScenarioError),
        ({"sinks": ["nobody"]}, ScenarioError),
        ({"settings": {"data.source": "nobody"}}, ScenarioError),
        ({"engine": "ray"}, ScenarioError),
        ({"overwrite": True, "resume": True}, FolderInTheWay),
    ],
    ids=str,
)
def test_what_is_refused_leaves_no_folder(tmp_path: Path, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        fedmac.run(small(), out=tmp_path / "r", **arguments)
    assert not (tmp_path / "r").exists()


def test_a_bad_scenario_does_not_cost_the_run_that_was_to_be_overwritten(tmp_path: Path) -> None:
    first = fedmac.run(small(rounds=1), out=tmp_path / "r")
    with pytest.raises(ScenarioError):
        fedmac.run(small({"data.source": "nobody"}), out=tmp_path / "r", overwrite=True)
    pd.testing.assert_frame_equal(Run(tmp_path / "r").rounds, first.rounds)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NoRunHere, match="no run here"):
            Run(folder)


def test_a_broken_summary_is_named(tmp_path: Path) -> None:
    fedmac.run(small(rounds=0), out=tmp_path / "r")
    (tmp_path / "r" / "summary.json").write_text("{")
    with pytest.raises(RecordError, match=r"summary\.json: not valid JSON"):
        Run(tmp_path / "r")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"variants": [{"name": "../../elsewhere"}]}',
            r"name = '\.\./\.\./elsewhere': no variant of the scenario; acc",
        ),
        (
            '{"variants": [{"name": "rlc"}, {"rounds": 3}]}',
            r"name = None: no variant of the scenario; accepted: rlc, id",
        ),
        ('{"variants": [{"name": ["rlc"]}]}', r"name = \['rlc'\]: no variant"),
        ('{"variants": {"name": "rlc"}}', "no list of variants in it; accepted: the summary that a run has written"),
        ("[]", "no list of variants in it"),
        ('{"variants": ["rlc"]}', "no list of variants in it"),
    ],
)
def test_a_summary_that_names_other_folders_than_the_runs_own_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    write(tmp_path, small(variants=VARIANTS)).rename(tmp_path / "scenario.toml")
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(RecordError, match=message):
        Run(tmp_path)


def test_to_resume_a_folder_that_is_not_there_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(NoRunHere, match="nowhere: no such run folder; accepted: with --resume the folder of a run"):
        fedmac.run(tmp_path / "nowhere", resume=True)
    with pytest.raises(ScenarioError, match="no such scenario file"):
        fedmac.run(tmp_path / "nowhere.toml", resume=True, out=tmp_path / "r")


def test_seeds_differ_and_their_spread_is_reported(run: Run) -> None:
    frame = run.rounds.query("variant == 'rlc' and round == 3")
    assert frame["mse_measured"].nunique() == 2
    row = run.summary["variants"][0]
    assert row["test_loss_std"] == pytest.approx(np.std(frame["test_loss"], ddof=1))
