"""Checkpoints: when they are there, what they are refused for, and how a run is resumed from its folder alone."""

from __future__ import annotations

import errno
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.serverapp.strategy import FedAvg

import fedmac
from fedmac import learn
from fedmac.build_devices import build_workplace
from fedmac.checkpoint import Checkpoint, CheckpointFile
from fedmac.record import COSTS, MEASURED, FolderInTheWay, NoRunHere, RecordError, RunFolder, read_rounds
from fedmac.runs import Run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.session import perform, plan
from fedmac.state_file import read_state, write_state
from tests.fedmac.command_line import Command
from tests.fedmac.small_scenario import VARIANTS, small
from tests.fedmac.test_resume import Cut, cut_off
from tests.fleet import message_grid
from tests.run_outcome import outcome

torch.set_num_threads(1)

FEEDBACK = {"uplink.code": "random-linear", "uplink.decoder": "projection", "uplink.error_feedback": True}


@pytest.fixture(autouse=True)
def _few_objects_to_collect() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()


def run(scenario: Any, out: Path | None, **options: Any) -> Run:
    return fedmac.run(scenario, out=out, report=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never cut off."""
    folder = tmp_path_factory.mktemp("whole") / "r"
    run(small(FEEDBACK), folder)
    return folder


@pytest.fixture
def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was cut off after two of its three rounds."""
    with monkeypatch.context() as patch:
        cut_off(patch, 2, written=True)
        with pytest.raises(Cut):
            run(small(FEEDBACK), tmp_path / "r")
    return tmp_path / "r"


def rounds_in(folder: Path) -> list[int]:
    return [line["round"] for line in read_rounds(folder / "rounds.jsonl")]


def test_a_run_that_is_cut_off_has_a_checkpoint_and_a_finished_one_has_none(cut: Path, whole: Path) -> None:
    assert (cut / "checkpoint.safetensors").is_file()
    assert not list(whole.glob("checkpoint*"))
    run(cut, None, resume=True)
    assert outcome(cut) == outcome(whole)


def test_a_resumed_run_trains_only_the_rounds_that_are_missing(cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, append = [], RunFolder.append

    def noting(self: RunFolder, record: dict[str, Any]) -> None:
        trained.append(record["round"])
        append(self, record)

    monkeypatch.setattr(RunFolder, "append", noting)
    run(cut, None, resume=True)
    assert trained == [3]


def test_the_number_of_workers_may_change_on_resuming(cut: Path, whole: Path) -> None:
    run(cut, None, resume=True, workers=3)
    assert outcome(cut) == outcome(whole)


def test_a_run_cut_off_before_its_model_was_saved_trains_nothing_more(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        cut_off(patch, 3, written=True)
        with pytest.raises(Cut):
            run(small(FEEDBACK), tmp_path / "r")
    monkeypatch.setattr(RunFolder, "append", lambda *_: pytest.fail("a round was trained"))
    run(tmp_path / "r", None, resume=True)
    assert outcome(tmp_path / "r") == outcome(whole)


def test_a_stray_checkpoint_of_a_finished_run_is_removed(cut: Path, whole: Path) -> None:
    checkpoint = (cut / "checkpoint.safetensors").read_bytes()
    run(cut, None, resume=True)
    (cut / "checkpoint.safetensors").write_bytes(checkpoint)
    (cut / "checkpoint.safetensors.part").write_bytes(checkpoint[:100])
    run(cut, None, resume=True)
    assert outcome(cut) == outcome(whole)


def test_every_seed_and_variant_has_its_own_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = small(variants=VARIANTS, seeds=2)
    run(scenario, tmp_path / "whole")
    for number in (1, 2, 3, 4):  # each of the four runs is cut off once in its second round
        with monkeypatch.context() as patch:
            cut_off(patch, 2, written=number % 2 == 0)
            with pytest.raises(Cut):
                run(scenario, tmp_path / "cut", resume=number > 1)
        with monkeypatch.context() as patch:  # and goes on to its end, where the next begins
            cut_off(patch, 1, written=True)
            if number < 4:
                with pytest.raises(Cut):
                    run(scenario, tmp_path / "cut", resume=True)
    run(scenario, tmp_path / "cut", resume=True)
    for variant in ("rlc", "ideal"):
        assert outcome(tmp_path / "cut" / variant) == outcome(tmp_path / "whole" / variant)


def _cut_short(folder: Path) -> None:
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def _change(key: str, value: object) -> Any:
    def change(folder: Path) -> None:
        tree = read_state(folder / "checkpoint.safetensors")
        write_state(folder / "checkpoint.safetensors", tree | {key: value})

    return change


def _lose_a_round(folder: Path) -> None:
    lines = (folder / "rounds.jsonl").read_text().splitlines(keepends=True)
    (folder / "rounds.jsonl").write_text("".join(lines[:1] + lines[2:]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_cut_short, r"checkpoint\.safetensors: not a whole safetensors file"),
        (_change("format", 0), "its format is 0, here it is 1"),
        (_change("fedmac", "0.0"), "its fedmac is 0.0, here it is"),
        (_change("scenario", "another"), "its scenario is another, here it is"),
        (_lose_a_round, "the rounds up to 2 are not all there"),
    ],
)
def test_a_run_that_cannot_go_on_starts_anew_and_says_why(cut: Path, whole: Path, harm: Any, message: str) -> None:
    harm(cut)
    with pytest.warns(UserWarning, match=message + r".*; small \(seed 0\) starts anew"):
        run(cut, None, resume=True)
    assert outcome(cut) == outcome(whole)


def test_without_checkpoints_a_run_that_is_cut_off_starts_anew(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_model", lambda *_: (_ for _ in ()).throw(Cut))
        with pytest.raises(Cut):
            run(small(FEEDBACK | {"engine.checkpoint_every": 0}), tmp_path / "r")
    assert rounds_in(tmp_path / "r") == [0, 1, 2, 3]
    assert not list((tmp_path / "r").glob("checkpoint*"))
    run(tmp_path / "r", None, resume=True)
    assert outcome(tmp_path / "r") == outcome(whole)


class Secretive(FedAvg):
    """A strategy with something that no file can hold."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.seen = {1, 2}


def test_a_strategy_that_cannot_be_kept_runs_without_checkpoints_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learn, "build_strategy", lambda _: Secretive(min_available_nodes=4, fraction_evaluate=0.0))
    with pytest.warns(UserWarning, match=r"no checkpoints: state\.strategy\.values\.seen: a set; accepted") as warned:
        run(small(), tmp_path / "r")
    assert len([w for w in warned if "no checkpoints" in str(w.message)]) == 1
    assert rounds_in(tmp_path / "r") == [0, 1, 2, 3]


def test_a_disk_that_is_full_ends_the_run_which_then_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = CheckpointFile.save
    with monkeypatch.context() as patch:

        def filling(self: CheckpointFile, checkpoint: Checkpoint) -> None:
            if checkpoint.round == 2:
                patch.setattr("fedmac.state_file.os.fsync", lambda _: (_ for _ in ()).throw(full))
                self._synced = 0.0
            save(self, checkpoint)

        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(CheckpointFile, "save", filling)
        with pytest.raises(RecordError, match=r"(checkpoint\.safetensors|rounds\.jsonl): cannot be written: No space"):
            run(small(FEEDBACK), tmp_path / "r")
    assert not list((tmp_path / "r").glob("*.part"))
    assert Run(tmp_path / "r").summary["interrupted"] is True
    run(tmp_path / "r", None, resume=True)
    assert outcome(tmp_path / "r") == outcome(whole)


@pytest.mark.parametrize(
    "left", [[], ["scenario.toml.part"], ["scenario.toml"], ["scenario.toml", "environment.json.part"]]
)
def test_a_run_killed_while_its_folder_was_made_begins_in_it(tmp_path: Path, left: list[str]) -> None:
    run(small(), tmp_path / "once")
    (tmp_path / "r").mkdir()
    for name in left:
        (tmp_path / "r" / name).write_bytes((tmp_path / "once" / name.removesuffix(".part")).read_bytes())
    if "scenario.toml" in left:
        run(tmp_path / "r", None, resume=True)
    else:
        run(small(), tmp_path / "r", resume=True)
    assert outcome(tmp_path / "r")[:2] == outcome(tmp_path / "once")[:2]


def test_what_is_no_run_to_resume_is_refused_with_what_is_accepted(cut: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoRunHere, match=r"empty: no scenario\.toml in it, so no run to resume; accepted: a run folder"):
        run(tmp_path / "empty", None, resume=True)
    with pytest.raises(ScenarioError, match="a run folder; accepted: --resume to finish it, or a scenario file"):
        run(cut, None)
    with pytest.raises(ScenarioError, match="is resumed where it is; accepted: out left out"):
        run(cut, tmp_path / "elsewhere", resume=True)
    with pytest.raises(FolderInTheWay, match=r"another scenario \(seed: 0 there, 1 here\)"):
        run(cut, None, resume=True, seed=1)
    assert rounds_in(cut) == [0, 1, 2]


def test_the_command_resumes_a_folder_alone(fedmac: Command, cut: Path, whole: Path) -> None:
    ended = fedmac("run", cut, "--resume", "--workers", 2)
    assert ended.code == 0, ended.err
    assert outcome(cut)[:2] == outcome(whole)[:2]
    ended = fedmac("run", cut.parent, "--resume")
    assert ended.code == 2
    assert "no run to resume; accepted: a run folder" in ended.err


def test_a_checkpoint_of_one_seed_is_not_taken_for_another(cut: Path) -> None:
    (variant,) = Scenario.load(small(FEEDBACK, seeds=2)).resolve()
    folder = RunFolder(cut.parent / "other", variant)
    other = CheckpointFile(folder, 1)
    other.path.write_bytes((cut / "checkpoint.safetensors").read_bytes())
    assert other.path.name == "checkpoint-seed-1.safetensors"
    with pytest.warns(UserWarning, match=r"its seed is 0, here it is 1; small \(seed 1\) starts anew"):
        assert other.load() is None


def test_a_run_on_devices_reached_by_messages_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario.load(small())

    def on_messages(folder: Path) -> None:
        (job,) = plan(scenario, folder)
        work = build_workplace(job.variant.scenario, job.seed)
        perform(job, message_grid(work), work, lambda _: None)

    on_messages(tmp_path / "whole")
    with monkeypatch.context() as patch:
        cut_off(patch, 2, written=True)
        with pytest.raises(Cut):
            on_messages(tmp_path / "cut")
    assert read_state(tmp_path / "cut" / "checkpoint.safetensors")["state"]["air"]["devices"] is None
    on_messages(tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")  # these devices keep nothing


def test_a_finished_run_summed_up_after_a_cut_has_the_costs_of_one_that_was_not_cut(cut: Path, whole: Path) -> None:
    run(cut, None, resume=True)
    costs = [cost for cost in COSTS if cost not in MEASURED]
    (here,), (there,) = (json.loads((f / "summary.json").read_text())["variants"] for f in (cut, whole))
    assert {key: here[key] for key in costs} == {key: there[key] for key in costs}
