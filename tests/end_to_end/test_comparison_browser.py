"""The page of a comparison in a real browser: every plot has its traces, in every view and at every width."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fedmac.studies.compare.page import comparison_page
from tests.end_to_end.chromium import CHOOSE_EVERY_VIEW, DARK, IN_CHROMIUM, framed, opened, plots, titled, with_script
from tests.fedmac.synthetic_comparisons import comparison, front, grid, series
from tests.fedmac.synthetic_runs import NASTY

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page of two runs' series, one of which never reached the target, and that of a sweep of 18."""
    few = [
        series("ideal", 0.9),
        series(NASTY, 0.89, unequal=["energy +31 %"]),
        series("a variant with a long name, one that no telephone has room for", 0.8, reached=0),
        series("single", 0.895, seeds=1),
    ]
    sweep = grid([0, 10, 20], [0.05, 0.1, 0.5], ["rlc", "ideal"])
    drawn = {
        "few.html": comparison(few, pareto=front(few, ["energy", "test_accuracy", "channel_uses"])),
        "sweep.html": comparison(sweep, pareto=front(sweep, ["energy", "test_accuracy"])),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, each in drawn.items():
        (folder / name).write_text(comparison_page(each), encoding="utf-8")
    return folder / "few.html", folder / "sweep.html"


def test_pages_load_without_console_errors_and_every_plot_has_its_traces(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    few, sweep = folders
    dom, console = opened(few, tmp_path / "few", "--window-size=1600,1200")
    assert console == []
    assert plots(dom) == {
        "curves": (0, [101] * 4),
        "cost": (0, [1] * 3),
        "differences": (0, [1] * 3),
        "pareto": (0, [2, 2]),
    }
    assert dom.count("(unequal budget)") >= 2, "in the legend and on the row"
    dom, console = opened(sweep, tmp_path / "sweep")
    assert console == []
    assert plots(dom) == {
        "curves": (0, [101] * 11),
        "groups": (0, [101] * 2),
        "grid": (0, [9]),
        "cost": (0, [1] * 18),
        "differences": (0, [1] * 17),
        "pareto": (0, [9, 9]),
    }


def test_every_view_can_be_chosen_and_has_its_traces(folders: tuple[Path, Path], tmp_path: Path) -> None:
    dom, console = opened(with_script(folders[1], CHOOSE_EVERY_VIEW, tmp_path), tmp_path / "profile")
    assert console == []
    said = titled(dom)
    assert all(axis for views in said.values() for axis, _ in views), "every view has an x axis with a name"
    assert [axis for axis, _ in said["curves"]] == ["energy per device (normalised)", "round", "channel uses"]
    assert {points for _, points in said["curves"]} == {" ".join(["101"] * 11)}
    assert [points for _, points in said["groups"]] == ["101 101"] * 9
    assert said["grid"] == [["uplink.ratio", "9"]] * 2


def test_names_of_rows_stand_on_their_rows_and_do_not_lie_on_each_other(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    script = """setTimeout(() => {
      const said = {};
      for (const figure of document.querySelectorAll("#cost, #differences")) {
        const box = (part) => { const b = part.getBoundingClientRect(); return [b.top, b.bottom]; };
        said[figure.id] = [...figure.querySelectorAll(".annotation-text")].map(box);
      }
      document.title = JSON.stringify(said);
    }, 1500);"""
    for page in folders:
        dom, console = opened(with_script(page, script, tmp_path), tmp_path / page.stem, "--window-size=500,900")
        assert console == []
        said = titled(dom)
        assert len(said["cost"]) == len(said["differences"]) + 1
        for rows in said.values():
            assert all(bottom <= top for (_, bottom), (top, _) in itertools.pairwise(rows)), rows


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_sticks_out_of_the_page(folders: tuple[Path, Path], tmp_path: Path, width: int) -> None:
    measure = """
    onload = () => setTimeout(() => {
      const said = [];
      for (const frame of document.querySelectorAll("iframe")) {
        const page = frame.contentDocument, root = page.documentElement, out = [];
        for (const part of page.querySelectorAll("section, figure, .canvas, .main-svg, details, .choice, p, li")) {
          const box = part.getBoundingClientRect();
          if (box.left < 0 || box.right > root.clientWidth + 0.5) { out.push(`${part.tagName} ${box.right}`); }
        }
        said.push([root.clientWidth, root.scrollWidth, out]);
      }
      document.title = JSON.stringify(said);
    }, 2000);"""
    host = framed(list(folders), width, measure, tmp_path)
    dom, console = opened(host, tmp_path / "profile", "--window-size=1700,1000")
    assert console == []
    for client, scroll, sticking_out in titled(dom):
        # The vertical scroll bar takes up to 20 pixels of the frame.
        assert width - 20 <= client <= width
        assert scroll <= client
        assert sticking_out == []


def test_plots_follow_a_dark_page(folders: tuple[Path, Path], tmp_path: Path) -> None:
    script = """setTimeout(() => {
      const fill = (name) => getComputedStyle(document.querySelector(name)).fill;
      document.title = JSON.stringify([fill("#cost .annotation-text"), fill("#curves .xtitle")]);
    }, 1500);"""
    page = with_script(folders[0], script, tmp_path)
    dom, console = opened(page, tmp_path / "profile", DARK)
    assert console == []
    assert titled(dom) == ["rgb(231, 235, 238)"] * 2
