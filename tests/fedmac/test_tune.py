"""Tuning: what is chosen, that it can be repeated and resumed, that test rows play no part, and what is written."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import signal
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal

from clients.data import FederatedData
from fedmac import build_devices
from fedmac.record import FolderInTheWay, RecordError, RunFolder
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.studies import processes as pool
from fedmac.studies.tune import study as tuning_study
from fedmac.studies.tune.perform import TuningFailed, Unseen, tune
from fedmac.studies.tune.plan import number_of_trials
from fedmac.studies.tune.search_space import Choices, Range
from fedmac.studies.tune.study import best_of, read_study
from fedmac.studies.tune.trial import Trial, with_values
from fedmac.studies.tune.tuned_scenario import tuned_text
from tests.fedmac.command_line import Command, narrow, one_line
from tests.fedmac.small_scenario import VARIANTS, small, write

ROOT = Path(__file__).resolve().parents[2]
RATE = "training.learning_rate"
OVER = {RATE: (0.01, 10.0)}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


class Stop(Unseen):
    """Interrupts a tuning after some trials, in the middle of the next one."""

    def __init__(self, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = after
        run = tuning_study.run_trial

        def run_or_stop(*words: Any, **options: Any) -> Trial:
            if self.left == 0:
                monkeypatch.undo()
                raise KeyboardInterrupt
            self.left -= 1
            return run(*words, **options)

        monkeypatch.setattr(tuning_study, "run_trial", run_or_stop)


def outcome(frame: pd.DataFrame) -> pd.DataFrame:
    """Trials without the order of the variants."""
    return frame.sort_values(["variant", "trial"], ignore_index=True)


def test_a_tuning_that_was_killed_makes_the_trials_of_one_that_was_not(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tune(small(), OVER, trials=12, seeds=1, jobs=1, out="whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tune(small(), OVER, trials=12, seeds=1, jobs=1, out="parts", progress=Stop(5, patch))
    journal = Path("parts/small.journal")
    assert len(read_study(journal, "small")) == 5
    # What a kill may leave: half a line, and the lock of a process that is no more.
    with journal.open("a") as file:
        file.write('{"op_code":')
    Path("parts/small.journal.lock").symlink_to(journal)
    parts = tune(small(), OVER, trials=11, seeds=1, jobs=1, out="parts")
    parts = tune(small(), OVER, trials=12, seeds=1, jobs=1, out="parts")
    assert_frame_equal(parts.trials, whole.trials)
    assert parts.best == whole.best
    assert len(whole.trials) == 12


def test_a_finished_tuning_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tune(small(), OVER, trials=2, seeds=1, jobs=1)
    monkeypatch.setattr(tuning_study, "run_trial", lambda *_, **__: 1 / 0)
    assert_frame_equal(tune(small(), OVER, trials=2, seeds=1, jobs=1).trials, first.trials)


def test_the_outcome_does_not_depend_on_jobs() -> None:
    scenario = small(variants=VARIANTS)
    one = tune(scenario, OVER, trials=4, seeds=1, jobs=1, out="one")
    two = tune(scenario, OVER, trials=4, seeds=1, jobs=2, out="two")
    assert_frame_equal(outcome(two.trials), outcome(one.trials))
    assert Path("one/small-tuned.toml").read_bytes() == Path("two/small-tuned.toml").read_bytes()
    assert not list(Path("two").glob("*.running"))


def test_test_rows_are_not_looked_at_and_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Mapping[str, Any]] = []
    append = RunFolder.append
    monkeypatch.setattr(RunFolder, "append", lambda self, record: noted.append(record) or append(self, record))
    honest = tune(small(), OVER, trials=3, seeds=2, jobs=1, out="honest")
    assert noted
    assert not [name for record in noted for name in record if name.startswith("test_")]
    assert {record["round"] for record in noted if "validation_accuracy" in record} == {0, 1, 2, 3}

    built = build_devices.build_data

    def with_garbage(scenario: Scenario, seed: int) -> FederatedData:
        data = built(scenario, seed)
        garbage = replace(data.test, inputs=torch.full_like(data.test.inputs, torch.nan))
        return replace(data, test=garbage)

    monkeypatch.setattr(build_devices, "build_data", with_garbage)
    assert_frame_equal(tune(small(), OVER, trials=3, seeds=2, jobs=1, out="garbage").trials, honest.trials)


def test_a_scenario_keeps_its_own_validation_rows_and_others_get_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Scenario] = {}

    def look(scenario: Scenario, values: Any, **_: Any) -> Trial:
        seen[scenario.uplink.kind] = scenario
        return Trial("done", values, (0.5,))

    monkeypatch.setattr(tuning_study, "run_trial", look)
    own = {"name": "ideal", "uplink": {"kind": "ideal"}, "data": {"validation_fraction": 0.1}}
    tune(small(variants=[VARIANTS[0], own], rounds=100), OVER, trials=1, seeds=1, jobs=1)
    assert {kind: s.data.validation_fraction for kind, s in seen.items()} == {"over-the-air": 0.2, "ideal": 0.1}
    assert {(s.evaluation.test, s.evaluation.every) for s in seen.values()} == {(False, 5)}


def test_the_best_learning_rate_of_choices_is_the_one_of_largest_mean_over_seeds() -> None:
    tuning = tune(small(), {RATE: [1e-4, 0.5, 1e-3]}, seeds=2, jobs=1)
    frame = tuning.trials
    assert list(frame[RATE]) == [1e-4, 0.5, 1e-3]
    assert tuning.best == {"small": {RATE: 0.5}}
    row = frame.loc[frame["validation_accuracy"].idxmax()]
    assert (row[RATE], row["state"]) == (0.5, "done")
    assert tuning.scenario.training.learning_rate == 0.5
    loss = tune(small(), {RATE: [1e-4, 0.5, 1e-3]}, seeds=2, jobs=1, metric="validation_loss", out="loss")
    assert loss.best == {"small": {RATE: 0.5}}
    assert loss.trials["validation_loss"].idxmin() == 1


def test_every_combination_of_choices_is_tried_once() -> None:
    tuning = tune(small(), {RATE: [0.1, 1.0], "uplink.ratio": [0.1, 0.5]}, seeds=1, jobs=1, pruning=False)
    tried = list(tuning.trials[[RATE, "uplink.ratio"]].itertuples(index=False, name=None))
    assert tried == [(0.1, 0.1), (0.1, 0.5), (1.0, 0.1), (1.0, 0.5)]
    space: dict[str, Range | Choices] = {"a": Choices((1, 2)), "b": Choices((1, 2, 3))}
    assert [number_of_trials(space, trials) for trials in (None, 4, 100)] == [6, 4, 6]
    assert [number_of_trials({"a": Range(1, 2)}, trials) for trials in (None, 4)] == [30, 4]


def test_the_first_trial_has_the_scenarios_own_values_if_they_are_in_range() -> None:
    assert tune(small(), OVER, trials=1, seeds=1, jobs=1, out="a").best == {"small": {RATE: 0.5}}
    assert tune(small(), {RATE: (1.0, 10.0)}, trials=1, seeds=1, jobs=1, out="b").best["small"][RATE] != 0.5


def test_values_tried_before_are_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    run = tuning_study.run_trial
    monkeypatch.setattr(tuning_study, "run_trial", lambda s, v, **o: tried.append(tuple(v.values())) or run(s, v, **o))
    frame = tune(small(), {"training.local_steps": (1, 2)}, trials=6, seeds=1, jobs=1).trials
    assert len(tried) == len(set(tried)) == 2
    assert len(frame) == 6
    assert frame.groupby("training.local_steps")["validation_accuracy"].nunique().eq(1).all()


def test_a_run_that_diverges_is_never_the_best() -> None:
    tuning = tune(small(), {RATE: [1e30, 0.001]}, seeds=1, jobs=1)
    assert list(tuning.trials["state"]) == ["diverged", "done"]
    assert "no device's update could be used (seed 0)" in tuning.trials["reason"][0]
    assert tuning.best == {"small": {RATE: 0.001}}


def test_steps_inside_an_iteration_that_diverge_are_a_trial_that_diverged() -> None:
    # Each of InexactDANE's steps of 1e3 multiplies an iterate by about 1 - 1e3 l2 = -9: 120 of them make 1e114, and
    # nobody's answer can be used.
    dane = {"name": "inexact-dane", "inner_iterations": 120, "inner_step_size": 1e3}
    scenario = small(rounds=2, strategy=dane, training={"l2": 1e-2, "dtype": "float64"}, uplink={"kind": "ideal"})
    tuning = tune(scenario, {"strategy.inner_step_size": [1e3, 0.01]}, seeds=1, jobs=1, metric="validation_loss")
    assert list(tuning.trials["state"]) == ["diverged", "done"]
    assert "none of 4 devices answered" in tuning.trials["reason"][0]


def test_hopeless_trials_are_pruned_and_only_if_asked_for() -> None:
    rates = [0.3, 0.4, 0.5, 0.6, 0.7, 1e-5, 1e-4]
    states = {}
    for pruning in (True, False):
        tuning = tune(small(rounds=8), {RATE: rates}, seeds=1, jobs=1, pruning=pruning, out=f"pruning-{pruning}")
        states[pruning] = list(tuning.trials["state"])
    assert states == {True: ["done"] * 5 + ["pruned"] * 2, False: ["done"] * 7}


def test_the_first_of_equals_is_the_best() -> None:
    trials = [Trial("pruned", {"a": 0}), Trial("done", {"a": 1}, (0.5,)), Trial("done", {"a": 2}, (0.25, 0.75))]
    assert best_of(trials, "validation_accuracy") == best_of(trials, "validation_loss") == trials[1]
    assert best_of(trials[:1], "validation_accuracy") is None


def test_a_best_value_at_the_edge_is_said_where_there_is_more_beyond() -> None:
    at_edge = tune(small(), {RATE: [0.001, 0.01, 0.5]}, seeds=1, jobs=1, out="a").at_edge
    assert at_edge == [f"small: the best of {RATE} = 0.001,0.01,0.5 is at its edge, {RATE} = 0.5: widen it"]
    assert tune(small(), {RATE: [0.001, 0.5, 1e9]}, seeds=1, jobs=1, out="b").at_edge == []
    whole = tune(small(), {"uplink.ratio": [0.05, 1.0]}, seeds=1, jobs=1, out="c")
    assert whole.best == {"small": {"uplink.ratio": 1.0}}
    assert whole.at_edge == []  # a ratio above 1 is refused


def test_a_killed_process_leaves_the_other_variants_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    start, processes = pool._start, {}

    def noted_start(*words: Any) -> Any:
        running = start(*words)
        processes[running.task.name] = running.process
        return running

    class Kill(Unseen):
        def note(self, variant: str, trial: Trial) -> None:
            if variant == "rlc":
                os.kill(processes["rlc"].pid, signal.SIGKILL)

    monkeypatch.setattr(pool, "_start", noted_start)
    scenario = small(variants=VARIANTS)
    with pytest.raises(TuningFailed, match=r"^rlc: killed by signal 9; often the machine has run out of memory$"):
        tune(scenario, OVER, trials=30, seeds=1, jobs=2, out="killed", progress=Kill())
    assert len(read_study(Path("killed/ideal.journal"), "ideal")) == 30
    assert 1 <= len(read_study(Path("killed/rlc.journal"), "rlc")) < 30
    assert not multiprocessing.active_children()


COMMENTED = """\
# what this is about
name = "small"   # its name
rounds = 3

[data]
source = "digits"
devices = 4

[training]
local_steps = 2
full_batch = true
learning_rate = 0.5   # of those who have none of their own

[uplink]
code = "random-linear"
ratio = 0.25  # a quarter

[channel]
fading = "rayleigh"

# no noise
[[variants]]
name = "ideal"
uplink.kind = "ideal"

[[variants]]
name = "plain"

# with comments
[[variants]]
name = "dotted"
training.learning_rate = 1.0  # its own
channel.fading = "none"

[[variants]]
name = "inline"
training = { momentum = 0.5 }  # inline

[[variants]]
name = "tables"
[variants.channel]
fading = "none"
"""


def comments(text: str) -> list[str]:
    """The comments of a text, in their order."""
    return re.findall(r"#.*", text)


def resolved(text: str, settings: Mapping[str, Any] | None = None) -> dict[str, Scenario]:
    """The variants of a scenario as TOML."""
    return {v.name: v.scenario for v in Scenario.load(tomllib.loads(text), settings or {}).resolve()}


@pytest.mark.parametrize(
    "values",
    [
        {RATE: 0.137},
        {"training.momentum": 0.9, RATE: 2.0},
        {"uplink.uses": 100},
        {"strategy.server_learning_rate": 0.3},
        {"channel.fading": "rician", "channel.k_factor_db": 3.0},
    ],
    ids=str,
)
def test_a_tuned_scenario_differs_in_its_values_only_and_keeps_its_comments(values: dict[str, Any]) -> None:
    names = ["plain", "dotted", "inline", "tables"]
    base = COMMENTED.replace("[training]", '[strategy]\nname = "fedavgm"\n\n[training]')
    written = tuned_text(base, dict.fromkeys(names, values))
    expected = {n: with_values(s, values) if n in names else s for n, s in resolved(base).items()}
    assert resolved(written) == expected
    kept = [line for line in comments(base) if "uplink.uses" not in values or "quarter" not in line]
    assert [line for line in comments(written) if line in kept] == kept


def test_settings_are_part_of_the_tuned_scenario() -> None:
    settings = {"rounds": 7, "training.momentum": 0.25, "evaluation.every": 2}
    written = tuned_text(COMMENTED, {"plain": {RATE: 0.2}}, settings)
    expected = resolved(COMMENTED, settings)
    assert resolved(written) == expected | {"plain": with_values(expected["plain"], {RATE: 0.2})}
    assert comments(written) == comments(COMMENTED)


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda path: path.name)
def test_scenarios_that_come_along_can_be_tuned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    variants = resolved(text)
    rates = {name: {RATE: 0.1 + 0.01 * n} for n, (name, v) in enumerate(variants.items()) if v.training.learning_rate}
    written = tuned_text(text, rates)
    expected = {name: with_values(scenario, rates.get(name, {})) for name, scenario in variants.items()}
    assert resolved(written) == expected
    assert comments(written) == comments(text)
    assert tuned_text(text, {}) == text


def test_a_scenario_in_memory_is_written_as_well() -> None:
    assert tune(Scenario.load(small()), OVER, trials=1, seeds=1, jobs=1, write="here/t.toml").written.is_file()
    assert Scenario.load("here/t.toml") == Scenario.load(small({RATE: 0.5}))


def test_variants_tuned_one_after_the_other_come_together() -> None:
    scenario = small(variants=VARIANTS)
    tune(scenario, OVER, trials=1, seeds=1, jobs=1, only=["rlc"])
    both = tune(scenario, OVER, trials=2, seeds=1, jobs=1, only=["ideal"])
    assert {name: len(trials) for name, trials in both.results.items()} == {"rlc": 1, "ideal": 2}
    assert [v["training"]["learning_rate"] for v in tomllib.loads(both.written.read_text())["variants"]] == [
        both.best["rlc"][RATE],
        both.best["ideal"][RATE],
    ]


def test_a_folder_of_another_tuning_is_refused_with_the_difference() -> None:
    tune(small(), OVER, trials=1, seeds=1, jobs=1, out="d")
    before = Path("d/tune.toml").read_bytes()
    with pytest.raises(FolderInTheWay, match=r"seeds: 1 there, 2 here.*data.devices: 4 there, 5 here"):
        tune(small({"data.devices": 5}), OVER, trials=1, seeds=2, jobs=1, out="d")
    with pytest.raises(FolderInTheWay, match=rf"--over {RATE}: 0.01..10.0 there, 0.1..10.0 here"):
        tune(small(), {RATE: (0.1, 10.0)}, trials=1, seeds=1, jobs=1, out="d")
    tune(small({"engine.workers": 2}), OVER, trials=1, seeds=1, jobs=1, out="d")  # changes no outcome
    Path("full").mkdir()
    Path("full/thesis.tex").touch()
    with pytest.raises(FolderInTheWay, match="full: exists and is not the folder of a tuning"):
        tune(small(), OVER, out="full")
    assert Path("d/tune.toml").read_bytes() == before
    assert [path.name for path in Path("full").iterdir()] == ["thesis.tex"]


def test_two_tunings_do_not_share_a_folder() -> None:
    tune(small(), OVER, trials=1, seeds=1, jobs=1, out="d")
    with Path("d/tune.toml").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderInTheWay, match="d: another fedmac is tuning in it"):
            tune(small(), OVER, trials=2, seeds=1, jobs=1, out="d")


def test_a_folder_whose_subject_is_broken_says_which_file() -> None:
    Path("d").mkdir()
    Path("d/tune.toml").write_text("seeds = \n")
    with pytest.raises(RecordError, match=r"d/tune\.toml: cannot be read"):
        tune(small(), OVER, out="d")


def test_the_command_says_what_it_does_and_what_it_has_found(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, small(variants=VARIANTS))
    words = ["--over", f"{RATE}=0.001,0.5,1000", "--seeds", 2, "--jobs", 1, "--no-pruning", "--table"]
    code, out, err = fedmac("tune", path, *words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "small: 2 variants, each 3 trials x 2 seeds, every combination once"
    assert lines[1] == f"  {RATE}: 0.001,0.5,1000 (choices)"
    assert "the test rows are not looked at" in lines
    assert re.search(r"rlc +0\.5 +0\.\d{3} ± 0\.\d{3} +3", out)
    assert "| variant | 0.001 | 0.5 | 1000 | best |\n|---|---|---|---|---|\n| rlc | 0." in out
    assert lines[-1] == "tuned scenario: runs/small-tuning/small-tuned.toml"
    assert narrow("\n".join(line for line in lines if not line.startswith("|")))
    assert fedmac("tune", path, *words) == (code, out, err)


def test_the_command_warns_of_an_edge(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, small())
    code, _, err = fedmac("tune", path, "--over", f"{RATE}=0.001,0.5", "--seeds", 1)
    assert (code, err) == (0, f"fedmac: small: the best of {RATE} = 0.001,0.5 is at its edge, {RATE} = 0.5: widen it\n")


def test_ctrl_c_says_that_the_same_command_goes_on(
    fedmac: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["tune", write(tmp_path, small()), "--over", f"{RATE}=0.01..1", "--trials", 3, "--seeds", 1]
    with monkeypatch.context() as patch:
        Stop(2, patch)
        code, _, err = fedmac(*words)
    kept = "the trials that have ended are in runs/small-tuning, and the same command goes on"
    assert (code, err) == (1, f"fedmac: interrupted; {kept}\n")
    assert len(read_study(Path("runs/small-tuning/small.journal"), "small")) == 2
    assert fedmac(*words)[0] == 0
    assert len(read_study(Path("runs/small-tuning/small.journal"), "small")) == 3


def test_a_variant_that_always_diverges_ends_with_1_and_the_others_are_written(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, small(variants=[*VARIANTS, {"name": "wild", "model": {"name": "mlp"}}]))
    code, out, err = fedmac("tune", path, "--over", f"{RATE}=1e29,1e30", "--seeds", 1, "--only", "wild")
    assert code == 1
    assert "wild: every trial diverged, so nothing was tuned" in err
    assert "-" in out
    assert Scenario.load("runs/small-tuning/small-tuned.toml") == Scenario.load(path)


BAD_INPUT: list[tuple[list[str], str]] = [
    ([], "Missing option '--over'"),
    (
        ["--over", "training.learning_rat=0.1..1"],
        "training.learning_rat = 0.1: unknown key; did you mean learning_rate",
    ),
    (["--over", f"{RATE}=0..1.0"], f'variant "rlc": {RATE} = 0: accepted: a number > 0'),
    (["--over", "uplink.code=uncoded,nothing"], "uplink.code = 'nothing': accepted:"),
    (["--over", "model.hiden=3,4"], "model 'softmax': got an unexpected keyword argument 'hiden'; accepted: bias"),
    (["--over", "rounds=0,3", "--set", "rounds=3"], "rounds: set and tuned as well; accepted: --set or --over"),
    (["--over", f"{RATE}=0.1..1", "--set", "rounds=0"], "rounds = 0: nothing is learned"),
    (["--over", f"{RATE}=0.1..1", "--only", "nobody"], "only = 'nobody': no such variant; accepted: rlc, ideal"),
    (["--over", f"{RATE}=0.1..1", "--metric", "test_accuracy"], "'test_accuracy' is not one of"),
    (["--over", f"{RATE}=0.1..1", "--table"], "--table: shows the values of one key"),
    (["--over", f"{RATE}=0.1..1", "--trials", "0"], "0 is not in the range x>=1"),
    (["--over", f"{RATE}=0.1..1", "--write", "."], "--write .: is a folder; accepted: a file"),
    (["--over", "engine.workers=1,2"], "--over engine.workers: results do not depend on it"),
]


@pytest.mark.parametrize(("words", "answer"), BAD_INPUT, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_bad_input_ends_with_2_before_anything_starts(
    fedmac: Command, tmp_path: Path, words: list[str], answer: str
) -> None:
    code, out, err = fedmac("tune", write(tmp_path, small(variants=VARIANTS)), *words)
    assert (code, out) == (2, "")
    assert answer in one_line(err)
    assert "Traceback" not in err
    assert not Path("runs").exists()


def test_the_scenario_itself_is_not_overwritten_unless_it_is_named(tmp_path: Path) -> None:
    Path("d").mkdir()
    path = write(tmp_path, small()).rename("d/small-tuned.toml")
    with pytest.raises(ScenarioError, match="is the scenario itself; accepted: --write FILE"):
        tune(path, OVER, out="d")
    path = path.rename("small.toml")
    assert tune(path, {RATE: [0.1, 0.6]}, seeds=1, jobs=1, write=path).scenario.training.learning_rate == 0.6


def test_without_the_extra_the_message_names_it(
    fedmac: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmac.studies.tune.plan.find_spec", lambda name: None)
    code, out, err = fedmac("tune", write(tmp_path, small()), "--over", f"{RATE}=0.1..1")
    assert (code, out) == (2, "")
    assert "optuna and tomlkit: not installed" in err
    assert "pip install -e '.[tune]'" in err


def test_metrics_on_test_rows_and_numbers_below_one_are_refused() -> None:
    with pytest.raises(ScenarioError, match="test rows are for the end only; accepted: validation_accuracy"):
        tune(small(), OVER, metric="test_accuracy")
    for wrong in ({"trials": 0}, {"seeds": 0}, {"jobs": -1}):
        with pytest.raises(ScenarioError, match="accepted: an integer >= 1"):
            tune(small(), OVER, **wrong)  # type: ignore[arg-type]
