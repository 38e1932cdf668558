"""Pages in headless Chromium: opening one, and reading what its scripts made of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

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
)
DARK = "--blink-settings=preferredColorScheme=0"

IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]
"""The marks of a module of tests that need it."""

CHOOSE_EVERY_VIEW = """
(async () => {
  const said = {};
  for (const figure of document.querySelectorAll("figure.plot")) {
    said[figure.id] = [];
    for (const input of figure.querySelectorAll(".choice input")) {
      input.click();
      while (figure.dataset.view !== input.value) { await new Promise((done) => setTimeout(done, 20)); }
      const axis = figure.querySelector(".xtitle");
      said[figure.id].push([axis ? axis.textContent : "", figure.dataset.points]);
    }
  }
  document.title = JSON.stringify(said);
})();"""
"""A script that leaves in the title, per plot and view, the name of the x axis and the points of each trace."""


def opened(page: Path | str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page; return its DOM after its scripts ran, and what it wrote to the console."""
    assert CHROMIUM is not None
    address = page.as_uri() if isinstance(page, Path) else page
    dump = ("--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom")
    command = [CHROMIUM, *FLAGS, *dump, f"--user-data-dir={profile}", *flags, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def with_script(page: Path, script: str, folder: Path) -> Path:
    """A copy of the page that runs a script of the test's after its own."""
    copy = folder / "scripted.html"
    html = page.read_text(encoding="utf-8")
    copy.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy


def framed(pages: list[Path], width: int, script: str, folder: Path) -> Path:
    """A page that shows others in frames as narrow as asked (a headless window is at least 500 pixels wide)."""
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="'
    frames = "".join(f'{frame}{escape(page.read_text(encoding="utf-8"))}"></iframe>' for page in pages)
    host = folder / "host.html"
    host.write_text(f'<meta charset="utf-8"><title></title><script>{script}</script>{frames}', encoding="utf-8")
    return host


def plots(dom: str) -> dict[str, tuple[int, list[int]]]:
    """Per plot: the view shown, and the number of points of each of its traces."""
    found: dict[str, tuple[int, list[int]]] = {}
    for tag in re.findall(r'<figure class="plot"[^>]*>', dom):
        values = dict(re.findall(r'([\w-]+)="([^"]*)"', tag))
        found[values["id"]] = (int(values["data-view"]), [int(n) for n in values["data-points"].split()])
    return found


def titled(dom: str) -> Any:
    """What a script left in the page's title, as JSON."""
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title is not None
    return json.loads(unescape(title.group(1)))
