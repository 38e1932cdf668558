"""Logs: what happens in a run, for people and for machines, and nothing on the terminal that was not there before."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

import fedmac
from fedmac import client_app, logs, server_app
from fedmac.logs import log_as_environment_says, log_event, log_round, log_to, quiet_flower
from fedmac.record import RecordError
from fedmac.scenario_errors import ScenarioError
from tests.fedmac.command_line import Command, one_line
from tests.fedmac.small_scenario import VARIANTS, small, write

RECORD: dict[str, Any] = {
    "variant": "rlc", "seed": 1, "round": 2, "participants": 2, "heard": True, "test_accuracy": 0.5, "energies": [1, 2],
    "energy_j_per_device_mean": float("nan"), "failures": [{"device": 3, "reason": "lost on the link"}],
    "not_asked": [{"device": 4, "reason": "unreachable"}, {"device": 5, "reason": "quarantined until exchange 9"}],
    "warnings": ["an error out of reach"],
}  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    """The events of a JSON log; a line with NaN in it is no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def logged(path: Path, *records: dict[str, Any]) -> list[dict[str, Any]]:
    """What a log says of rounds."""
    with log_to(path, "json"):
        for record in records:
            log_round(record)
    return read(path)


def test_a_round_is_an_event_and_each_thing_that_went_wrong_in_it_another(tmp_path: Path) -> None:
    events = {event["event"]: event for event in logged(tmp_path / "log", RECORD)}
    which = {"variant": "rlc", "seed": 1, "round": 2}
    assert list(events) == ["device_failed", "device_quarantined", "warning", "round"]
    assert all(which.items() <= event.items() for event in events.values())
    assert events["device_failed"].items() >= {"device": 3, "reason": "lost on the link", "level": "WARNING"}.items()
    assert (events["device_quarantined"]["device"], events["warning"]["reason"]) == (5, "an error out of reach")
    figures = {"participants": 2, "failed": 1, "not_asked": 2, "heard": True, "test_accuracy": 0.5, "level": "INFO"}
    assert events["round"].items() >= figures.items()
    assert events["round"]["energy_j_per_device_mean"] is None


def test_a_round_in_which_nothing_was_heard_is_a_warning(tmp_path: Path) -> None:
    (event,) = logged(tmp_path / "log", {"variant": "a", "seed": 0, "round": 1, "participants": 0, "heard": False})
    assert (event["level"], event["message"]) == (
        "WARNING", "round 1 of a, seed 0: 0 devices sent, nothing was heard",
    )  # fmt: skip


def test_times_are_utc(tmp_path: Path) -> None:
    (event,) = logged(tmp_path / "log", RECORD | {"failures": [], "not_asked": [], "warnings": []})
    said = datetime.fromisoformat(event["time"])
    # Half an hour is the least by which a time zone may differ.
    assert said.utcoffset() == timedelta(0)
    assert abs(said - datetime.now(UTC)) < timedelta(minutes=20)


def test_text_has_a_line_for_each_event(tmp_path: Path) -> None:
    with log_to(tmp_path / "log"):
        log_round(RECORD)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(" ", 2)[1] for line in lines] == ["WARNING"] * 3 + ["INFO"]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    assert lines[-1].endswith("round 2 of rlc, seed 1: 2 devices sent, test_accuracy 0.5, energy_j_per_device_mean nan")


@given(reason=st.text(min_size=1), name=st.text(min_size=1), value=st.floats() | st.integers(-(2**63), 2**64))
def test_whatever_a_device_says_stays_within_its_line(
    tmp_path_factory: pytest.TempPathFactory, reason: str, name: str, value: float
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    record = {name: value} | RECORD | {"failures": [{"device": 0, "reason": reason}], "not_asked": [], "warnings": []}
    with log_to(folder / "text"), log_to(folder / "json", "json"):
        log_round(record)
    assert len((folder / "text").read_text().splitlines()) == 2
    failed, _ = read(folder / "json")
    assert (failed["event"], failed["reason"]) == ("device_failed", reason)


@pytest.mark.parametrize("name", ["name", "msg", "args", "message", "level", "time", "event", "exc_info", "asctime"])
def test_a_metric_may_have_any_name(tmp_path: Path, name: str) -> None:
    (event,) = logged(tmp_path / "log", {name: 7.0, "variant": "a", "seed": 0, "round": 1})
    assert event[f"{name}_"] == 7.0
    assert (event["event"], event["level"], event["logger"]) == ("round", "INFO", "fedmac")


def test_flowers_warnings_and_errors_are_logged_and_kept_off_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flower = logging.getLogger("flwr")
    with log_to(tmp_path / "log", "json"), quiet_flower():
        flower.info("[ROUND 1/3]")
        flower.warning("a warning of Flower's")
        try:
            raise ValueError("in an app")
        except ValueError:
            flower.exception("ServerApp raised an exception")
    warning, error = read(tmp_path / "log")
    assert (warning["event"], warning["message"], warning["logger"]) == ("flower", "a warning of Flower's", "flwr")
    assert "ValueError: in an app" in error["traceback"]
    assert "a warning of Flower's" not in capsys.readouterr().err


def test_that_devices_do_not_evaluate_is_no_news_and_every_other_warning_is(tmp_path: Path) -> None:
    """Flower itself warns of it at the start of every run."""
    flower = logging.getLogger("flwr")
    with log_to(tmp_path / "log", "json"):
        said: list[str] = []
        listener = logging.Handler()
        listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
        flower.addHandler(listener)
        FedAvg(fraction_evaluate=0.0).summary()
        FedAvg(fraction_train=0.0, fraction_evaluate=1.0).summary()
        flower.warning("fraction_evaluate is set to 0.5, which is odd")
        flower.removeHandler(listener)
    assert any(message.startswith(logs.NO_NEWS) for message in said), "Flower says it, in these words"
    assert [event["message"] for event in read(tmp_path / "log")] == [
        "fraction_train is set to 0.0. Federated training will be skipped.",
        "fraction_evaluate is set to 0.5, which is odd",
    ]


def test_warnings_of_any_library_are_logged_and_still_shown(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="overflow"), log_to(tmp_path / "log", "json"):
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    (event,) = read(tmp_path / "log")
    assert (event["event"], event["kind"], event["reason"]) == ("warning", "RuntimeWarning", "overflow")


def test_what_ends_a_run_is_the_last_event(tmp_path: Path) -> None:
    def failing(error: BaseException) -> None:
        with log_to(tmp_path / "log", "json"):
            raise error

    with pytest.raises(OSError, match="No space"):
        failing(OSError("No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())
    failed, interrupted = read(tmp_path / "log")
    assert failed.items() >= {
        "event": "run_failed", "level": "ERROR", "error": "OSError", "reason": "No space left on device",
    }.items()  # fmt: skip
    assert interrupted["event"] == "run_interrupted"


def test_all_is_as_it_was_when_a_log_is_closed(tmp_path: Path) -> None:
    before = [(source.level, list(source.handlers)) for source in (logs.logger, logging.getLogger("flwr"))]
    show = warnings.showwarning
    with log_to(tmp_path / "log"):
        pass
    assert before == [(source.level, list(source.handlers)) for source in (logs.logger, logging.getLogger("flwr"))]
    assert warnings.showwarning is show


def test_nothing_is_said_where_nobody_listens() -> None:
    words = "import logging; from fedmac import logs; logs.log_event('x', 'y', level=50); logs.logger.error('z')"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    ("path", "form", "message"),
    [
        ("no/log", "text", r"log = 'no/log': No such file or directory; accepted: a file that can be written"),
        (".", "text", r"log = '.': Is a directory; accepted"),
        ("log", "xml", "log_format = 'xml': unknown; accepted: text, json"),
    ],
)
def test_a_log_that_cannot_be_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, form: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match=message), log_to(Path(path), form):
        pass
    assert not list(tmp_path.iterdir())


@pytest.fixture
def process_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A log that the environment asks for; what it leaves in this process is taken back."""
    sources = (logs.logger, logging.getLogger("flwr"))
    before, level, show = [list(source.handlers) for source in sources], logs.logger.level, warnings.showwarning
    monkeypatch.setenv("FEDMAC_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("FEDMAC_LOG_FORMAT", "json")
    yield tmp_path / "log"
    for source, handlers in zip(sources, before, strict=True):
        for handler in set(source.handlers) - set(handlers):
            source.removeHandler(handler)
            handler.close()
    logs.logger.setLevel(level)
    warnings.showwarning = show


def test_an_app_logs_where_its_environment_says_and_once(process_log: Path) -> None:
    for _ in range(3):  # a process that lives on is asked for every message
        log_as_environment_says()
    log_event("x", "y")
    logging.getLogger("flwr").error("z")
    assert [event["message"] for event in read(process_log)] == ["y", "z"]


@pytest.mark.parametrize("call", [server_app.main, client_app.workplace])
def test_the_apps_of_a_deployment_log_from_their_beginning(process_log: Path, call: Callable[..., object]) -> None:
    context = SimpleNamespace(run_config={}, node_config={})
    with pytest.raises((KeyError, ValueError)):  # it says neither what to run nor which device this is
        call(None, context) if call is server_app.main else call(context, {})
    logging.getLogger("flwr").error("ServerApp raised an exception")
    assert [event["message"] for event in read(process_log)] == ["ServerApp raised an exception"]


def test_an_app_whose_environment_says_nothing_logs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMAC_LOG", raising=False)
    before = list(logs.logger.handlers)
    log_as_environment_says()
    assert logs.logger.handlers == before


def test_the_log_of_a_run_has_all_its_rounds_from_beginning_to_end(fedmac: Command, tmp_path: Path) -> None:
    scenario = write(tmp_path, small(variants=VARIANTS, rounds=2))
    plain = fedmac("run", scenario, "--no-report", "--out", "plain")
    ended = fedmac("run", scenario, "--no-report", "--out", "other", "--log", "log", "--log-format", "json")
    assert (ended.code, ended.err) == (0, plain.err)
    # The last column is seconds as this machine took them.
    shown, shown_before = (re.sub(r" +[\d.]+ *$", "", out, flags=re.MULTILINE) for out in (ended.out, plain.out))
    assert shown.replace("other", "plain") == shown_before
    events = [event for event in read(Path("log")) if event["logger"] == "fedmac"]
    rounds = [(event["variant"], event["round"]) for event in events if event["event"] == "round"]
    assert rounds == [(name, number) for name in ("rlc", "ideal") for number in (0, 1, 2)]
    kept = [(event["variant"], event["round"]) for event in events if event["event"] == "checkpoint"]
    assert set(kept) <= {(name, number) for name, number in rounds}
    assert (events[0]["event"], events[-1]["event"]) == ("run_started", "run_finished")
    assert all(
        event["energy_j_per_device_mean"] > 0 for event in events if event.get("round") == 2 and "heard" in event
    )


def test_a_run_that_is_refused_says_so_in_its_log(fedmac: Command, tmp_path: Path) -> None:
    scenario = write(tmp_path, small({"data.source": "nobody"}))
    assert fedmac("run", scenario, "--log", "log", "--log-format", "json").code == 2
    assert [event["event"] for event in read(Path("log"))][-1] == "run_failed"
    ended = fedmac("run", scenario, "--log-format", "json")
    assert ended.code == 2
    assert "accepted: with --log FILE" in one_line(ended.err)


@pytest.mark.parametrize(("error", "event"), [(KeyboardInterrupt, "run_interrupted"), (RecordError, "run_failed")])
def test_how_a_command_ends_is_in_its_log(
    fedmac: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], event: str
) -> None:
    def end(*_: object, **__: object) -> None:
        raise error("r: cannot be written")

    monkeypatch.setattr("fedmac.engines.run_jobs", end)
    ended = fedmac("run", write(tmp_path, small()), "--no-report", "--log", "log", "--log-format", "json")
    assert ended.code == 1
    last = read(Path("log"))[-1]
    assert (last["event"], last["error"]) == (event, error.__name__)


def test_a_program_may_listen_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fedmac"):
        fedmac.run(small(rounds=1), out=tmp_path / "r", report=False)
    rounds = [vars(record) for record in caplog.records if vars(record).get("event") == "round"]
    assert [record["round"] for record in rounds] == [0, 1]
