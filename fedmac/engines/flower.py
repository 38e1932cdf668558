"""Flower's simulation engine, started, watched and stopped by us.

``flwr run`` alone leaves a background SuperLink behind for ever, shares it between projects, exits 0 when the
run failed and waits without end for SuperNodes that were never declared. `run_app` gives each run its own
SuperLink in a private home, states the number of nodes, asks the SuperLink itself how the run stands, turns a
failed run into an `EngineError` and leaves no process behind, also on Ctrl-C.

Source: Flower 1.41 ``flwr.cli.run``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from fedmac.deployment.control import Scalar
from fedmac.engines.superlink import EngineError, SuperLink, log_lines, log_tail, private_superlink

__all__ = ["EngineError", "FlowerSimulation", "Scalar", "run_app", "run_simulation", "write_app"]

_POLL_SECONDS = 1.0
_LAST_LOGS_SECONDS = 10.0  # the log stream ends a few seconds after the run does
_TAIL_LINES = 30


@dataclass(frozen=True)
class FlowerSimulation:
    """What Flower's simulation is told about its size.

    Parameters
    ----------
    nodes
        SuperNodes to simulate (one device each); Flower waits for ever if more are asked for than exist.
    cpus_per_node
        Whole CPUs a client takes; ``total_cpus // cpus_per_node`` clients run at the same time.
    total_cpus
        CPUs that the private Ray may use; None leaves it to Ray (all of the machine).
    gpus_per_node
        Share of a GPU a client takes; 0 hides the GPUs from clients.
    ray_address
        Address of a running Ray cluster to use instead of a private Ray; its CPUs are its own, so
        ``total_cpus`` must be None then.
    startup_timeout
        Seconds within which the SuperLink must answer, and the run must have begun.

    Raises
    ------
    ValueError
        If a value is out of range, or a CPU count is given for a cluster.
    """

    nodes: int
    cpus_per_node: int = 1
    total_cpus: int | None = None
    gpus_per_node: float = 0.0
    ray_address: str | None = None
    startup_timeout: float = 120.0

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus_per_node"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "an integer of at least 1")
        _require(self.gpus_per_node >= 0, "gpus_per_node", self.gpus_per_node, "a number of at least 0")
        _require(self.startup_timeout > 0, "startup_timeout", self.startup_timeout, "seconds above 0")
        if self.total_cpus is None:
            return
        enough = self.total_cpus >= self.cpus_per_node
        _require(enough, "total_cpus", self.total_cpus, f"None or at least cpus_per_node ({self.cpus_per_node})")
        _require(self.ray_address is None, "total_cpus", self.total_cpus, "None where ray_address is given")

    def federation_config(self) -> str:
        """Return the value of ``flwr run --federation-config``."""
        words = [f"num-supernodes={self.nodes}", f"client-resources-num-cpus={self.cpus_per_node}"]
        if self.gpus_per_node:
            words.append(f"client-resources-num-gpus={float(self.gpus_per_node)}")
        if self.total_cpus is not None:
            words.append(f"init-args-num-cpus={self.total_cpus}")
        return " ".join(words)


def write_app(
    directory: Path,
    config: Mapping[str, Scalar] | None = None,
    *,
    serverapp: str = "fedmac.server_app:app",
    clientapp: str = "fedmac.client_app:app",
) -> Path:
    """Write the smallest Flower app: a ``pyproject.toml`` that names installed code.

    The bundle that ``flwr run`` sends then weighs a few hundred bytes; ServerApp and ClientApps import the
    code from the environment.

    Parameters
    ----------
    directory
        Made if missing; receives ``pyproject.toml``.
    config
        The run's configuration keys with their defaults: Flower takes no key that is not declared here.
    serverapp, clientapp
        ``module:attribute``; Flower looks for a plain assignment ``attribute = ...`` in the module's source.

    Returns
    -------
    Path
        The directory, resolved: the `run_app` argument ``app``.

    Raises
    ------
    TypeError
        If a configuration value is no scalar.
    """
    config = dict(config or {})
    _check_scalars(config)
    project = {"name": "fedmac-app", "version": "1.0.0", "description": "FedMAC", "license": "Apache-2.0"}
    components = {"serverapp": serverapp, "clientapp": clientapp}
    flower = {"app": {"publisher": "fedmac", "components": components, "config": config}}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": flower}}))
    return directory.resolve()


def run_app(
    app: Path,
    run_config: Mapping[str, Scalar],
    *,
    nodes: int,
    workers: int,
    timeout: float | None = None,
    log: Path,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run a Flower app to its end on ``nodes`` simulated devices, ``workers`` of them at the same time.

    `run_simulation` with one CPU for each client; see there for parameters and errors.
    """
    simulation = FlowerSimulation(nodes=nodes, total_cpus=workers)
    run_simulation(app, run_config, simulation, timeout=timeout, log=log, on_poll=on_poll)


def run_simulation(
    app: Path,
    run_config: Mapping[str, Scalar],
    simulation: FlowerSimulation,
    *,
    timeout: float | None = None,
    log: Path,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run a Flower app on a SuperLink of its own and return when it has completed.

    Parameters
    ----------
    app
        The app's directory, which holds its ``pyproject.toml``.
    run_config
        Overrides of ``[tool.flwr.app.config]``; paths must be absolute, the app runs elsewhere.
    simulation
        Number of nodes and their resources.
    timeout
        Seconds that the whole run may take; None for no limit.
    log
        File to which the run's output (ServerApp and ClientApps) is appended while it runs.
    on_poll
        Called about once a second, and once more after the run has finished. What it raises ends the run.

    Raises
    ------
    ValueError, TypeError
        If ``app`` holds no app, or ``run_config`` has a key or type that the app does not declare.
    EngineError
        If Ray is missing, the SuperLink does not start, the app is refused or fails, or time is up.
    """
    _check_config(app, run_config)
    if importlib.util.find_spec("ray") is None:
        raise EngineError(
            "engine 'flower' needs Ray; install FedMAC's extra 'simulation', "
            "in its repository: pip install -e '.[simulation]'"
        )
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    log.parent.mkdir(parents=True, exist_ok=True)
    with private_superlink(simulation.startup_timeout, simulation.ray_address) as link, log.open("ab") as sink:
        start = sink.tell()
        submission = link.submit(app.resolve(), run_config, simulation.federation_config(), sink)
        status, details = _watch(link, submission, deadline, timeout, on_poll, log)
        with suppress(subprocess.TimeoutExpired):
            submission.wait(timeout=_LAST_LOGS_SECONDS)
    if status != "finished:completed":
        trace = last_traceback(log, start)
        raise EngineError(f"the Flower run ended {status}: {details}\n{trace}\n(whole log: {log})")


def _watch(
    link: SuperLink,
    submission: subprocess.Popen[bytes],
    deadline: float,
    timeout: float | None,
    on_poll: Callable[[], None] | None,
    log: Path,
) -> tuple[str, str]:
    """Poll until the run is finished; return its status and the details of it."""
    patience = link.startup_timeout
    lost_at = time.monotonic() + patience
    while True:
        link.check_alive()
        refused = submission.poll()  # read before the status: a run that ends in between is no refusal
        status, details = link.status()
        link.processes.look()
        if on_poll is not None:
            on_poll()
        now = time.monotonic()
        if status.startswith("finished"):
            return status, details
        if not status and refused is not None:
            raise EngineError(f"Flower refused the app (flwr run exited {refused}):\n{log_tail(log)}")
        if status == "running":
            lost_at = now + patience
        if now > lost_at:
            state = f"the run is {status or 'not submitted'!r} for {patience:g} s (startup_timeout)"
            raise EngineError(f"{state}; SuperLink:\n{log_tail(link.log)}")
        if now > deadline:
            raise EngineError(f"the run took longer than timeout = {timeout:g} s; it ends:\n{log_tail(log)}")
        time.sleep(_POLL_SECONDS)


def _check_config(app: Path, run_config: Mapping[str, Scalar]) -> None:
    """Refuse what Flower reports without the key's name (an unknown key) or not at all (a wrong type)."""
    file = app / "pyproject.toml"
    if not file.is_file():
        raise ValueError(f"app is {str(app)!r}; it must be a directory that holds a pyproject.toml")
    _check_scalars(run_config)
    declared = tomllib.loads(file.read_text())["tool"]["flwr"]["app"].get("config", {})
    for key, value in run_config.items():
        if key not in declared:
            known = ", ".join(sorted(declared)) or "no key"
            raise ValueError(f"run_config has {key!r}; [tool.flwr.app.config] of the app declares {known}")
        kind = type(declared[key])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"run_config[{key!r}] is {value!r}; the app declares it as {kind.__name__}")


def _check_scalars(config: Mapping[str, Scalar]) -> None:
    for key, value in config.items():
        if not isinstance(value, str | int | float | bool):
            raise TypeError(f"config[{key!r}] is {value!r}; Flower takes str, int, float and bool")


def _require(holds: bool, name: str, value: object, accepted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {accepted}")


def last_traceback(log: Path, start: int) -> str:
    """Return the last traceback in the part of the log that this run wrote, or the end of that part."""
    lines = log_lines(log, start)
    heads = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    if not heads:
        return "\n".join(lines[-_TAIL_LINES:])
    trace = lines[heads[-1] :]
    # the first line below that is not indented names the exception and ends the traceback
    ends = (number for number, line in enumerate(trace) if number and line.strip() and line[0] != " ")
    end = next(ends, len(trace)) + 1
    return "\n".join(trace[:end][-_TAIL_LINES:])
