"""Optional sinks: rounds to TensorBoard or MLflow beside the run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedmac.scenario_errors import ScenarioError

Sink = Callable[[dict[str, Any]], None]

SINKS = {
    "tensorboard": "TensorBoard event files in the run folder (extra 'tensorboard')",
    "mlflow": "MLflow runs at MLFLOW_TRACKING_URI, or in the run folder (extra 'mlflow')",
}
"""Sinks by name, with a line for `fedmac list`."""


def check_sinks(names: Iterable[str]) -> None:
    """Refuse sinks that cannot be opened, before anything runs.

    Raises
    ------
    ScenarioError
        If a sink is unknown or its extra is not installed.
    """
    for name in names:
        if name not in SINKS:
            raise ScenarioError(f"sink = {name!r}: unknown; accepted: {', '.join(SINKS)}")
        if not _installed(name):
            raise ScenarioError(
                f"sink = {name!r}: not installed; accepted: FedMAC's extra of that name, "
                f"in its repository: pip install -e '.[{name}]'"
            )


def _installed(package: str) -> bool:
    return package in sys.modules or find_spec(package) is not None


@contextmanager
def open_sinks(names: Iterable[str], out: Path) -> Iterator[Sink]:
    """A function that sends a round's record to every named sink, until the context ends.

    Parameters
    ----------
    names : iterable of str
        Sinks, as :func:`check_sinks` accepts them.
    out : Path
        The run folder, which is there already.
    """
    openers = {"tensorboard": _tensorboard, "mlflow": _mlflow}
    with ExitStack() as stack:
        sinks = [stack.enter_context(openers[name](out)) for name in names]

        def send(record: dict[str, Any]) -> None:
            for sink in sinks:
                sink(record)

        yield send


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
