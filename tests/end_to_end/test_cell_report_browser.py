"""The report of a cell in a real browser: its figures are drawn, fit a phone, and metres are equal both ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmac.report import write_report
from tests.end_to_end.chromium import IN_CHROMIUM, framed, opened, plots, titled, with_script
from tests.fedmac.synthetic_cells import placed_rows
from tests.fedmac.synthetic_runs import write_run

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variants = [placed_rows(8, [True, False] * 4), placed_rows(8, None, variant="other")]
    return write_report(write_run(tmp_path_factory.mktemp("run"), variants))


def test_every_figure_of_the_cell_is_drawn_and_metres_are_equal_both_ways(report: Path, tmp_path: Path) -> None:
    script = """setTimeout(() => {
      const {xaxis, yaxis} = document.querySelector("#cell-map .canvas")._fullLayout;
      const scale = (axis) => axis._length / (axis.range[1] - axis.range[0]);
      document.title = JSON.stringify(scale(xaxis) / scale(yaxis));
    }, 2000);"""
    dom, console = opened(with_script(report, script, tmp_path), tmp_path / "profile")
    assert console == []
    drawn = {name: traces for name, (_, traces) in plots(dom).items() if name.startswith("cell")}
    # Four devices with and four without sight, and the base station; over distance points and rings by variant.
    assert drawn["cell-map"] == [4, 4, 1]
    assert drawn["cell-heard"] == drawn["cell-energy"] == [8, 8, 8, 8]
    assert len(drawn["cell-gains"]) == 3
    assert titled(dom) == pytest.approx(1.0, abs=1e-6)


def test_the_cell_fits_a_phone(report: Path, tmp_path: Path) -> None:
    measure = """
    onload = () => setTimeout(() => {
      const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
      const map = page.querySelector("#cell-map .canvas")._fullLayout;
      document.title = JSON.stringify([root.clientWidth, root.scrollWidth, map.xaxis._length]);
    }, 2000);"""
    dom, console = opened(framed([report], 400, measure, tmp_path), tmp_path / "profile", "--window-size=1700,1000")
    assert console == []
    width, scrolled, across = titled(dom)
    assert scrolled <= width
    assert across > width / 2, "the scale of colours leaves the map its room"
