"""The report of systems of workers in a real browser: its timeline, and a table that fits the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmac.report import write_report
from tests.end_to_end.chromium import CHOOSE_EVERY_VIEW, DARK, IN_CHROMIUM, framed, opened, plots, titled, with_script
from tests.fedmac.synthetic_runs import run_rows, summary_of, write_run
from tests.fedmac.synthetic_systems import system_rows, system_summary

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [system_rows(name, rounds=6, devices=9, consensus=name == "gossip") for name in ("gossip", "asynchronous")]
    folder = tmp_path_factory.mktemp("run")
    return write_report(write_run(folder, rows, variants=[system_summary(own) for own in rows]))


@pytest.mark.parametrize("flags", [(), (DARK,)], ids=["light", "dark"])
def test_the_page_loads_without_console_errors_and_draws_every_span(
    report: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    dom, console = opened(report, tmp_path, "--window-size=1600,1200", *flags)
    assert console == []
    drawn = plots(dom)
    assert drawn["timeline"] == (0, [6 * 9] * 3), "computing, receiving and sending: a bar a device and round"
    assert drawn["utilisation"] == (0, [9])
    assert drawn["staleness"] == (0, [4, 4])
    assert drawn["updates"] == (0, [6] * 4)
    assert drawn["consensus-distance"] == (0, [6])


def test_every_view_of_the_timeline_can_be_chosen(report: Path, tmp_path: Path) -> None:
    dom, console = opened(with_script(report, CHOOSE_EVERY_VIEW, tmp_path), tmp_path / "profile")
    assert console == []
    assert titled(dom)["timeline"] == [["clock (s)", "54 54 54"]] * 2


def test_bars_stand_where_their_spans_are(report: Path, tmp_path: Path) -> None:
    """The first computing bar of device 4 goes from 0.1 to 0.6 s, and its hover text says so."""
    script = """setTimeout(() => {
      const canvas = document.querySelector("#timeline .canvas");
      const trace = canvas._fullData.findIndex((one) => one.name === "computing");
      const bars = canvas.calcdata[trace], axis = canvas._fullLayout.xaxis;
      const place = bars.findIndex((bar) => bar.s0 === 0.1 && Math.abs(bar.s1 - 0.6) < 1e-6
        && canvas._fullLayout.yaxis._categories[bar.p] === "4");
      Plotly.Fx.hover(canvas, [{curveNumber: trace, pointNumber: place}]);
      setTimeout(() => {
        const said = canvas.querySelector(".hoverlayer").textContent;
        const ticks = Array.from(canvas.querySelectorAll(".ytick"));
        ticks.sort((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top);
        const lanes = ticks.map((tick) => tick.textContent);
        document.title = JSON.stringify([said, lanes, axis.range]);
      }, 500);
    }, 1500);"""
    dom, console = opened(with_script(report, script, tmp_path), tmp_path / "profile", "--window-size=1600,1200")
    assert console == []
    said, lanes, seconds = titled(dom)
    assert said == "device 4: computing from 0.1 to 0.6 s"
    assert lanes == [str(device) for device in range(9)], "the first on top"
    assert seconds == pytest.approx([0, 5.9])  # device 0 sends last, from 5.7 s on


def wide(folder: Path) -> Path:
    """The report of two variants under three seeds that fill every column."""
    rows = [run_rows(name, seeds=range(3), rounds=4, devices=4) for name in ("rlc-minimum-mse", "ideal")]
    more = {"validation_accuracy": 0.8, "validation_accuracy_std": 0.01, "privacy_epsilon": 12.25}
    return write_report(write_run(folder, rows, variants=[summary_of(own, **more) for own in rows]))


@pytest.mark.parametrize("of", ["systems", "several seeds"])
def test_the_verdict_table_fits_a_page_of_1200_pixels(report: Path, tmp_path: Path, of: str) -> None:
    page = report if of == "systems" else wide(tmp_path / "run")
    measure = """
    onload = () => setTimeout(() => {
      const page = document.querySelector("iframe").contentDocument, box = page.querySelector(".scroll");
      document.title = JSON.stringify([box.scrollWidth, box.clientWidth, box.querySelectorAll("thead th").length]);
    }, 1500);"""
    dom, _ = opened(framed([page], 1200, measure, tmp_path), tmp_path / "profile", "--window-size=1400,1000")
    needed, there, columns = titled(dom)
    assert needed <= there
    assert columns == (10 if of == "systems" else 14)
