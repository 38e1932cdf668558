"""What happens in a run, as log records: rounds, devices that failed, warnings, how it ended; Flower's warnings too.

Everything goes through Python's ``logging``: ours to the logger ``fedmac``, Flower's to its own, ``flwr``. Nothing is
shown unless somebody listens: :func:`log_to` does so with a file, and a program that uses FedMAC may do so itself. An
event is a message for people with fields for machines (docs/watching.md lists them).
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmac.scenario_errors import ScenarioError, refusal

LOG_FORMATS = ("text", "json")
LOG_FILE, LOG_FORMAT = "FEDMAC_LOG", "FEDMAC_LOG_FORMAT"
"""Environment variables that say where ServerApp and ClientApp of a deployment log to, and how."""

QUARANTINED = "quarantined"
"""What the reason of a device begins with that is not asked because of what it sent before."""

FLOWER = "flwr"
NO_NEWS = "fraction_evaluate is set to 0.0."
"""How a warning of Flower's begins that every run would have: devices do not evaluate unless the scenario says so."""

logger = logging.getLogger("fedmac")
logger.addHandler(logging.NullHandler())  # or Python itself prints warnings that nobody listens to

_SHOWN = ("test_accuracy", "test_loss", "train_loss", "energy_j_per_device_mean")
_NONE: Mapping[str, Any] = {}
_OURS = {"asctime", "message", "event", "time", "level", "logger", "traceback"}
_TAKEN = _OURS.union(vars(logging.makeLogRecord({})))
"""Names that a log record has already; a device names its metrics as it likes."""


def log_event(event: str, message: str, fields: Mapping[str, Any] = _NONE, *, level: int = logging.INFO) -> None:
    """Log an event.

    Parameters
    ----------
    event : str
        Its kind, one word of few: the field ``event``.
    message : str
        What happened, for people.
    fields : mapping
        Further fields. Numbers that are not finite become None, as JSON has none; a name that log records have
        already gets an underscore behind it.
    level : int
        As in ``logging``.
    """
    if logger.isEnabledFor(level):
        # What a device has said may be in it: a line break of its own would begin a line of the log.
        line = "".join(character if character.isprintable() else " " for character in message)
        further = {f"{name}_" if name in _TAKEN else name: _finite(value) for name, value in fields.items()}
        logger.log(level, "%s", line, extra=further | {"event": event})


def log_round(record: Mapping[str, Any]) -> None:
    """Log a round's record: the round, each device that failed or is in quarantine, and each warning.

    Parameters
    ----------
    record : mapping
        A line of ``rounds.jsonl``, see docs/record.md.
    """
    from fedmac.sinks import figures

    which = {name: record[name] for name in ("variant", "seed", "round")}
    said = "round {round} of {variant}, seed {seed}".format_map(which)
    failures, not_asked = record.get("failures") or [], record.get("not_asked") or []
    for one in failures:
        message = f"{said}: device {one['device']} failed: {one['reason']}"
        log_event("device_failed", message, which | one, level=logging.WARNING)
    for one in not_asked:
        if one["reason"].startswith(QUARANTINED):
            message = f"{said}: device {one['device']} was not asked: {one['reason']}"
            log_event("device_quarantined", message, which | one, level=logging.WARNING)
    for warning in record.get("warnings") or []:
        log_event("warning", f"{said}: {warning}", which | {"reason": warning}, level=logging.WARNING)
    unheard = record.get("heard") is False
    counts = {"failed": len(failures), "not_asked": len(not_asked), "heard": record.get("heard")}
    numbers = {name: record[name] for name in figures(dict(record))}
    shown = [f"{name} {numbers[name]:.4g}" for name in _SHOWN if name in numbers]
    if "participants" in record:
        shown.insert(0, f"{record['participants']} devices sent" + (", nothing was heard" if unheard else ""))
    level = logging.WARNING if unheard else logging.INFO
    fields = numbers | (counts if record["round"] else {}) | which
    log_event("round", f"{said}: {', '.join(shown)}", fields, level=level)


@contextmanager
def log_to(path: Path, form: str = "text") -> Iterator[None]:
    """Write what happens to a file, appended to, until the context ends; then how it ended.

    Parameters
    ----------
    path : Path
        File; its folder must be there.
    form : {"text", "json"}
        A line of text, or of JSON, for each event.

    Raises
    ------
    ScenarioError
        If the form is unknown or the file cannot be written.
    """
    with _listening(_handler(path, form)):
        try:
            yield
        except Exception as error:
            fields = {"error": type(error).__name__, "reason": str(error)}
            log_event("run_failed", f"failed: {error}", fields, level=logging.ERROR)
            raise
        except BaseException as error:
            fields = {"error": type(error).__name__}
            log_event("run_interrupted", f"interrupted: {type(error).__name__}", fields, level=logging.ERROR)
            raise


def log_as_environment_says() -> None:
    """Write what happens in this process to the file that ``FEDMAC_LOG`` names, if it does; once in a process.

    Raises
    ------
    ScenarioError
        If ``FEDMAC_LOG_FORMAT`` is unknown or the file cannot be written.
    """
    path = os.environ.get(LOG_FILE)
    if path and not any(handler.get_name() == LOG_FILE for handler in logger.handlers):
        handler = _handler(Path(path), os.environ.get(LOG_FORMAT) or "text")
        handler.set_name(LOG_FILE)
        _listen(handler)


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Keep Flower's round-by-round log and its warnings off the terminal; errors still show, log files get warnings."""
    flower = logging.getLogger(FLOWER)
    files = [handler for handler in flower.handlers if isinstance(handler, logging.FileHandler)]
    quieted: dict[logging.Logger | logging.Handler, int] = {flower: logging.WARNING if files else logging.ERROR}
    quieted.update((handler, logging.ERROR) for handler in flower.handlers if handler not in files)
    before = {source: source.level for source in quieted}
    for source, level in quieted.items():
        source.setLevel(level)
    try:
        yield
    finally:
        for source, level in before.items():
            source.setLevel(level)


def _handler(path: Path, form: str) -> logging.Handler:
    formatter = _formatter(form)
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        accepted = "a file that can be written, in a folder that is there"
        raise ScenarioError(str(refusal("log", str(path), error.strerror or str(error), accepted))) from None
    handler.setFormatter(formatter)
    handler.setLevel(logging.INFO)
    handler.addFilter(_is_news)
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Of Flower warnings and errors alone, and not :data:`NO_NEWS`."""
    return record.name != FLOWER or (record.levelno >= logging.WARNING and not record.getMessage().startswith(NO_NEWS))


def _formatter(form: str) -> logging.Formatter:
    """Times are UTC, as ISO 8601 writes them."""
    formatter: logging.Formatter
    if form == "text":
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    elif form == "json":
        from pythonjsonlogger.json import JsonFormatter

        formatter = JsonFormatter(
            ["asctime", "levelname", "name", "message"],
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "traceback"},
            defaults={"event": "flower"},
        )
    else:
        raise ScenarioError(f"log_format = {form!r}: unknown; accepted: {', '.join(LOG_FORMATS)}")
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    formatter.converter = time.gmtime
    return formatter


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    level, show = logger.level, warnings.showwarning
    _listen(handler)
    try:
        yield
    finally:
        logger.setLevel(level)
        warnings.showwarning = show
        for source in (logger, logging.getLogger(FLOWER)):
            source.removeHandler(handler)
        handler.close()


def _listen(handler: logging.Handler) -> None:
    logger.setLevel(logging.INFO)
    for source in (logger, logging.getLogger(FLOWER)):
        source.addHandler(handler)
    show = warnings.showwarning

    def log_and_show(message: Warning | str, category: type[Warning], *where: Any, **further: Any) -> None:
        log_event("warning", str(message), {"reason": str(message), "kind": category.__name__}, level=logging.WARNING)
        show(message, category, *where, **further)

    warnings.showwarning = log_and_show


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
