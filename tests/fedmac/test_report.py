"""The report: what it reads, what it says, and that nothing in a record can break the page."""

from __future__ import annotations

import base64
import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from fedmac.report import write_report
from fedmac.report.air_figures import error_figure, gain_figures, power_figures, silence_figure
from fedmac.report.figures import MAX_POINTS, accuracy_figure, loss_figure, mean_over_seeds, thin
from fedmac.report.folder import read_run
from fedmac.report.page import figure_section
from fedmac.report.table import verdict_sentences, verdict_table
from tests.fedmac.synthetic_runs import NASTY, run_rows, summary_of, write_run


def body(page: Path) -> str:
    """The page without plotly.js."""
    return page.read_text(encoding="utf-8").replace(get_plotlyjs(), "")


def views(html: str, identifier: str) -> list[dict[str, Any]]:
    """The views of one plot, as the page's script reads them."""
    found = re.search(rf'id="{identifier}".*?<script type="application/json">(.*?)</script>', html, re.S)
    assert found is not None, f"the page has no plot {identifier}"
    parsed: list[dict[str, Any]] = json.loads(found.group(1))
    return parsed


def decoded(value: Any) -> np.ndarray[Any, Any]:
    """An array of a plotly figure written as JSON."""
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    return np.asarray(value)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variants = [
        run_rows("ideal", seeds=range(3), rounds=30, devices=6, fading=False),
        run_rows("rlc", seeds=range(3), rounds=30, devices=6, silent=True),
        run_rows(NASTY, seeds=[0], rounds=2, devices=6),
    ]
    return write_report(write_run(tmp_path_factory.mktemp("run"), variants, name="quick & <start>"))


def test_plotly_is_inlined_once_and_nothing_is_requested(page: Path) -> None:
    assert page.name == "report.html"
    assert page.read_text(encoding="utf-8").count(get_plotlyjs()) == 1
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


def test_curves_are_the_means_over_seeds_with_a_band_of_one_std(page: Path) -> None:
    rows = pd.DataFrame(run_rows("rlc", seeds=range(3), rounds=30, devices=6, silent=True))
    groups = rows.groupby("round")["test_accuracy"]
    traces = {trace["name"]: trace for trace in views(body(page), "accuracy")[0]["data"]}
    np.testing.assert_allclose(decoded(traces["rlc"]["y"]), groups.mean())
    upper = decoded(traces["rlc ± 1 std"]["y"])[:31]
    np.testing.assert_allclose(upper, groups.mean() + groups.std())
    assert escape(NASTY, quote=False) + " ± 1 std" not in traces, "one seed has no band"


def test_accuracy_is_drawn_against_rounds_and_each_cost(page: Path) -> None:
    for plot in ("accuracy", "loss"):
        titles = [view["layout"]["xaxis"]["title"]["text"] for view in views(body(page), plot)]
        assert titles == ["round", "channel uses", "energy per device (normalised)", "air time (s)"]
    uses = next(trace for trace in views(body(page), "accuracy")[1]["data"] if trace["name"] == "rlc")
    np.testing.assert_array_equal(decoded(uses["x"]), 785 * np.arange(31))


def test_every_figure_has_a_sentence(page: Path) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", body(page))
    assert len(captions) == 6
    assert all(caption.endswith(".") for caption in captions)


def test_air_figures_are_left_out_for_variants_without_an_air(page: Path) -> None:
    for plot, count in (("power", 2), ("gains", 2)):
        assert len(views(body(page), plot)) == count
    assert {trace["legendgroup"] for trace in views(body(page), "error")[0]["data"]} == {"rlc", NASTY}


def test_verdict_names_the_ties_and_unequal_costs() -> None:
    common = {"rounds": 9, "seeds": [0, 1], "energy_j_per_device_mean": 5.0, "units": "physical"}
    variants = [
        {"name": "a", "test_accuracy": 0.900, "test_accuracy_std": 0.01, "channel_uses": 100, **common},
        {"name": "b", "test_accuracy": 0.895, "test_accuracy_std": 0.01, "channel_uses": 100, **common},
        {"name": "c", "test_accuracy": 0.700, "test_accuracy_std": 0.01, "channel_uses": 200, **common},
    ]
    leader, costs = verdict_sentences(variants)
    assert leader == "Highest test accuracy: a, 0.900 ± 0.010. Within one standard deviation of it: b."
    assert costs == "Not at equal channel uses: from 100 to 200. At equal mean energy per device: 5."


def test_table_gives_the_unit_of_energy_per_row_where_units_differ() -> None:
    rows = [
        {"name": "a", "energy_j_per_device_mean": 5.0, "units": "physical"},
        {"name": "b", "energy_j_per_device_mean": 7.0, "units": "normalised"},
    ]
    assert "energy per device, mean (J)" in verdict_table(rows[:1])
    both = verdict_table(rows)
    assert "<td>5 J</td>" in both
    assert "<td>7 normalised</td>" in both


def test_table_shows_diverged_and_absent_figures_as_such() -> None:
    table = verdict_table([{"name": "a", "test_accuracy": float("nan")}, {"name": "b", "test_accuracy": None}])
    assert "not finite" in table
    assert "<td>\N{EN DASH}</td>" in table


def test_power_is_a_share_of_the_limit_and_devices_keep_their_row() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["v", "v"],
            "seed": [0.0, 0.0],
            "round": [1.0, 2.0],
            "devices": [np.array([3.0, 7.0]), np.array([7.0])],
            "amplitudes": [np.array([1.0, 2.0]), np.array([0.0])],
            "power_limit": [np.array([4.0, 4.0]), 4.0],
            "gains": [np.array([1.0, 0.1]), np.array([0.0])],
        }
    )
    heat = power_figures(rows)["v"].data[0]
    assert list(heat.y) == ["3", "7"]
    np.testing.assert_allclose(heat.z, [[0.25, np.nan], [1.0, 0.0]])
    np.testing.assert_allclose(gain_figures(rows)["v"].data[0].z, [[0.0, np.nan], [-20.0, np.nan]], atol=1e-5)


def test_error_figure_leaves_out_what_a_log_axis_cannot_show() -> None:
    rows = pd.DataFrame(
        {
            "variant": "v",
            "seed": 0,
            "round": [1, 2, 3],
            "mse_measured": [0.0, 2.0, None],
            "mse_predicted": None,
        }
    )
    (trace,) = error_figure(rows).data
    assert list(trace.y) == [2.0]


def test_silent_and_failed_devices_are_counted_by_round(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [run_rows("v", seeds=[0], rounds=4, devices=3, silent=True)]))
    silent, failed = silence_figure(run.rounds).data
    assert list(silent.y) == [1, 1, 1, 1]
    assert list(failed.y) == [0, 0, 1, 0]


def test_figures_for_notebooks_name_what_is_wrong() -> None:
    rows = pd.DataFrame({"variant": ["v"], "seed": [0], "round": [1], "test_accuracy": [0.5]})
    assert len(accuracy_figure(rows).data) == 1
    with pytest.raises(ValueError, match=r"x: got 'rounds', expected one of round, channel_uses"):
        accuracy_figure(rows, x="rounds")
    with pytest.raises(ValueError, match="without channel_uses"):
        accuracy_figure(rows, x="channel_uses")
    energy = accuracy_figure(rows.assign(energy_j_per_device_mean=7.0), x="energy")
    assert list(energy.data[0].x) == [7.0]


def test_loss_that_spans_decades_is_drawn_on_a_log_axis() -> None:
    rows = pd.DataFrame({"variant": "v", "seed": 0, "round": [0, 1, 2], "test_loss": [2.3, 1e5, float("inf")]})
    figure = loss_figure(rows)
    assert figure.layout.yaxis.type == "log"
    assert list(figure.data[0].y) == [2.3, 1e5], "a loss that is not finite is a gap"


def test_cost_before_training_is_zero() -> None:
    rows = pd.DataFrame({"round": [0, 1], "channel_uses": [None, 785], "test_accuracy": [0.1, 0.5]})
    assert list(mean_over_seeds(rows, "test_accuracy", "channel_uses")["x"]) == [0.0, 785.0]


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 5000), limit=st.integers(2, 400))
def test_thinning_keeps_the_ends_and_the_order(length: int, limit: int) -> None:
    kept = thin(length, limit)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert len(kept) == min(length, limit)
    assert (np.diff(kept) > 0).all()


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
    assert len(views(html, "accuracy")) == 4


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


def test_a_large_run_makes_a_page_under_six_megabytes(tmp_path: Path) -> None:
    first = run_rows("v0", seeds=[0], rounds=500, devices=100)
    light = [{**row, "seed": 1, "gains": None, "amplitudes": None} for row in first]
    text = (write_run(tmp_path, [first + light]) / "rounds.jsonl").read_text(encoding="utf-8")
    (tmp_path / "rounds.jsonl").unlink()
    for name in ("v0", "v1", "v2", "v3", "v4", "v5"):
        (tmp_path / name).mkdir()
        lines = text.replace('"variant": "v0"', f'"variant": "{name}"')
        (tmp_path / name / "rounds.jsonl").write_text(lines, encoding="utf-8")
    html = body(write_report(tmp_path))
    assert len(html) < 6e6
    assert len(views(html, "power")) == 6
    line = next(trace for trace in views(html, "accuracy")[0]["data"] if trace["name"] == "v5")
    assert len(decoded(line["y"])) == MAX_POINTS
