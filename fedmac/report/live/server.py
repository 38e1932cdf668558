"""Serve a folder of runs to the browser on this machine: an index, and reports that follow the runs as they go.

========================  ==========================================================================
``/``                     the index (:mod:`fedmac.report.live.index_page`)
``/version``              JSON ``{"version": ...}``: changes when the index does
``/run/PATH``             the report of a run, from its record as it is now
``/version/PATH``         JSON ``{"version": ...}``: changes when the report does
``/comparison/PATH``      a page that ``fedmac compare`` has written
========================  ==========================================================================

PATH is that of a folder below the one served, and must be one that was found there: no path from a request is ever
opened.
"""

from __future__ import annotations

import errno
import json
import re
import socketserver
import sys
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fedmac.report.live.pages import LivePages, NotHere
from fedmac.scenario_errors import ScenarioError

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
PORTS_TRIED = 100
METHODS = ("GET", "HEAD")
HOSTS = ("127.0.0.1", "localhost")  # what a request may call this server


class ReportServer(ThreadingHTTPServer):
    """Serves the runs below a folder, to this machine only; see :func:`open_server`."""

    daemon_threads = True  # a browser that holds a connection open must not hold up the end

    def __init__(self, folder: Path, port: int) -> None:
        self.pages = LivePages(folder)
        super().__init__((HOST, port), _Answer)

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name, as the standard library would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Where the index is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in a line what went wrong with a request, unless it is only that the browser has gone."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            _log(f"request: {type(error).__name__}: {error}")


def open_server(folder: Path, port: int | None = None) -> ReportServer:
    """Open the server of a folder; ``serve_forever`` runs it.

    Parameters
    ----------
    folder : Path
        A folder with runs, sweeps and comparisons at any depth; they may come and go while it is served.
    port : int, optional
        Port on 127.0.0.1, 0 for any that is free; if not given, 8765 or the first free one after it.

    Returns
    -------
    ReportServer
        A context manager that frees the port.

    Raises
    ------
    ScenarioError
        If `folder` is no folder, or the port cannot be had.
    """
    if not folder.is_dir():
        raise ScenarioError(f"FOLDER = {str(folder)!r}: no such folder; accepted: a folder with runs in it")
    if port is not None:
        return _bound(folder, port, "a free port, or no --port to have one chosen")
    last = DEFAULT_PORT + PORTS_TRIED - 1
    for candidate in range(DEFAULT_PORT, last):
        try:
            return ReportServer(folder, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bound(folder, last, f"--port PORT; {DEFAULT_PORT} to {last} are all taken")


def _bound(folder: Path, port: int, accepted: str) -> ReportServer:
    try:
        return ReportServer(folder, port)
    except OSError as error:
        reason = "taken" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise ScenarioError(f"--port = {port}: {reason}; accepted: {accepted}") from None


class _Answer(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ReportServer
    timeout = 30  # seconds a connection may be silent
    server_version, sys_version = "fedmac", ""

    def parse_request(self) -> bool:
        """Read the request's head; refuse what could change something, and what was not meant for this server."""
        if not super().parse_request():
            return False
        if self.command not in METHODS:
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command}: accepted: {' and '.join(METHODS)}")
            return False
        # A page from elsewhere whose name was made to point here (DNS rebinding) must not read the runs.
        host = self.headers.get("Host", "").lower()
        if re.sub(r":\d+$", "", host) not in HOSTS:
            self._refuse(HTTPStatus.FORBIDDEN, f"Host = {host!r}: accepted: {' or '.join(HOSTS)}")
            return False
        return True

    def do_GET(self) -> None:
        """Answer with a page, or with the reason why not."""
        try:
            kind, body = self._content()
        except NotHere as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:  # whatever is wrong with one run, the others are served on
            _log(f"{self.path}: {error or type(error).__name__}")
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error) or type(error).__name__)
        else:
            self._send(HTTPStatus.OK, kind, body)

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line a request would bury what matters."""

    def _content(self) -> tuple[str, str]:
        """Media type and text of what the path asks for."""
        pages = self.server.pages
        where = urlsplit(self.path).path
        fixed: dict[str, Callable[[], str]] = {"/": pages.index, "/version": pages.index_version}
        below: dict[str, Callable[[str], str]] = {
            "run": pages.run, "version": pages.run_version, "comparison": pages.comparison,
        }  # fmt: skip
        _, kind, key = where.split("/", 2) if where.count("/") > 1 else ("", "", "")
        if where in fixed:
            text = fixed[where]()
        elif kind in below:
            text = below[kind](unquote(key, errors="surrogateescape"))
        else:
            raise NotHere(f"{unquote(where, errors='replace')}: not here")
        if where == "/version" or kind == "version":
            return "application/json", json.dumps({"version": text})
        return "text/html; charset=utf-8", text

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        page = (
            f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{status.phrase}</title>'
            f'<body style="font: 16px/1.5 system-ui, sans-serif; margin: 2rem; overflow-wrap: anywhere">'
            f'<h1>{status.phrase}</h1><p>{escape(reason)}</p><p><a href="/">All runs</a></p>'
        )
        self._send(status, "text/html; charset=utf-8", page)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode("utf-8", errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(METHODS))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _log(text: str) -> None:
    """A line on stderr; what a path or a message holds cannot make it two."""
    line = " ".join(text.split())
    print(f"fedmac: {line}".encode("ascii", "backslashreplace").decode(), file=sys.stderr, flush=True)
