"""The command line as a newcomer meets it: what it prints, where, and how it ends."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import time
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedmac.progress import Progress, figures, summary_table
from fedmac.record import read_rounds
from fedmac.scenario import Scenario
from fedmac.session import plan
from tests.fedmac.command_line import Command, drawn, narrow, one_line
from tests.fedmac.small_scenario import VARIANTS, small, write
from tests.interruptible import interruptible

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("run", "sweep", "compare", "tune", "report", "list", "schema", "new")


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """The small scenario with two variants, as a file in the working folder."""
    return write(tmp_path, small(variants=VARIANTS))


def test_a_scenario_file_becomes_a_table_and_a_report(fedmac: Command, scenario: Path) -> None:
    ended = fedmac("run", scenario)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "report: runs/small/report.html"
    assert Path("runs/small/report.html").is_file()
    rows = [line.split() for line in ended.out.splitlines()]
    accuracy = json.loads(Path("runs/small/summary.json").read_text())["variants"][1]["test_accuracy"]
    assert ["ideal", "3", f"{accuracy:.3f}"] in [row[:3] for row in rows]
    assert narrow(ended.out)


def test_options_reach_the_run(fedmac: Command, scenario: Path) -> None:
    options = ["--set", "data.devices=3", "--set", "uplink.ratio=0.5", "--seed", 4, "--seeds", 2, "--only", "rlc"]
    assert fedmac("run", scenario, *options, "--workers", 1, "--engine", "local", "--out", "here").code == 0
    written = Scenario.load(Path("here/scenario.toml"))
    assert (written.data.devices, written.uplink.ratio, written.seed, written.seeds) == (3, 0.5, 4, 2)
    assert {r["seed"] for r in read_rounds(Path("here/rlc/rounds.jsonl"))} == {4, 5}
    assert not Path("here/ideal").exists()


def test_several_seeds_show_their_spread(fedmac: Command, scenario: Path) -> None:
    out = fedmac("run", scenario, "--seeds", 2).out
    assert re.search(r"rlc +3 +0\.\d{3} ± 0\.\d{3}", out)
    assert narrow(out)


def test_a_second_run_needs_another_folder_or_a_word(fedmac: Command, scenario: Path) -> None:
    assert fedmac("run", scenario).code == 0
    first = Path("runs/small/environment.json").read_text()
    ended = fedmac("run", scenario)
    assert ended.code == 2
    assert ended.err == "fedmac: runs/small: holds a run already; accepted: another folder, --overwrite or --resume\n"
    assert Path("runs/small/environment.json").read_text() == first
    assert fedmac("run", scenario, "--resume").code == 0
    assert fedmac("run", scenario, "--overwrite").code == 0
    assert fedmac("run", scenario, "--out", "other").code == 0
    both = fedmac("run", scenario, "--overwrite", "--resume")
    assert (both.code, both.err) == (2, "fedmac: --overwrite and --resume: accepted: one of the two\n")
    other = fedmac("run", scenario, "--resume", "--set", "data.devices=5")
    assert other.code == 2
    assert "data.devices: 4 there, 5 here" in other.err


BAD_INPUT: list[tuple[list[str], str]] = [
    (["--set", "data.devces=3"], "data.devces = 3: unknown key; did you mean devices?"),
    (["--set", "rounds=many"], "rounds = 'many': accepted: an integer >= 0"),
    (["--set", "uplink.ratio=0"], "uplink.ratio = 0: accepted: a number > 0 and <= 1"),
    (["--set", "uplink.ratio=1.5"], "uplink.ratio = 1.5: accepted: a number > 0 and <= 1"),
    (["--set", "strategy.name=fedavgg"], "strategy.name = 'fedavgg': unknown strategy; did you mean fedavg?"),
    (["--set", "strategy.name=krum"], "strategy.name = 'krum': needs each device's own update"),
    (["--set", "rounds"], "--set 'rounds': accepted: key=value"),
    (["--set", "data.source=nobody"], "data.source = 'nobody' is not known; accepted: mnist-5k, digits"),
    (["--set", "data.source=hf:nobody/no-such-set"], "data set 'nobody/no-such-set' is not on this machine"),
    (["--only", "nobody"], "only = 'nobody': no such variant; accepted: rlc, ideal"),
    (["--sink", "nobody"], "sink = 'nobody': unknown; accepted: tensorboard, mlflow"),
    (["--out", "small.toml", "--overwrite"], "small.toml: exists and is not a run folder"),
    (["--engine", "ray"], "'ray' is not one of 'local', 'flower'"),
    (["--seeds", "0"], "0 is not in the range x>=1"),
    (["--sed", "0"], "No such option"),
]


@pytest.mark.parametrize(("words", "answer"), BAD_INPUT, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_bad_input_ends_with_2_and_says_what_is_accepted(
    fedmac: Command, scenario: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], answer: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ended = fedmac("run", scenario, *words)
    assert (ended.code, ended.out) == (2, "")
    assert answer in one_line(ended.err)
    assert "Traceback" not in ended.err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["run", "small.toml", "--seeds", "0"], "Invalid value for '--seeds': 0 is not in the range x>=1."),
        (["run"], "Missing argument 'SCENARIO'."),
        (["frobnicate"], "No such command 'frobnicate'."),
        (["run", "nowhere", "--resume"], "nowhere: no such run folder; accepted: with --resume the folder of a run to"
         " finish"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(fedmac: Command, words: list[str], answer: str) -> None:
    ended = fedmac(*words)
    assert (ended.code, ended.out, ended.err) == (2, "", f"fedmac: {answer}\n")


def test_a_choice_that_is_none_names_those_there_are_in_one_line(fedmac: Command, scenario: Path) -> None:
    ended = fedmac("run", scenario, "--engine", "ray")
    assert re.fullmatch(r"fedmac: Invalid value for '--engine': 'ray' is not one of 'local', .*\n", ended.err)


def test_the_command_alone_shows_its_help(fedmac: Command) -> None:
    ended = fedmac()
    assert ended.code == 2
    assert "Usage: fedmac" in ended.out + ended.err
    assert "repurpose" in ended.out + ended.err
    assert fedmac("--help").code == fedmac("--version").code == 0


@pytest.mark.parametrize(("name", "answer"), [("nothing.toml", "no such scenario file"), (".", "Is a directory")])
def test_a_scenario_that_cannot_be_read_ends_with_2(fedmac: Command, name: str, answer: str) -> None:
    ended = fedmac("run", name)
    assert ended.code == 2
    assert answer in ended.err


def test_a_scenario_that_is_not_toml_ends_with_2_and_says_where(fedmac: Command) -> None:
    Path("s.toml").write_text("rounds = 3\nname = quickstart\n")
    ended = fedmac("run", "s.toml")
    assert ended.code == 2
    assert "s.toml: not valid TOML" in ended.err
    assert "line 2" in ended.err


def test_a_warning_to_users_is_said_in_one_line_too(fedmac: Command) -> None:
    assert fedmac("--version").code == 0
    said = [warnings.formatwarning("it ended early", kind, "run.py", 7) for kind in (UserWarning, RuntimeWarning)]
    assert said[0] == "fedmac: warning: it ended early\n"
    assert said[1].startswith("run.py:7: RuntimeWarning: it ended early")


def test_a_full_disk_ends_with_1_and_names_the_path(
    fedmac: Command, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_to, left = os.write, iter(range(3))

    def filling(file: int, data: bytes) -> int:
        if data.startswith(b'{"variant"') and next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_to(file, data)

    monkeypatch.setattr("fedmac.record.os.write", filling)
    ended = fedmac("run", scenario)
    assert ended.code == 1
    assert ended.err == "fedmac: runs/small/rlc/rounds.jsonl: cannot be written: No space left on device\n"
    assert [r["round"] for r in read_rounds(Path("runs/small/rlc/rounds.jsonl"))] == [0, 1, 2]


def test_an_error_of_ours_that_nobody_foresaw_shows_its_traceback_and_ends_with_1(
    fedmac: Command, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmac.engines.run_jobs", lambda *_, **__: 1 / 0)
    ended = fedmac("run", scenario)
    assert ended.code == 1
    assert "ZeroDivisionError" in ended.err
    assert json.loads(Path("runs/small/summary.json").read_text())["interrupted"] is True


def _wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is there; a process that ends before, or a minute, is a failure."""
    end = time.monotonic() + 60
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_ctrl_c_ends_all_processes_and_leaves_a_usable_folder(fedmac: Command, tmp_path: Path) -> None:
    path = write(tmp_path, small(rounds=2000, variants=VARIANTS))
    command = interruptible("-m", "fedmac.cli", "run", str(path), "--workers", "2", "--out", "r")
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    rounds = tmp_path / "r" / "rlc" / "rounds.jsonl"
    _wait_for(lambda: rounds.exists() and rounds.read_bytes().count(b"\n") >= 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == "fedmac: interrupted; what was recorded so far is in r, and --resume finishes it"
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["variants"][0]["rounds"] >= 2
    assert (tmp_path / "r" / "report.html").is_file()
    assert fedmac("report", "r").code == 0


def test_resume_after_an_interruption_completes_the_run(
    fedmac: Command, scenario: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedmac.engines.run_jobs", stop)
        ended = fedmac("run", scenario)
    assert ended.code == 1
    assert "runs/small" in ended.err
    assert fedmac("run", scenario, "--resume").code == 0
    summary = json.loads(Path("runs/small/summary.json").read_text())
    assert (summary["interrupted"], [row["rounds"] for row in summary["variants"]]) == (False, [3, 3])


def test_without_a_command_the_help_is_shown(fedmac: Command) -> None:
    ended = fedmac()
    assert all(f" {command} " in ended.out + ended.err for command in COMMANDS)
    assert narrow(ended.out + ended.err)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(fedmac: Command, command: str) -> None:
    ended = fedmac(command, "--help")
    assert ended.code == 0
    assert f"Usage: fedmac {command}" in ended.out
    assert narrow(ended.out)


def test_the_help_of_run_tells_what_is_written_and_how_it_ends(fedmac: Command) -> None:
    text = re.sub(r"\s+", " ", fedmac("run", "--help").out)
    for word in ("SCENARIO is a TOML file", "report.html", "Exit code 0: done; 2: bad input", "--resume", "--set"):
        assert word in text


def test_the_version_is_shown(fedmac: Command) -> None:
    assert fedmac("--version").out == "fedmac 0.1.0\n"


def test_new_writes_a_scenario_that_runs(fedmac: Command) -> None:
    ended = fedmac("new")
    assert (ended.code, ended.out) == (0, "scenario.toml: written; run it with `fedmac run scenario.toml`\n")
    words = ["--set", "rounds=1", "--set", "data.devices=3", "--set", "data.source=digits", "--workers", "1"]
    assert fedmac("run", "scenario.toml", *words).code == 0
    again = fedmac("new")
    assert (again.code, again.err) == (2, "fedmac: scenario.toml: exists already; accepted: a new file\n")
    assert fedmac("new", "a/b.toml").code == 0
    assert fedmac("new", "a/b.toml/c.toml").code == 1


def test_the_starter_names_every_table(fedmac: Command) -> None:
    fedmac("new")
    text = Path("scenario.toml").read_text()
    left_out = {"description", "seeds", "engine", "evaluation"}
    # Not of the starter's uplink or strategy, or nothing unless asked for.
    comments = {"codec", "link", "impairments", "plan", "attackers", "trust", "privacy", "devices", "network", "faults"}
    assert set(Scenario.model_fields) - tomllib.loads(text).keys() == left_out | comments
    assert all(f"# [{table}]" in text for table in comments)


def test_list_names_what_a_scenario_can_name(fedmac: Command) -> None:
    everything = fedmac("list").out
    for word in (
        "data (data.source)",
        "mnist-5k",
        "dirichlet",
        "fedavgm",
        "random-linear",
        "rician",
        "flower",
        "mlflow",
    ):
        assert word in everything
    assert not re.search(r"\\|:math:", everything)
    codes = fedmac("list", "codes").out.splitlines()
    assert codes[0] == "codes (uplink.code)"
    assert [line.split()[0] for line in codes[1:]] == [
        "uncoded", "random-linear", "random-mask", "sparse-amp", "majority-vote",
    ]  # fmt: skip
    ended = fedmac("list", "colours")
    assert (ended.code, ended.out) == (2, "")
    assert "kind = 'colours': unknown; accepted: data, partitions" in ended.err


def test_what_is_listed_is_what_scenarios_accept(fedmac: Command) -> None:
    from fedmac.catalogue import catalogue

    schema = Scenario.model_json_schema()
    for key, names in catalogue().values():
        table, _, name = key.partition(".")
        if name:
            section = schema["properties"][table]
            definition = section.get("anyOf", [section])[0]["$ref"].rsplit("/", 1)[1]
            choices = schema["$defs"][definition]["properties"][name].get("enum", list(names))
            assert set(choices) == set(names), key


def _accepts(node: dict[str, Any], value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON schema accepts a value: as much of the standard as ours needs."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in node:
        return any(_accepts(choice, value, schema) for choice in node["anyOf"])
    kinds: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    if not isinstance(value, kinds[node["type"]]):
        return False
    if isinstance(value, dict):
        known = node.get("properties", {})
        return (value.keys() <= known.keys() or node.get("additionalProperties") is not False) and all(
            _accepts(known[key], item, schema) for key, item in value.items() if key in known
        )
    return value in node.get("enum", [value])


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda p: p.name)
def test_the_schema_accepts_the_scenarios_that_come_along(fedmac: Command, path: Path) -> None:
    schema = json.loads(fedmac("schema").out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    content = tomllib.loads(path.read_text())
    assert _accepts(schema, content, schema)
    assert set(schema["required"]) <= content.keys()
    assert not _accepts(schema, content | {"roundz": 3}, schema)


def test_reports_are_written_again_and_compared(fedmac: Command, scenario: Path) -> None:
    for name in ("a", "b"):
        fedmac("run", scenario, "--out", name, "--set", f"name={name}")
    Path("a/report.html").unlink()
    assert fedmac("report", "a").out == "a/report.html\n"
    assert Path("a/report.html").is_file()
    assert fedmac("report", "a", "b").out == "report.html\n"
    assert "b / ideal" in Path("report.html").read_text()
    assert fedmac("report", "a", "b", "--out", "both.html").out == "both.html\n"


def test_a_report_of_nothing_ends_with_2_and_one_that_cannot_be_written_with_1(fedmac: Command, scenario: Path) -> None:
    fedmac("run", scenario, "--set", "rounds=0")
    Path("empty").mkdir()
    ended = fedmac("report", "runs/small", "empty")
    assert ended.code == 2
    assert ended.err.startswith("fedmac: empty: no run here")
    assert fedmac("report", "runs/small", "--out", "no/such/folder/r.html").code == 1
    Path("runs/small/rlc/rounds.jsonl").write_text("broken\nlines\n")
    broken = fedmac("report", "runs/small")
    assert broken.code == 1
    assert "rounds.jsonl" in broken.err
    assert "Traceback" not in broken.err


def _summary(names: list[str], seeds: int) -> dict[str, Any]:
    row = {
        "rounds": 200, "seeds": list(range(seeds)), "units": "normalised", "test_accuracy": 0.8934,
        "test_accuracy_std": 0.0051, "test_loss": 0.3911, "channel_uses": 157_000, "energy_j_per_device_mean": 10_000.0,
        "energy_j_per_device_max": 10_000.0, "air_time_s": 0.0785, "wall_s": 12.3,
    }  # fmt: skip
    return {"name": "quickstart", "variants": [{"name": name} | row for name in names]}


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_its_terminal(seeds: int, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(_summary(["ideal", "rlc-rayleigh-inversion"], seeds), width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    (line,) = (line for line in text.splitlines() if "rlc-rayleigh-inversion" in line)
    assert len(line.rstrip()) <= width
    assert "…" not in text
    for figure in ("0.893", "± 0.005") if seeds > 1 else ("0.893",):
        assert figure in line
    assert "157,000" in line
    assert "10,000" in line
    assert ("12.3" in line) == (width == 120)


def _shown(summary: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(summary, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_table_of_systems_has_their_clock_and_no_channel() -> None:
    summary = _summary(["asynchronous", "synchronous"], 1)
    for row in summary["variants"]:
        row |= {"units": "physical", "clock": "simulated", "clock_s": 61.24, "air_time_s": 0.0, "channel_uses": 0}
    text = _shown(summary, 100)
    assert re.search(r"variant +rounds +accuracy +loss +energy +max +clock s +wall s", text)
    assert re.search(r"asynchronous +200 .* 61\.24 +12\.3", text)
    assert "energy: mean of the devices and largest, J; clock: simulated" in " ".join(text.split())
    narrow_text = _shown(summary, 56)
    assert "61.24" in narrow_text
    assert "wall s" not in narrow_text


def test_a_simulated_clock_stands_beside_air_time_where_there_is_some() -> None:
    summary = _summary(["over-the-air", "asynchronous"], 1)
    for row in summary["variants"]:
        row |= {"clock": "simulated", "clock_s": 61.24}
    summary["variants"][1] |= {"air_time_s": 0.0, "channel_uses": 0}
    assert re.search(r"loss +uses +energy +max +air s +clock s +wall s", _shown(summary, 120))


def test_a_measured_clock_of_exchanges_is_left_to_the_report() -> None:
    summary = _summary(["rlc"], 1)
    summary["variants"][0] |= {"clock_s": 61.24}
    assert "clock s" not in _shown(summary, 200)


def test_a_figure_that_is_not_finite_is_a_dash() -> None:
    summary = _summary(["diverged"], 2)
    summary["variants"][0] |= {"test_accuracy": None, "test_accuracy_std": None, "test_loss": None}
    console = Console(file=io.StringIO(), width=80)
    console.print(summary_table(summary, 80))
    assert re.search(r"diverged +200 +- +- +157,000", console.file.getvalue())  # type: ignore[attr-defined]


def test_progress_draws_bars_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    jobs = plan(Scenario.load(small(variants=VARIANTS, seeds=2)), tmp_path)
    record = {"variant": "rlc", "round": 1, "test_accuracy": 0.5, "test_loss": 1.25, "energy_j_per_device_mean": 50.0}
    shown = {}
    for terminal in (True, False):
        file = io.StringIO()
        progress = Progress(Console(file=file, force_terminal=terminal, width=80))
        progress.begin(jobs)
        progress.note(record | {"round": 0})
        progress.note(record)
        progress.end()
        shown[terminal] = drawn(file.getvalue())
    assert shown[False].strip() == ""
    last = shown[True].splitlines()[-3:]
    assert re.match(r"rlc +\S+ +1/6 .*acc 0\.500 loss 1\.250 energy 50$", last[0].rstrip())
    assert re.match(r"ideal +\S+ +0/6 ", last[1])
    assert re.match(r"all +\S+ +1/12 ", last[2])
    # Two columns stay free for the ^C that a terminal shows.
    assert narrow(shown[True], 78)


def test_figures_give_way_where_there_is_no_room_but_failures_stay() -> None:
    record = {
        "test_accuracy": None,
        "test_loss": float("nan"),
        "energy_j_per_device_mean": 12_345.6,
        "failures": [1, 2],
    }
    assert figures(record) == "2 failed acc - loss - energy 12,346"
    assert figures(record, 20) == "2 failed acc - loss -"[:20].rsplit(" ", 2)[0]
    assert figures(record, 8) == "2 failed"
    assert figures(record, -5) == ""


def test_devices_that_were_not_asked_are_shown_and_have_not_failed() -> None:
    record = {"test_accuracy": 0.5, "test_loss": 1.25, "failures": [], "not_asked": [1, 2, 3]}
    assert figures(record) == "acc 0.500 loss 1.250 3 not asked"
    assert figures(record | {"failures": [4]}) == "1 failed acc 0.500 loss 1.250 3 not asked"
    assert figures(record, 24) == "acc 0.500 loss 1.250", "said last, goes first"
