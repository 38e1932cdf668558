"""Optional sinks: rounds to TensorBoard, MLflow or Prometheus beside the run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedmac.logs import log_event, log_round
from fedmac.metrics_sinks import check_prometheus, check_textfile, prometheus, textfile
from fedmac.scenario_errors import ScenarioError

Sink = Callable[[dict[str, Any]], None]
"""Takes each round's record."""

SINKS = {
    "tensorboard": "TensorBoard event files in the run folder (extra 'tensorboard')",
    "mlflow": "MLflow runs at MLFLOW_TRACKING_URI, or in the run folder (extra 'mlflow')",
    "prometheus": "Metrics that Prometheus asks for, at 127.0.0.1:9464 or prometheus=HOST:PORT (extra 'metrics')",
    "textfile": "Metrics for node_exporter, in metrics.prom or textfile=FILE, after each round (extra 'metrics')",
}
"""Sinks by name, with a line for `fedmac list`."""

EXTRAS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow"),
    "prometheus": ("metrics", "prometheus_client"),
    "textfile": ("metrics", "prometheus_client"),
}
"""FedMAC's extra that a sink needs, and the package that it imports."""


def check_sinks(sinks: Iterable[str]) -> None:
    """Refuse sinks that cannot be opened, before anything runs.

    Raises
    ------
    ScenarioError
        If a sink is unknown, its extra is not installed, or it cannot write where it is told to.
    """
    for sink in sinks:
        name, where = _parsed(sink)
        if name not in SINKS:
            raise ScenarioError(f"sink = {sink!r}: unknown; accepted: {', '.join(SINKS)}")
        extra, package = EXTRAS[name]
        if not _installed(package):
            raise ScenarioError(
                f"sink = {sink!r}: not installed; accepted: FedMAC's extra {extra!r}, "
                f"in its repository: pip install -e '.[{extra}]'"
            )
        if name == "prometheus":
            check_prometheus(where)
        elif name == "textfile":
            check_textfile(where)
        elif where is not None:
            raise ScenarioError(f"sink = {sink!r}: accepted: {name}; only prometheus and textfile are told where")


def _parsed(sink: str) -> tuple[str, str | None]:
    """Name of a sink, and where it writes if that is said: ``name=where``."""
    name, told, where = sink.partition("=")
    return name, where if told else None


def _installed(package: str) -> bool:
    return package in sys.modules or find_spec(package) is not None


@contextmanager
def open_sinks(sinks: Iterable[str], out: Path) -> Iterator[Sink]:
    """A function that sends a round's record to the log and to every named sink, until the context ends.

    Parameters
    ----------
    sinks : iterable of str
        As :func:`check_sinks` accepts them.
    out : Path
        The run folder, which is there already.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(*_parsed(sink), out)) for sink in sinks]

        def send(record: dict[str, Any]) -> None:
            log_round(record)
            for sink in opened:
                sink(record)

        yield send
        log_event("run_finished", f"the run in {out} is done", {"folder": str(out)})


def _opened(name: str, where: str | None, out: Path) -> AbstractContextManager[Sink]:
    told = {"prometheus": prometheus, "textfile": textfile}
    return told[name](out, where) if name in told else {"tensorboard": _tensorboard, "mlflow": _mlflow}[name](out)


def figures(record: dict[str, Any]) -> dict[str, float]:
    """The plain numbers of a round's record."""
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("round", "seed")
    }


@contextmanager
def _tensorboard(out: Path) -> Iterator[Sink]:
    from torch.utils.tensorboard import SummaryWriter

    writers: dict[str, Any] = {}

    def send(record: dict[str, Any]) -> None:
        name = f"{record['variant']}-seed-{record['seed']}"
        if name not in writers:
            writers[name] = SummaryWriter(str(out / "tensorboard" / name))
        for figure, value in figures(record).items():
            writers[name].add_scalar(figure, value, record["round"])

    try:
        yield send
    finally:
        for writer in writers.values():
            writer.close()


@contextmanager
def _mlflow(out: Path) -> Iterator[Sink]:
    import mlflow

    # A client of our own: mlflow.set_tracking_uri would also send the next run of this process here.
    own = f"sqlite:///{(out / 'mlflow.db').absolute()}"
    client = mlflow.MlflowClient(tracking_uri=None if mlflow.is_tracking_uri_set() else own)
    experiment = client.get_experiment_by_name(out.absolute().name)
    number = experiment.experiment_id if experiment else client.create_experiment(out.absolute().name)
    runs: dict[str, str] = {}

    def send(record: dict[str, Any]) -> None:
        name = f"{record['variant']}-seed-{record['seed']}"
        if name not in runs:
            runs[name] = client.create_run(number, run_name=name).info.run_id
        for figure, value in figures(record).items():
            client.log_metric(runs[name], figure, value, step=int(record["round"]))

    status = "FAILED"
    try:
        yield send
        status = "FINISHED"
    finally:
        for run_id in runs.values():
            client.set_terminated(run_id, status)
