"""Metrics: what Prometheus reads of a run, at an address or in a file, is what the run's record says."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fedmac
from fedmac.metrics import COUNTED, GAUGES, SUMS, RunMetrics
from fedmac.metrics_sinks import address, prometheus, textfile
from fedmac.record import RecordError
from fedmac.scenario_errors import ScenarioError
from fedmac.sinks import check_sinks
from strategies.quarantine import Quarantine
from strategies.refusal import Failure
from strategies.trust import Trust
from tests.fedmac.small_scenario import VARIANTS, small

client = pytest.importorskip("prometheus_client", reason="extra 'metrics'")

RECORD: dict[str, Any] = {
    "variant": "rlc", "seed": 1, "round": 1, "participants": 2, "heard": True, "test_accuracy": 0.5, "test_loss": None,
    "channel_uses": 10, "energy_j_per_device_mean": 3.0,
    "failures": [{"device": 3, "reason": "lost on the link", "kind": "lost"}],
    "not_asked": [{"device": 4, "reason": "unreachable"}, {"device": 5, "reason": "not asked: others are worth more"}],
    "warnings": ["an error out of reach"],
}  # fmt: skip
OWN = {"run": "r", "variant": "rlc", "seed": "1"}


def metrics_of(*records: dict[str, Any]) -> Any:
    """A registry of the metrics after some rounds."""
    metrics, registry = RunMetrics("r"), client.CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    for record in records:
        metrics.note(record)
    return registry


def read(text: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Samples of Prometheus's text format by name and labels, as its own library parses them."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return samples


def test_figures_of_the_last_round_are_gauges_and_sums_are_counters() -> None:
    registry = metrics_of(RECORD, RECORD | {"round": 2, "test_accuracy": None, "channel_uses": 20})
    value = registry.get_sample_value
    assert value("fedmac_round", OWN) == 2
    assert value("fedmac_test_accuracy", OWN) == 0.5  # not evaluated in the second round
    assert value("fedmac_test_loss", OWN) is None
    assert value("fedmac_channel_uses_total", OWN) == 20
    assert value("fedmac_mean_device_energy_total", OWN) == 3
    assert value("fedmac_run_failed", {"run": "r"}) == 0
    assert value("fedmac_last_round_timestamp_seconds", {"run": "r"}) > 0


def test_devices_warnings_and_errors_are_counted_over_rounds() -> None:
    registry = metrics_of(RECORD, RECORD | {"round": 2, "heard": False})
    value = registry.get_sample_value
    assert [value("fedmac_devices_total", OWN | {"outcome": o}) for o in ("sent", "failed", "not_asked")] == [4, 2, 4]
    assert value("fedmac_failures_total", OWN | {"kind": "lost"}) == 2
    assert value("fedmac_failures_total", OWN | {"kind": "no-reply"}) == 0  # there from the start: a rate needs that
    assert value("fedmac_not_asked_total", OWN | {"kind": "unreachable"}) == 2
    assert value("fedmac_warnings_total", OWN) == 2
    assert value("fedmac_rounds_unheard_total", OWN) == 1


def test_each_variant_and_seed_has_its_own() -> None:
    registry = metrics_of(RECORD, RECORD | {"variant": "ideal", "participants": 5}, RECORD | {"seed": 2})
    count = registry.get_sample_value
    sent = {"outcome": "sent"}
    assert count("fedmac_devices_total", OWN | sent | {"variant": "ideal"}) == 5
    assert count("fedmac_devices_total", OWN | sent | {"seed": "2"}) == 2


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("unreachable", "unreachable"),
        ("not asked: in outage", "outage"),
        ("not asked: others are worth more per joule", "other"),
    ],
)
def test_reasons_not_to_ask_have_a_kind(reason: str, kind: str) -> None:
    registry = metrics_of(RECORD | {"not_asked": [{"device": 4, "reason": reason}]})
    assert registry.get_sample_value("fedmac_not_asked_total", OWN | {"kind": kind}) == 1


def test_a_device_in_quarantine_is_known_by_its_reason() -> None:
    quarantine = Quarantine(Trust(bad_replies=1, quarantine_rounds=5))
    quarantine.note(1, 4, [Failure(7, "symbols of a made-up kind", "dtype")])
    reason = quarantine.out(7, 2)
    registry = metrics_of(RECORD | {"not_asked": [{"device": 7, "reason": reason}]})
    assert registry.get_sample_value("fedmac_not_asked_total", OWN | {"kind": "quarantined"}) == 1


def test_what_devices_say_adds_no_series() -> None:
    def series(*reasons: str) -> int:
        failures = [{"device": 0, "reason": reason, "kind": reason} for reason in reasons]
        registry = metrics_of(RECORD | {"failures": failures, "own metric of a device": 7.0})
        return sum(len(family.samples) for family in registry.collect())

    assert series() == series(*(f"made up {number}" for number in range(100)))


def test_every_metric_has_a_name_of_its_own_and_comes_out_under_it() -> None:
    names = [name for name, *_ in [*GAUGES.values(), *SUMS.values(), *COUNTED.values()]]
    assert len(set(names)) == len(names)
    full = RECORD | dict.fromkeys([*GAUGES, *SUMS], 1.0)
    counters = {f"{name}_total" for name, *_ in [*SUMS.values(), *COUNTED.values()]}
    said = set(read(client.generate_latest(metrics_of(full)).decode()))
    others = {"fedmac_run_failed", "fedmac_last_round_timestamp_seconds"}
    assert said == counters | {name for name, _ in GAUGES.values()} | others


def ask(port: int, path: str = "/metrics", accept: str = "text/plain") -> tuple[int, str, str]:
    """Status, type and text of what an address of this machine says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, str(response.getheader("Content-Type")), response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def test_prometheus_reads_the_rounds_at_an_address(tmp_path: Path, port: int) -> None:
    with prometheus(tmp_path / "r", str(port)) as note:
        note(RECORD)
        status, kind, text = ask(port)
        assert (status, kind.partition(";")[0]) == (200, "text/plain")
        assert read(text)["fedmac_round"] == {frozenset(OWN.items()): 1}
        note(RECORD | {"round": 2})
        assert read(ask(port)[2])["fedmac_round"] == {frozenset(OWN.items()): 2}
        _, kind, text = ask(port, accept="application/openmetrics-text; version=1.0.0")
        assert kind.startswith("application/openmetrics-text")
        assert text.endswith("# EOF\n")
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def failing_run(out: Path, port: int, before: Callable[[], object]) -> None:
    with prometheus(out, str(port)) as note:
        note(RECORD)
        before()
        raise OSError("disk full")


def test_prometheus_is_told_that_its_run_failed(tmp_path: Path, port: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(failing_run, tmp_path / "r", port, lambda: ask(port))
        while not (seen := failed_of(port)):
            assert not run.done(), "the address went away before it had said so"
        assert seen == 1
        with pytest.raises(OSError, match="disk full"):
            run.result(30)
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def failed_of(port: int) -> float:
    """What the address says of the run; 0 as long as nobody listens there."""
    with suppress(ConnectionError):  # refused, or closed while it waited in line
        return next(iter(read(ask(port)[2])["fedmac_run_failed"].values()))
    return 0.0


def test_a_failed_run_that_nobody_asks_about_ends_at_once(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmac.metrics_sinks.LAST_LOOK_S", 1e6)
    with ThreadPoolExecutor(1) as pool, pytest.raises(OSError, match="disk full"):
        pool.submit(failing_run, tmp_path / "r", port, lambda: None).result(30)


def test_a_failed_run_does_not_wait_for_ever_for_who_has_asked_before(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmac.metrics_sinks.LAST_LOOK_S", 0.01)
    with pytest.raises(OSError, match="disk full"):
        failing_run(tmp_path / "r", port, lambda: ask(port))


def test_the_endpoint_is_for_this_machine_unless_asked_otherwise() -> None:
    assert address(None) == ("127.0.0.1", 9464)
    assert address("9200") == address(":9200") == ("127.0.0.1", 9200)
    assert address("0.0.0.0:9200") == ("0.0.0.0", 9200)
    assert address("[::1]:9200") == ("::1", 9200)


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("prometheus=x", "accepted: prometheus=HOST:PORT"),
        ("prometheus=127.0.0.1:99999", "accepted: prometheus=HOST:PORT"),
        ("prometheus=", "accepted: prometheus=HOST:PORT"),
        ("prometheus=192.0.2.1:9464", "cannot listen there"),
        ("textfile=metrics.txt", "ends in .prom"),
        ("textfile=/no/such/folder/metrics.prom", "its folder is not there"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_before_anything_runs(tmp_path: Path, sink: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        fedmac.run(small(), out=tmp_path / "r", sinks=[sink])
    assert not (tmp_path / "r").exists()


def test_a_port_in_use_is_refused_before_anything_runs(tmp_path: Path, taken: int) -> None:
    message = rf"sink = 'prometheus=127.0.0.1:{taken}': cannot listen there: Address.*in use"
    with pytest.raises(ScenarioError, match=message):
        fedmac.run(small(), out=tmp_path / "r", sinks=[f"prometheus={taken}"])
    assert not (tmp_path / "r").exists()


def test_only_sinks_that_are_told_where_take_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmac.sinks._installed", lambda _: True)
    with pytest.raises(ScenarioError, match=r"sink = 'tensorboard=x': accepted: tensorboard"):
        check_sinks(["tensorboard=x"])


def test_a_textfile_is_replaced_whole_after_each_round(tmp_path: Path) -> None:
    path = tmp_path / "fedmac.prom"
    path.write_text("old")
    with textfile(tmp_path / "r", str(path)) as note:
        note(RECORD)
        first = path.stat().st_ino
        assert read(path.read_text())["fedmac_round"] == {frozenset(OWN.items()): 1}
        note(RECORD | {"round": 2})
        assert path.stat().st_ino != first  # another file in its place: nobody reads half of one
    assert read(path.read_text())["fedmac_round"] == {frozenset(OWN.items()): 2}
    assert list(tmp_path.iterdir()) == [path]


def test_a_textfile_says_that_its_run_failed(tmp_path: Path) -> None:
    def failing() -> None:
        with textfile(tmp_path, None) as note:
            note(RECORD)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        failing()
    assert list(read((tmp_path / "metrics.prom").read_text())["fedmac_run_failed"].values()) == [1]


def test_a_textfile_that_cannot_be_written_stops_the_run_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").mkdir()
    with pytest.raises(RecordError, match=r"metrics\.prom: cannot be written"), textfile(tmp_path, None) as note:
        note(RECORD)


def test_a_runs_metrics_are_those_of_its_record(tmp_path: Path) -> None:
    run = fedmac.run(small(variants=VARIANTS), out=tmp_path / "r", sinks=["textfile"], report=False)
    samples = read((tmp_path / "r" / "metrics.prom").read_text())
    for row in run.summary["variants"]:
        own = frozenset({"run": "r", "variant": row["name"], "seed": "0"}.items())
        assert samples["fedmac_round"][own] == row["rounds"]
        assert samples["fedmac_test_accuracy"][own] == row["test_accuracy"]
        assert samples["fedmac_channel_uses_total"][own] == row["channel_uses"]
        assert samples["fedmac_mean_device_energy_total"][own] == row["energy_j_per_device_mean"]
        assert samples["fedmac_devices_total"][own | {("outcome", "sent")}] == 4 * row["rounds"]
