"""Pages of a served folder as they are now: read again when the record changed, and no more often than is cheap."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from fedmac.report.live.found import Found, refuse_outside
from fedmac.report.live.index_page import link_to, render_index
from fedmac.report.live.runs import RunsBelow, ServedRun, Snapshot

LOOK_S = 0.5  # seconds for which a look at the folder holds
SHARE = 0.2  # of the time may go into making the same page again: the rest is the run's
PAGES_KEPT = 12  # reports kept in memory, a few MB each

T = TypeVar("T")


class NotHere(LookupError):
    """What a request asks for is not below the folder served."""


@dataclass(frozen=True)
class Made(Generic[T]):
    """Something made, of which version, and until when it holds even if the version has changed (monotonic, s)."""

    content: T
    version: str
    until: float


class LivePages:
    """The index, reports and comparisons of a folder; may be asked by several threads.

    Parameters
    ----------
    folder : Path
        The folder served.
    """

    def __init__(self, folder: Path) -> None:
        self._below = RunsBelow(folder)
        self._title = self._below.root.name or str(self._below.root)
        self._looking, self._rendering = threading.Lock(), threading.Lock()
        self._seen: Made[tuple[Found, dict[str, ServedRun], Snapshot]] | None = None
        self._reports: OrderedDict[str, Made[str]] = OrderedDict()

    def index(self) -> str:
        """The index as HTML."""
        return render_index(self._title, self._look()[2])

    def index_version(self) -> str:
        """A text that changes when the index does."""
        return self._look()[2].version

    def run(self, key: str) -> str:
        """The report of a run as HTML.

        Raises
        ------
        NotHere
            If no run was found under this key.
        ValueError
            If its record is broken; the message says where.
        """
        return self._report(self._served(key)).content

    def run_version(self, key: str) -> str:
        """A text that changes when the report of a run does.

        It may lag behind the record: while a page that took a second to make is a few seconds old, it is current.

        Raises
        ------
        NotHere
            If no run was found under this key.
        """
        run = self._served(key)
        made = self._reports.get(key)
        return made.version if made and time.monotonic() < made.until else run.version

    def comparison(self, key: str) -> str:
        """A comparison's page as HTML.

        Raises
        ------
        NotHere
            If none was found under this key.
        LeadsOutside
            If it is a link to a file outside the folder.
        """
        page = self._look()[0].comparisons.get(key)
        if page is None:
            raise NotHere(f"{key or '.'}: no comparison here")
        refuse_outside(page, self._below.root)
        return page.read_text(encoding="utf-8", errors="replace")

    def _served(self, key: str) -> ServedRun:
        run = self._look()[1].get(key)
        if run is None:
            raise NotHere(f"{key or '.'}: no run here")
        if not run.version:  # its files may not be read
            raise ValueError(run.facts.error)
        return run

    def _look(self) -> tuple[Found, dict[str, ServedRun], Snapshot]:
        with self._looking:
            if self._seen is None or time.monotonic() >= self._seen.until:
                self._seen = _timed(self._below.look, "", LOOK_S)
            return self._seen.content

    def _report(self, run: ServedRun) -> Made[str]:
        with self._rendering:
            made = self._reports.get(run.key)
            if made is None or (made.version != run.version and time.monotonic() >= made.until):
                made = _timed(lambda: _rendered(run), run.version, 0.0)
                self._reports[run.key] = made
            self._reports.move_to_end(run.key)
            while len(self._reports) > PAGES_KEPT:
                self._reports.popitem(last=False)
            return made


def _rendered(run: ServedRun) -> str:
    from fedmac.report.folder import read_run
    from fedmac.report.page import render_page

    return render_page(read_run(run.folder), live=link_to("version", run.key), version=run.version)


def _timed(make: Callable[[], T], version: str, at_least: float) -> Made[T]:
    """Make something that then holds for as long as keeps the making to its share of the time."""
    start = time.monotonic()
    content = make()
    end = time.monotonic()
    return Made(content, version, end + max(at_least, (end - start) * (1 / SHARE - 1)))
