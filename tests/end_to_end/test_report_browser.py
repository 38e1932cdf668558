"""The report in a real browser: it loads without console errors and draws the runs' points."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from fedmac.report import write_report
from tests.fedmac.synthetic_runs import NASTY, run_rows, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=5000",
    "--dump-dom",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    variants = [
        run_rows("ideal", seeds=range(3), rounds=40, devices=8, fading=False),
        run_rows("rlc", seeds=range(3), rounds=40, devices=8, silent=True),
        run_rows(NASTY, seeds=[0], rounds=2, devices=8),
    ]
    return write_report(write_run(tmp_path_factory.mktemp("run"), variants))


def opened(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page from disk; return its DOM after its scripts ran, and what it wrote to the console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def plots(dom: str) -> dict[str, tuple[int, list[int]]]:
    """Per plot: the view shown, and the number of points of each of its traces."""
    found: dict[str, tuple[int, list[int]]] = {}
    for tag in re.findall(r'<figure class="plot"[^>]*>', dom):
        values = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        found[values["id"]] = (int(values["data-view"]), [int(n) for n in values["data-points"].split()])
    return found


def test_page_loads_without_console_errors_and_has_the_runs_points(report: Path, tmp_path: Path) -> None:
    dom, console = opened(report, tmp_path, "--window-size=1600,1200")
    assert console == []
    assert plots(dom) == {
        "accuracy": (0, [41, 41, 3]),
        "loss": (0, [41, 41, 3]),
        "error": (0, [40, 40, 2, 2]),
        "power": (0, [8 * 40]),
        "gains": (0, [8 * 40]),
        "silence": (0, [40, 40]),
    }
    assert 'data-title="Zoom"' in dom
    assert 'data-title="Share' not in dom, "plotly's button that sends the data to its makers is off"


def test_choosing_an_axis_or_a_variant_redraws_the_plot(report: Path, tmp_path: Path) -> None:
    clicks = "".join(
        f"document.querySelector('#{plot} input[value=\"{view}\"]').click();"
        for plot, view in (("accuracy", 2), ("power", 1))
    )
    page = tmp_path / "clicked.html"
    html = report.read_text(encoding="utf-8")
    page.write_text(html.replace("</body>", f"<script>{clicks}</script></body>"), encoding="utf-8")
    dom, console = opened(page, tmp_path / "profile")
    assert console == []
    assert plots(dom)["accuracy"] == (2, [41, 41, 3])
    assert plots(dom)["power"] == (1, [8 * 2])
    assert "energy per device (normalised)" in dom


@pytest.mark.parametrize("width", [400, 1600])
def test_page_never_scrolls_sideways(report: Path, tmp_path: Path, width: int) -> None:
    # A frame is as narrow as asked; a headless window is at least 500 pixels wide.
    host = tmp_path / "host.html"
    measure = (
        "onload = () => { const root = document.querySelector('iframe').contentDocument.documentElement;"
        " document.title = `${root.clientWidth} ${root.scrollWidth}`; }"
    )
    frame = escape(report.read_text(encoding="utf-8"))
    host.write_text(
        f'<meta charset="utf-8"><title></title><script>{measure}</script>'
        f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{frame}"></iframe>',
        encoding="utf-8",
    )
    dom, console = opened(host, tmp_path / "profile", "--window-size=1700,1000")
    assert console == []
    title = re.search(r"<title>(\d+) (\d+)</title>", dom)
    assert title is not None
    client, scroll = map(int, title.groups())
    # The vertical scroll bar takes up to 20 pixels of the frame.
    assert width - 20 <= client <= width
    assert scroll <= client
