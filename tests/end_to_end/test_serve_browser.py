"""Served runs in a real browser: pages follow a run as its rounds are written, and keep what the reader chose."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fedmac
from fedmac.report.live.server import open_server
from tests.end_to_end.chromium import CHROMIUM, FLAGS, IN_CHROMIUM
from tests.fedmac.runs_under_way import begun, make_sweep
from tests.fedmac.small_scenario import VARIANTS, small

# The browser reads its orders from file 3 and answers on file 4.
_ON_THREE_AND_FOUR = "import os, sys; os.dup2({0}, 3); os.dup2({1}, 4); os.execv(sys.argv[1], sys.argv[1:])"

pytestmark = IN_CHROMIUM


class Browser:
    """A headless Chromium with one page, driven over a pipe in real time: virtual time would not wait for a server."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        # High numbers, so that moving one to 3 or 4 does not close the other.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (orders, answers)]
        command = [sys.executable, "-c", _ON_THREE_AND_FOUR.format(*theirs), CHROMIUM, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        for end in (orders, answers, *theirs):
            os.close(end)
        self._rest, self._ids, self._session = b"", itertools.count(1), ""
        self.errors: list[str] = []
        target = next(t for t in self.order("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.order("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.order(f"{domain}.enable")

    def order(self, method: str, /, **parameters: Any) -> dict[str, Any]:
        """Send an order of Chromium's DevTools protocol and return its result; errors of the page are collected."""
        message = {"id": next(self._ids), "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._orders, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != message["id"]:
            self._note(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, url: str, width: int = 1600) -> None:
        self.order("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.order("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """The value of an expression in the page; None while the page is being exchanged."""
        code = f"(() => {{ try {{ return {expression}; }} catch (error) {{ return null; }} }})()"
        return self.order("Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")

    def until(self, expression: str, value: Any) -> None:
        """Wait until an expression has a value; a minute is a failure."""
        end = time.monotonic() + 60
        while (found := self.value(expression)) != value:
            assert time.monotonic() < end, f"{expression}: {found!r}, expected {value!r}; {self.errors}"
            time.sleep(0.1)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._orders)
        os.close(self._answers)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.errors.append(json.dumps(event["params"]))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fedmac.run(small(variants=VARIANTS, rounds=8), out=tmp_path_factory.mktemp("made") / "small").folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    folder.mkdir()
    return folder


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The URL of a server of the folder, in a thread."""
    with open_server(root, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def url(root: Path) -> Iterator[str]:
    with serving(root) as url:
        yield url


def go_on(finished: Path, folder: Path, first: int, last: int) -> None:
    """Write rounds `first` to `last` of the first variant, as the run would."""
    lines = (finished / "rlc" / "rounds.jsonl").read_text().splitlines(keepends=True)
    with (folder / "rlc" / "rounds.jsonl").open("a") as record:
        record.writelines(lines[first : last + 1])


def test_the_report_of_a_run_under_way_grows_and_keeps_the_chosen_axis(
    browser: Browser, url: str, root: Path, finished: Path
) -> None:
    folder = begun(finished, root / "a", lines=3)
    browser.open(f"{url}run/a")
    points = "document.querySelector('#accuracy').dataset.points"
    browser.until(points, "3")
    browser.value("document.querySelector('#accuracy input[value=\"1\"]').click()")
    go_on(finished, folder, 3, 4)
    browser.until(points, "5")
    with (folder / "rlc" / "rounds.jsonl").open("a") as record:
        record.write('{"variant": "rlc", "se')  # a line that is being written changes nothing
    time.sleep(2.5)
    browser.until(points, "5")
    assert browser.value("document.querySelector('#accuracy').dataset.view") == "1"
    assert browser.errors == []


def test_the_index_follows_and_keeps_focus_and_what_is_open(
    browser: Browser, url: str, root: Path, finished: Path
) -> None:
    folder = begun(finished, root / "a", lines=2)
    make_sweep(finished, root / "snr")
    browser.open(url)
    done = "document.querySelector('#runs td[data-label=rounds]').textContent"
    browser.until(done, "1 of 8")
    browser.value("document.querySelector('details').open = true")
    browser.value("document.querySelector('#runs a').focus()")
    go_on(finished, folder, 2, 5)
    browser.until(done, "5 of 8")
    assert browser.value("document.querySelector('details').open") is True
    assert browser.value("document.activeElement.textContent") == "small"
    shutil.copytree(finished, root / "b")
    browser.until("document.querySelectorAll('#runs tbody').length", 2)
    assert browser.value("document.querySelector('#gone').hidden") is True
    assert browser.errors == []


@pytest.mark.parametrize("width", [400, 1600])
def test_the_index_never_scrolls_sideways(browser: Browser, url: str, root: Path, finished: Path, width: int) -> None:
    begun(finished, root / ("a" * 120), lines=2)
    make_sweep(finished, root / "snr")
    begun(finished, root / "broken", lines=2)
    (root / "broken" / "scenario.toml").write_text(f"rounds = '{'many' * 99}'\n")
    browser.open(url, width)
    browser.until("document.querySelectorAll('#runs tbody').length", 2)
    browser.value("document.querySelector('details').open = true")
    assert browser.value("document.documentElement.clientWidth") >= width - 20
    assert browser.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth") is True
    assert browser.errors == []


def test_a_page_says_when_its_server_has_gone(browser: Browser, root: Path, finished: Path) -> None:
    begun(finished, root / "a", lines=2)
    with serving(root) as url:
        browser.open(url)
        browser.until("document.querySelectorAll('#runs tbody').length", 1)
    browser.until("document.querySelector('#gone').hidden", False)
    assert "ERR_CONNECTION_REFUSED" in browser.errors[0], "and the console would tell of errors"
