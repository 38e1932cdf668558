"""Where Prometheus finds a run's metrics: an address on this machine, or a file."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fedmac.logs import log_event
from fedmac.metrics import RunMetrics
from fedmac.record import RecordError, writing
from fedmac.scenario_errors import ScenarioError

DEFAULT_HOST, DEFAULT_PORT, DEFAULT_FILE = "127.0.0.1", 9464, "metrics.prom"

LAST_LOOK_S = 60.0
"""Longest wait for Prometheus to ask after a run has failed: its own default interval is a minute."""

ANSWER_S = 0.2
"""For the answer to leave this machine after the metrics were taken for it."""

Note = Callable[[Mapping[str, Any]], None]


@contextmanager
def prometheus(out: Path, where: str | None) -> Iterator[Note]:
    """Answer Prometheus at an address while the context lasts: ``HOST:PORT`` or ``PORT``, on this machine by default.

    Where an error ends the run and somebody has asked before, the address stays until somebody asks once more and so
    is told of it, for `LAST_LOOK_S` at most.

    Raises
    ------
    ScenarioError
        If the address is none, or cannot be listened at.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    host, port = address(where)
    metrics, registry = RunMetrics(out.absolute().name), CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    at = f"http://{host}:{server.server_port}/metrics"
    log_event("metrics", f"metrics at {at}", {"address": at})
    try:
        yield metrics.note
    except Exception:
        metrics.failed = True
        _await_last_look(metrics, at)
        raise
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _await_last_look(metrics: RunMetrics, at: str) -> None:
    if metrics.asked:
        message = f"the run failed; metrics at {at} stay until asked once more, {LAST_LOOK_S:g} s at most"
        log_event("metrics", message, {"address": at})
        if metrics.told.wait(LAST_LOOK_S):
            time.sleep(ANSWER_S)


@contextmanager
def textfile(out: Path, where: str | None) -> Iterator[Note]:
    """Replace a file with the metrics after each round, in one step, and once more where the run fails.

    Raises
    ------
    ScenarioError
        If its name does not end in ``.prom``, without which node_exporter does not read it.
    RecordError
        If it cannot be written.
    """
    from prometheus_client import CollectorRegistry, write_to_textfile

    path = out / DEFAULT_FILE if where is None else metrics_file(where)
    registry = CollectorRegistry(auto_describe=False)

    def note(record: Mapping[str, Any]) -> None:
        metrics.note(record)
        write()

    def write() -> None:
        with writing(path):
            write_to_textfile(str(path), registry)

    metrics = RunMetrics(out.absolute().name)
    registry.register(metrics)
    try:
        yield note
    except BaseException:
        metrics.failed = True
        with suppress(RecordError):  # why the run ended matters more
            write()
        raise


def check_prometheus(where: str | None) -> None:
    """Refuse an address that is none, or that somebody listens at already; see :func:`prometheus`."""
    host, port = address(where)
    try:
        family, kind, protocol, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will; not to share the port
            probe.bind(at)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None


def check_textfile(where: str | None) -> None:
    """Refuse a file that cannot be written or that node_exporter would not read; see :func:`textfile`."""
    if where is not None and not metrics_file(where).parent.is_dir():
        raise ScenarioError(f"sink = 'textfile={where}': its folder is not there; accepted: a file in a folder that is")


def address(where: str | None) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT``; this machine only, and 9464, if not said.

    Raises
    ------
    ScenarioError
        If it is none of them.
    """
    if where is None:
        return DEFAULT_HOST, DEFAULT_PORT
    host, _, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or DEFAULT_HOST
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ScenarioError(f"sink = 'prometheus={where}': accepted: prometheus=HOST:PORT, a port from 0 to 65535")
    return host, int(port)


def metrics_file(where: str) -> Path:
    """The file of ``textfile=FILE``.

    Raises
    ------
    ScenarioError
        If node_exporter would not read it.
    """
    if not where.endswith(".prom"):
        raise ScenarioError(
            f"sink = 'textfile={where}': accepted: a file name that ends in .prom, as node_exporter reads"
        )
    return Path(where)


def _cannot_listen(host: str, port: int, error: OSError) -> ScenarioError:
    reason = error.strerror or str(error)
    return ScenarioError(
        f"sink = 'prometheus={host}:{port}': cannot listen there: {reason}; accepted: prometheus=HOST:PORT with a port "
        "that is free"
    )
