"""Sinks: rounds to TensorBoard and MLflow beside the run folder."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import fedmac
from fedmac import sinks
from fedmac.scenario_errors import ScenarioError
from fedmac.sinks import EXTRAS, SINKS, check_sinks, figures, open_sinks
from tests.fedmac.small_scenario import small

RECORD = {
    "variant": "rlc", "seed": 1, "round": 2, "test_accuracy": 0.5, "channel_uses": 10, "heard": True, "silent": [1],
    "test_loss": None,
}  # fmt: skip


class FakeWriter:
    """What TensorBoard's SummaryWriter is asked to do."""

    made: list[FakeWriter]

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = Path(folder), [], False  # type: ignore[var-annotated]
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


class FakeClient:
    """What MLflow's client is asked to do."""

    made: list[FakeClient]

    def __init__(self, tracking_uri: str | None) -> None:
        self.uri, self.metrics, self.ended = tracking_uri, [], {}  # type: ignore[var-annotated]
        self.made.append(self)

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="7") if name == "there" else None

    def create_experiment(self, name: str) -> str:
        return f"new {name}"

    def create_run(self, experiment: str, run_name: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=f"{experiment}: {run_name}"))

    def log_metric(self, run: str, name: str, value: float, step: int) -> None:
        self.metrics.append((run, name, value, step))

    def set_terminated(self, run: str, status: str) -> None:
        self.ended[run] = status


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    """TensorBoard as if installed; the writers it made."""
    FakeWriter.made = []
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setitem(sys.modules, "tensorboard", ModuleType("tensorboard"))
    return FakeWriter.made


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """MLflow as if installed; the clients it made."""
    FakeClient.made = []
    module = ModuleType("mlflow")
    module.MlflowClient = FakeClient  # type: ignore[attr-defined]
    module.is_tracking_uri_set = lambda: False  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return FakeClient.made


def test_only_plain_numbers_are_figures() -> None:
    assert figures(RECORD) == {"test_accuracy": 0.5, "channel_uses": 10.0}


def test_an_unknown_sink_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(ScenarioError, match=r"sink = 'excel': unknown; accepted: tensorboard, mlflow"):
        check_sinks(["excel"])


def test_every_sink_has_its_extra() -> None:
    assert set(SINKS) == set(EXTRAS)


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_that_is_not_installed_is_refused_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda _: None)
    extra, package = EXTRAS[name]
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(ScenarioError, match=rf"sink = '{name}': not installed.*pip install -e '\.\[{extra}\]'"):
        fedmac.run(small(), out=tmp_path / "r", sinks=[name])
    assert not (tmp_path / "r").exists()


def test_tensorboard_gets_a_writer_for_each_variant_and_seed(tmp_path: Path, writers: list[FakeWriter]) -> None:
    with open_sinks(["tensorboard"], tmp_path) as send:
        send(RECORD)
        send(RECORD | {"round": 3})
        send(RECORD | {"seed": 2})
    assert [w.folder for w in writers] == [tmp_path / "tensorboard" / f"rlc-seed-{seed}" for seed in (1, 2)]
    assert [(name, step) for name, _, step in writers[0].scalars] == [
        ("test_accuracy", 2), ("channel_uses", 2), ("test_accuracy", 3), ("channel_uses", 3),
    ]  # fmt: skip
    assert all(w.closed for w in writers)


def test_mlflow_gets_a_run_for_each_variant_and_seed(tmp_path: Path, clients: list[FakeClient]) -> None:
    with open_sinks(["mlflow"], tmp_path / "mine") as send:
        send(RECORD)
        send(RECORD | {"seed": 2})
    (client,) = clients
    assert client.uri == f"sqlite:///{tmp_path / 'mine' / 'mlflow.db'}"
    assert client.metrics[0] == ("new mine: rlc-seed-1", "test_accuracy", 0.5, 2)
    assert client.ended == {f"new mine: rlc-seed-{seed}": "FINISHED" for seed in (1, 2)}


def test_mlflow_uses_the_server_and_the_experiment_that_are_there(
    tmp_path: Path, clients: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mlflow"], "is_tracking_uri_set", lambda: True)
    with open_sinks(["mlflow"], tmp_path / "there") as send:
        send(RECORD)
    assert clients[0].uri is None
    assert clients[0].metrics[0][0] == "7: rlc-seed-1"


def test_sinks_are_closed_when_a_run_is_interrupted(
    tmp_path: Path, writers: list[FakeWriter], clients: list[FakeClient]
) -> None:
    def interrupted() -> None:
        with open_sinks(["tensorboard", "mlflow"], tmp_path) as send:
            send(RECORD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [w.closed for w in writers] == [True]
    assert list(clients[0].ended.values()) == ["FAILED"]


def test_a_run_sends_its_rounds_to_every_sink_it_names(
    tmp_path: Path, writers: list[FakeWriter], clients: list[FakeClient]
) -> None:
    run = fedmac.run(small(), out=tmp_path / "r", sinks=["tensorboard", "mlflow"])
    accuracy = run.rounds["test_accuracy"].tolist()
    assert [value for name, value, _ in writers[0].scalars if name == "test_accuracy"] == accuracy
    assert [value for _, name, value, _ in clients[0].metrics if name == "test_accuracy"] == accuracy


def test_the_real_tensorboard_writes_its_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fedmac.run(small(rounds=1), out=tmp_path / "r", sinks=["tensorboard"])
    (events,) = (tmp_path / "r" / "tensorboard" / "small-seed-0").iterdir()
    assert b"test_accuracy" in events.read_bytes()


def test_the_real_mlflow_keeps_each_folder_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("a", "b"):
        run = fedmac.run(small(rounds=1), out=tmp_path / name, sinks=["mlflow"])
        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / name / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(name)
        (logged,) = client.search_runs([experiment.experiment_id])
        assert logged.info.status == "FINISHED"
        assert logged.data.metrics["test_accuracy"] == run.rounds["test_accuracy"].iloc[-1]
