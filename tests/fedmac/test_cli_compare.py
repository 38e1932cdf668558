"""`fedmac compare` as a person meets it: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.fedmac.command_line import Command, narrow, one_line
from tests.fedmac.recorded_runs import rising, write_rounds, write_run, write_sweep

OWN = [
    "comparison.html",
    "curves.parquet",
    *(f"figure.{kind}" for kind in ("pdf", "png", "svg")),
    *(f"table.{kind}" for kind in ("csv", "md", "parquet", "tex")),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two variants and three seeds."""
    return write_run(tmp_path / "run", {"rlc": rising(0.05), "ideal": rising(0.06)})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("run")
def test_a_run_becomes_a_page_figures_and_tables(fedmac: Command) -> None:
    words = ["--x", "energy", "--to", "test_accuracy=0.5", "--pareto", "energy,test_accuracy"]
    ended = fedmac("compare", "run", *words)
    assert (ended.code, ended.err) == (0, "")
    assert names(Path("run/comparison")) == OWN
    assert ended.out.splitlines()[-1] == "page: run/comparison/comparison.html"
    assert "ideal is higher than rlc by" in one_line(ended.out)
    assert narrow(ended.out)
    page = Path("run/comparison/comparison.html").read_text()
    assert all(f'id="{plot}"' in page for plot in ("curves", "cost", "differences", "pareto"))
    table = pd.read_parquet("run/comparison/table.parquet")
    assert list(table["name"]) == ["rlc", "ideal"]


def test_a_gap_is_a_target_on_the_command_line(fedmac: Command, run: Path) -> None:
    for path in run.rglob("rounds.jsonl"):
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        write_rounds(path.parent, [row | {"objective_gap": 10.0 ** -row["round"]} for row in rows])
    ended = fedmac("compare", "run", "--y", "objective_gap", "--to", "objective_gap=0.01")
    assert (ended.code, ended.err) == (0, "")
    assert "round until objective gap was first 0.01 or better" in one_line(ended.out)
    assert pd.read_parquet("run/comparison/table.parquet")["target_cost"].tolist() == [2.0, 2.0]


@pytest.mark.usefixtures("run")
def test_the_same_command_writes_the_same_files_and_leaves_others_alone(fedmac: Command) -> None:
    assert fedmac("compare", "run", "--out", "there").code == 0
    first = {name: Path("there", name).read_bytes() for name in OWN}
    Path("there/notes.txt").write_text("mine")
    assert fedmac("compare", "run", "--out", "there", "--width", "double").code == 0
    assert fedmac("compare", "run", "--out", "there").code == 0
    assert names(Path("there")) == sorted([*OWN, "notes.txt"])
    assert {name: Path("there", name).read_bytes() for name in OWN} == first


def test_several_folders_are_compared_here(fedmac: Command, run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", {"ideal": rising(0.04)})
    ended = fedmac("compare", run, "other")
    assert (ended.code, ended.err) == (0, "")
    assert names(Path("comparison")) == OWN


def test_a_sweep_says_the_first_claims_and_leaves_the_others_to_the_page(fedmac: Command, tmp_path: Path) -> None:
    def heights(settings: Any) -> Any:
        return {"rlc": rising(0.02 + 0.001 * settings["power_control.energy_per_round"]), "ideal": rising(0.06)}

    values = [float(number) for number in range(1, 12)]
    write_sweep(tmp_path / "sweep", {"power_control.energy_per_round": values}, heights)
    ended = fedmac("compare", "sweep", "--x", "energy")
    assert (ended.code, ended.err) == (0, "")
    assert "\n3 more in the page\n" in ended.out
    assert ended.out.splitlines()[-1] == "page: sweep/comparison/comparison.html"
    page = Path("sweep/comparison/comparison.html").read_text()
    assert page.count("<li>") == 11
    assert all(f'id="{plot}"' in page for plot in ("curves", "groups", "grid"))


def test_unequal_budgets_are_labelled_unless_they_are_wanted(fedmac: Command, run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "dear", {"ideal": rising(0.06)}, changes={"power_control.energy_per_round": 80.0})
    folders = (run, "dear")
    labelled = fedmac("compare", *folders, "--only", "ideal")
    assert labelled.code == 0
    page = Path("comparison/comparison.html").read_text()
    assert "unequal budget: energy +60 %" in page
    assert "(unequal budget)" in page
    assert fedmac("compare", *folders, "--only", "ideal", "--unequal").code == 0
    page = Path("comparison/comparison.html").read_text()
    assert "unequal budget:" not in page
    assert "(unequal budget)" not in page
    assert "as asked for (--unequal)" in page


def test_one_seed_and_a_target_that_nobody_reaches_are_said(fedmac: Command, tmp_path: Path) -> None:
    write_run(tmp_path / "single", {"rlc": rising(0.05), "ideal": rising(0.06)}, seeds=[0])
    ended = fedmac("compare", "single", "--to", "test_accuracy=0.99")
    assert ended.code == 0
    assert "note: one seed: no band, no test; run with --seeds 5" in one_line(ended.out)
    assert "not reached" in ended.out
    assert "(best 0.7)" in ended.out
    assert "No series reached the target under any seed." in Path("single/comparison/comparison.html").read_text()


BAD_INPUT: list[tuple[list[str], str]] = [
    (["empty"], "empty: no run or sweep here; accepted: a run folder, a sweep folder"),
    (["nowhere"], "nowhere: no such folder"),
    (["run", "--x", "enrgy"], "x = 'enrgy': no such axis; did you mean energy?"),
    (["run", "--y", "accuracy"], "y = 'accuracy': not recorded;"),
    (["run", "--to", "0.88"], "to = '0.88': accepted: KEY=NUMBER, e.g. test_accuracy=0.88"),
    (["run", "--to", "test_accuracy=high"], "to = 'test_accuracy=high': accepted: KEY=NUMBER"),
    (["run", "--to", "test_acuracy=0.8"], "to = 'test_acuracy': not recorded; did you mean test_accuracy?"),
    (["run", "--pareto", "energy"], "pareto = energy: accepted: two or three different columns"),
    (["run", "--baseline", "idal"], "did you mean ideal?"),
    (["run", "--only", "nobody"], "only = 'nobody'"),
    (["run", "--out", "taken"], "out = 'taken': is a file; accepted: a folder"),
    (["run", "--y-range", "0.9..0.8"], "y-range = '0.9..0.8': accepted: LOW..HIGH"),
    (["run", "--y-range", "0.9"], "y-range = '0.9': accepted: LOW..HIGH"),
    (["run", "--width", "wide"], "'wide' is not one of 'single', 'double'"),
    ([], "Missing argument 'DIR...'"),
]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(("words", "answer"), BAD_INPUT, ids=lambda x: " ".join(x)[:40] if isinstance(x, list) else "")
def test_bad_input_ends_with_2_and_nothing_is_written(fedmac: Command, words: list[str], answer: str) -> None:
    Path("empty").mkdir()
    Path("taken").write_text("a file")
    ended = fedmac("compare", *words)
    assert (ended.code, ended.out) == (2, "")
    assert answer in one_line(ended.err)
    assert "Traceback" not in ended.err
    assert names(Path()) == ["empty", "run", "taken"]
    assert not Path("run/comparison").exists()


def test_runs_of_different_data_are_refused_with_what_differs(fedmac: Command, run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", {"ideal": rising(0.04)}, changes={"data.devices": 5})
    ended = fedmac("compare", run, "other")
    assert (ended.code, ended.out) == (2, "")
    assert "data.devices" in ended.err
    assert not Path("comparison").exists()


def test_a_full_disk_ends_with_1_and_names_the_file(
    fedmac: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def filling(path: Path, data: bytes) -> int:
        if path.name.startswith("figure.png"):
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", filling)
    ended = fedmac("compare", "run")
    assert ended.code == 1
    assert ended.err == "fedmac: run/comparison/figure.png: cannot be written: No space left on device\n"
    assert (run / "comparison" / "figure.svg").is_file()


@pytest.mark.usefixtures("run")
def test_an_interruption_ends_with_1_and_says_how_to_go_on(fedmac: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmac.studies.compare.comparison.compare", stop)
    ended = fedmac("compare", "run")
    assert ended.code == 1
    assert ended.err == "fedmac: interrupted; the same command writes everything in run/comparison anew\n"


def test_the_help_tells_what_is_written_and_how_it_ends(fedmac: Command) -> None:
    ended = fedmac("compare", "--help")
    assert ended.code == 0
    for word in ("comparison.html", "--to", "--pareto", "Exit code 0: done; 2: bad input", "channel_uses"):
        assert word in one_line(ended.out)
    assert narrow(ended.out)
