"""The report page: what it reads, what it says, and that nothing in a record can break it."""

from __future__ import annotations

import json
import re
from html import escape, unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmac.report import write_report
from fedmac.report.figures import MAX_POINTS, accuracy_figure
from fedmac.report.folder import read_run
from fedmac.report.page import document, figure_section
from fedmac.report.setting import repeat_command
from fedmac.report.table import verdict_table
from tests.fedmac.report_pages import PLOTLY, REPORT, body, decoded, views, write_page
from tests.fedmac.synthetic_runs import NASTY, run_rows, summary_of, write_run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("run"), name="quick & <start>", rounds=30, devices=6)


def test_plotly_is_inlined_once_and_nothing_is_requested(page: Path) -> None:
    assert page.name == "report.html"
    assert page.read_text(encoding="utf-8").count(PLOTLY) == 1
    html = body(page)
    assert not re.search(r"https?://", html)
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    assert not re.search(r"@import|url\(", html)
    assert "default-src 'none'" in html


def test_text_of_a_record_is_escaped_everywhere(page: Path) -> None:
    html = body(page)
    assert NASTY not in html
    assert escape(NASTY) in html
    assert "<title>quick &amp; &lt;start&gt;" in html
    assert "a &lt;scenario&gt;" in html
    # Every script opened is closed: no text ends one early.
    assert html.count("<script") == html.count("</script>")
    names = [trace["name"] for trace in views(html, "accuracy")[0]["data"]]
    assert escape(NASTY, quote=False) in names


def test_every_figure_says_what_it_shows_in_words(page: Path) -> None:
    html = body(page)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert len(captions) == 9
    assert all(caption.endswith(".") for caption in captions)
    labels = re.findall(r'class="canvas" role="img" aria-label="([^"]*)"', html)
    assert len(labels) == 9
    assert labels[0].startswith("Test accuracy. Last test accuracy: ideal 0.")
    assert "Test accuracy in numbers" in html


def test_an_older_record_without_clock_devices_and_bits_still_makes_a_page(tmp_path: Path) -> None:
    new = ("bits_per_device_mean", "compute_s", "clock_s", "energies", "heard", "exchange", "weights")
    dropped = (*new, "wall_train_s", "wall_uplink_s", "wall_evaluate_s", "training_examples")
    rows = run_rows("v", seeds=[0], rounds=5, devices=3)
    older = [{key: value for key, value in row.items() if key not in dropped} for row in rows]
    html = body(write_report(write_run(tmp_path, [older])))
    assert len(views(html, "accuracy")) == 5
    assert [trace["name"] for trace in views(html, "clock")[0]["data"]] == ["on air"]
    assert [trace["name"] for trace in views(html, "devices")[0]["data"]] == ["heard", "gain_db"]


def test_the_command_that_repeats_a_run_names_its_seeds() -> None:
    assert repeat_command([{"seeds": [3, 4]}, {"seeds": [3, 4]}]) == "fedmac run scenario.toml --seed 3 --seeds 2"
    assert repeat_command([{"seeds": [3, 4]}, {"seeds": [3]}]) == "fedmac run scenario.toml"
    assert repeat_command([]) == "fedmac run scenario.toml"


def test_only_a_live_page_may_ask_its_server() -> None:
    still = document("a <title>", "facts", ["careful & slow"], ["<section></section>", ""])
    assert "connect-src" not in still
    assert "a &lt;title&gt;" in still
    assert "careful &amp; slow" in still
    live = document("t", "f", [], [], live="/version/</script>", version="1")
    assert "connect-src 'self'" in live
    assert '{"path":"/version/\\u003c/script\\u003e","version":"1"}' in live
    assert live.replace(PLOTLY, "").count("<script") == live.replace(PLOTLY, "").count("</script>")


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's contrast ratio of two colours ``#rrggbb``."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    roots = re.findall(r":root \{(.*?)\}", (REPORT / "page.css").read_text(encoding="utf-8"), re.S)
    assert len(roots) == 2, "light and dark"
    for root in roots:
        colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", root))
        for ink in ("--ink", "--soft"):
            for paper in ("--paper", "--card", "--notice"):
                assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper, root)
        # The outline of what has the focus: WCAG asks 3 of what is no text.
        assert contrast(colours["--accent"], colours["--paper"]) >= 3


@settings(max_examples=25, deadline=None)
@given(name=st.text(min_size=1, max_size=30))
@example(name=NASTY)
@example(name="<!-- <script>")
def test_no_name_breaks_the_page(name: str) -> None:
    rows = pd.DataFrame({"variant": [name], "seed": [0], "round": [1], "test_accuracy": [0.5]})
    figures = {name: accuracy_figure(rows), "b": accuracy_figure(rows)}
    html = figure_section("plot", name, name, figures) + verdict_table([{"name": name}])
    assert html.count("<script") == html.count("</script>") == 1
    assert "<!--" not in html
    assert escape(name) in re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert unescape(views(html, "plot")[0]["data"][0]["name"]) == unescape(escape(name, quote=False))


def test_a_run_without_rounds_says_so(tmp_path: Path) -> None:
    (tmp_path / "scenario.toml").write_text('name = "x"', encoding="utf-8")
    html = body(write_report(tmp_path))
    assert "No round was recorded" in html
    assert "no summary.json" in html
    assert 'class="plot"' not in html


def test_an_interrupted_run_says_so_and_shows_what_it_has(tmp_path: Path) -> None:
    rows = run_rows("rlc", seeds=[0], rounds=5, devices=3)
    html = body(write_report(write_run(tmp_path, [rows], interrupted=True, variants=[])))
    assert "was interrupted" in html
    assert f"{rows[-1]['test_accuracy']:.3f}" in html, "the table is made from the rounds"
    assert "summarised from their rounds: rlc." in html
    assert len(views(html, "accuracy")) == 7


def test_a_run_that_has_not_ended_takes_units_and_devices_from_its_scenario(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [run_rows(name, seeds=[0], rounds=2, devices=3) for name in ("a", "b")])
    (folder / "summary.json").unlink()
    (folder / "scenario.toml").write_text(
        '[channel]\nunits = "physical"\n[data]\ndevices = 7\n[[variants]]\nname = "b"\ndata.devices = 9\n', "utf-8"
    )
    names = {v["name"]: (v["units"], v["devices"]) for v in read_run(folder).variants}
    assert names == {"a": ("physical", 7), "b": ("physical", 9)}


def test_a_variant_that_has_not_begun_is_named(tmp_path: Path) -> None:
    rows = run_rows("rlc", seeds=[0], rounds=2, devices=3)
    summaries = [summary_of(rows), {"name": "mask", "rounds": 0, "seeds": []}]
    html = body(write_report(write_run(tmp_path, [rows], variants=summaries)))
    assert "No round was recorded for: mask." in html


def test_a_line_cut_short_is_noted_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [run_rows("rlc", seeds=[0], rounds=3, devices=3)])
    file = folder / "rounds.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole[:-20], encoding="utf-8")
    assert "cut short" in body(write_report(folder))
    file.write_text(whole.replace('"round": 1', '"round": '), encoding="utf-8")
    with pytest.raises(ValueError, match=r"rounds\.jsonl:2: got a line that is no JSON"):
        write_report(folder)


def test_a_resumed_round_counts_once(tmp_path: Path) -> None:
    rows = run_rows("rlc", seeds=[0], rounds=3, devices=3)
    again = rows[-1] | {"test_accuracy": 0.5}
    rounds = read_run(write_run(tmp_path, [[*rows, again]])).rounds
    assert len(rounds) == 4
    assert rounds["test_accuracy"].iloc[-1] == 0.5


def test_variants_keep_the_order_of_the_summary(tmp_path: Path) -> None:
    variants = [run_rows(name, seeds=[0], rounds=2, devices=2) for name in ("zeta", "alpha", "mid")]
    assert list(read_run(write_run(tmp_path, variants)).rounds["variant"].unique()) == [
        "zeta",
        "alpha",
        "mid",
    ]


def test_several_runs_are_compared_in_one_page(tmp_path: Path) -> None:
    rows = run_rows("rlc", seeds=[0], rounds=3, devices=3)
    folders = [write_run(tmp_path / name, [rows], name="same") for name in ("first", "second")]
    html = body(write_report(folders, tmp_path / "both.html"))
    names = [trace["name"] for trace in views(html, "accuracy")[0]["data"]]
    assert names == ["first / rlc", "second / rlc"]
    with pytest.raises(ValueError, match="out: got None with 2 run folders"):
        write_report(folders)
    with pytest.raises(ValueError, match="each run folder once"):
        write_report([folders[0], folders[0]], tmp_path / "both.html")


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder with summary"):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_an_old_report_stays_whole_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, [run_rows("rlc", seeds=[0], rounds=1, devices=2)])
    page = write_report(folder)
    before = page.read_bytes()

    def full(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(folder)
    assert page.read_bytes() == before
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))


def test_a_large_run_makes_a_page_under_three_megabytes(tmp_path: Path) -> None:
    variants = [
        run_rows(name, seeds=seeds, rounds=500, devices=100, silent=True)
        for name, seeds in (("rlc", range(2)), ("inversion", [0]))
    ]
    page = write_report(write_run(tmp_path, variants))
    assert page.stat().st_size < 3e6
    html = body(page)
    line = next(trace for trace in views(html, "accuracy")[0]["data"] if trace["name"] == "inversion")
    assert len(decoded(line["y"])) == MAX_POINTS
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert sum("in the run folder" in caption for caption in captions) == 6, "curves, error and maps say what is drawn"


def test_an_array_that_several_views_share_is_on_the_page_once() -> None:
    rows = pd.DataFrame(run_rows("v", seeds=[0], rounds=30, devices=2))
    figures = {x: accuracy_figure(rows, x=x) for x in ("round", "clock", "wall")}
    html = figure_section("plot", "Plot", "Sentence.", figures)
    y = json.dumps(figures["round"].to_dict()["data"][0]["y"]["bdata"])
    assert html.count(y) == 1
    assert [len(decoded(view["data"][0]["y"])) for view in views(html, "plot")] == [31, 31, 31]
