"""The report in a real browser: it loads without console errors and draws the runs' points."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from fedmac.report.folder import read_run
from fedmac.report.page import render_page
from tests.end_to_end.chromium import CHOOSE_EVERY_VIEW, DARK, IN_CHROMIUM, framed, opened, plots, titled, with_script
from tests.fedmac.report_pages import write_page
from tests.fedmac.synthetic_runs import run_rows, write_run

pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("run"), name="synthetic", rounds=40, devices=8)


def test_page_loads_without_console_errors_and_has_the_runs_points(report: Path, tmp_path: Path) -> None:
    dom, console = opened(report, tmp_path, "--window-size=1600,1200")
    assert console == []
    assert plots(dom) == {
        "accuracy": (0, [41, 41, 3]),
        "loss": (0, [41, 41, 3]),
        "training-loss": (0, [40, 40, 2]),
        "error": (0, [40, 40, 2, 2]),
        "power": (0, [8 * 40]),
        "gains": (0, [8 * 40]),
        "silence": (0, [40, 40]),
        "devices": (0, [8, 8, 8]),
        "clock": (0, [3, 3]),
    }
    assert 'data-title="Zoom"' in dom
    assert 'data-title="Share' not in dom, "plotly's button that sends the data to its makers is off"


def test_every_view_of_every_plot_can_be_chosen_and_has_its_traces(report: Path, tmp_path: Path) -> None:
    dom, console = opened(with_script(report, CHOOSE_EVERY_VIEW, tmp_path), tmp_path / "profile")
    assert console == []
    said = titled(dom)
    costs = ["round", "channel uses", "bits per device", "energy per device (normalised)", "air time (s)"]
    costs += ["clock (s)", "wall time (s)"]
    assert [axis for axis, _ in said["accuracy"]] == costs
    assert {points for _, points in said["accuracy"]} == {"41 41 3"}
    assert {points for _, points in said["training-loss"]} == {"40 40 2"}
    assert [points for _, points in said["power"]] == ["320", "16"]
    assert [points for _, points in said["gains"]] == ["320", "16"]
    assert [points for _, points in said["devices"]] == ["8 8 8", "8 8 8 8", "8 8 8 8"]
    assert said["clock"] == [["clock (s)", "3 3"], ["wall time (s)", "3 3 3 3"]]
    assert said["error"] == said["silence"] == [], "a plot of one view has nothing to choose"


@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_sticks_out_of_the_page(report: Path, tmp_path: Path, width: int) -> None:
    measure = """
    onload = () => setTimeout(() => {
      const page = document.querySelector("iframe").contentDocument, root = page.documentElement, out = [];
      for (const part of page.querySelectorAll("section, .cards > div, figure, .canvas, .main-svg, details, .choice")) {
        const box = part.getBoundingClientRect();
        const name = `${part.tagName} ${part.className.baseVal ?? part.className} ${box.left} ${box.right}`;
        if (box.left < 0 || box.right > root.clientWidth + 0.5) { out.push(name); }
        if (part.matches(".cards > div") && part.scrollWidth > part.clientWidth) { out.push(`${name} overflows`); }
      }
      const cards = page.querySelectorAll(".cards > div").length;
      document.title = JSON.stringify([root.clientWidth, root.scrollWidth, cards, out]);
    }, 2000);"""
    dom, console = opened(framed([report], width, measure, tmp_path), tmp_path / "profile", "--window-size=1700,1000")
    assert console == []
    client, scroll, cards, sticking_out = titled(dom)
    # The vertical scroll bar takes up to 20 pixels of the frame.
    assert width - 20 <= client <= width
    assert scroll <= client
    assert cards == 6, "the leader, an ideal link, has no error to compare with theory"
    assert sticking_out == []


@pytest.mark.parametrize(
    ("flags", "paper", "ink"),
    [
        ((), "rgb(255, 255, 255)", "rgb(28, 33, 38)"),
        ((DARK,), "rgb(20, 24, 28)", "rgb(231, 235, 238)"),
    ],
    ids=["light", "dark"],
)
def test_page_and_plots_follow_the_readers_light_or_dark(
    report: Path, tmp_path: Path, flags: tuple[str, ...], paper: str, ink: str
) -> None:
    script = """setTimeout(() => {
      const tick = document.querySelector("#accuracy .xtick text, #accuracy .x5tick text");
      document.title = JSON.stringify([getComputedStyle(document.body).backgroundColor, getComputedStyle(tick).fill]);
    }, 1500);"""
    dom, console = opened(with_script(report, script, tmp_path), tmp_path / "profile", *flags)
    assert console == []
    assert titled(dom) == [paper, ink]


def test_page_works_from_disk_without_a_network(report: Path, tmp_path: Path) -> None:
    script = """setTimeout(() => {
      document.title = JSON.stringify(performance.getEntriesByType("resource").map((entry) => entry.name));
    }, 1500);"""
    page = with_script(report, script, tmp_path)
    dom, console = opened(
        page, tmp_path / "profile", "--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND"
    )
    assert console == []
    assert [name for name in titled(dom) if not name.startswith("data:")] == [], "nothing was asked for"
    assert plots(dom)["accuracy"] == (0, [41, 41, 3])


def test_a_live_page_loads_again_when_the_record_has_changed_and_keeps_the_view(tmp_path: Path) -> None:
    rows = run_rows("rlc", seeds=[0], rounds=6, devices=3)
    folder = write_run(tmp_path / "run", [rows[:4]])
    pages = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal pages
            if self.path == "/version":
                text, kind = json.dumps({"version": "second"}), "application/json"
            else:
                version = "second" if pages else "first"
                pages += 1
                html = render_page(read_run(folder), live="/version", version=version)
                choose = "document.querySelector('#accuracy input[value=\"3\"]').click();" if version == "first" else ""
                text, kind = html.replace("</body>", f"<script>{choose}</script></body>"), "text/html"
                write_run(folder, [rows])
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            dom, console = opened(f"http://127.0.0.1:{server.server_port}/", tmp_path / "profile")
        finally:
            server.shutdown()
            thread.join()
    assert console == []
    assert pages == 2, "loaded once more, and not again while nothing changes"
    assert plots(dom)["accuracy"] == (3, [7]), "the energy axis that was chosen, with the rounds that came since"
