"""Flower's simulation engine, started, watched and stopped by us.

``flwr run`` alone leaves a background SuperLink behind for ever, shares it between projects, exits 0 when the
run failed and waits without end for SuperNodes that were never declared. `run_app` gives each run its own
SuperLink in a private home, states the number of nodes, asks the SuperLink itself how the run stands, turns a
failed run into an `EngineError` and leaves no process behind, also on Ctrl-C.

Source: Flower 1.41 ``flwr.cli.run``, ``flwr.cli.local_superlink``, ``flwr.simulation.app``.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

import tomli_w
from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse

Scalar = str | int | float | bool

_POLL_SECONDS = 1.0
_GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
_LAST_LOGS_SECONDS = 10.0  # the log stream ends a few seconds after the run does
_LONGEST_HOME = 37  # Ray's sockets live below it and a Unix socket's path holds 107 bytes
_TAIL_LINES = 30

# Ends what we start when we are killed with no chance to clean up (Linux's PR_SET_PDEATHSIG is 1); Flower and
# Ray then end what they started once the clients at work are done. A preexec_fn may deadlock beside threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class EngineError(RuntimeError):
    """The engine could not run the app, or the app failed in it; the message says why."""


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
        raise EngineError("engine 'flower' needs Ray; install the extra: pip install 'fedmac[simulation]'")
    deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
    log.parent.mkdir(parents=True, exist_ok=True)
    with _private_superlink(simulation) as link, log.open("ab") as sink:
        start = sink.tell()
        submission = link.submit(app.resolve(), run_config, sink)
        status, details = _watch(link, submission, deadline, timeout, on_poll, log)
        with suppress(subprocess.TimeoutExpired):
            submission.wait(timeout=_LAST_LOGS_SECONDS)
    if status != "finished:completed":
        trace = _traceback(log, start)
        raise EngineError(f"the Flower run ended {status}: {details}\n{trace}\n(whole log: {log})")


def _watch(
    link: _SuperLink,
    submission: subprocess.Popen[bytes],
    deadline: float,
    timeout: float | None,
    on_poll: Callable[[], None] | None,
    log: Path,
) -> tuple[str, str]:
    """Poll until the run is finished; return its status and the details of it."""
    patience = link.simulation.startup_timeout
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
            raise EngineError(f"Flower refused the app (flwr run exited {refused}):\n{_tail(log)}")
        if status == "running":
            lost_at = now + patience
        if now > lost_at:
            state = f"the run is {status or 'not submitted'!r} for {patience:g} s (startup_timeout)"
            raise EngineError(f"{state}; SuperLink:\n{_tail(link.log)}")
        if now > deadline:
            raise EngineError(f"the run took longer than timeout = {timeout:g} s; it ends:\n{_tail(log)}")
        time.sleep(_POLL_SECONDS)


@dataclass
class _SuperLink:
    """A SuperLink of our own, the home it lives in, and everything that it starts."""

    home: Path
    simulation: FlowerSimulation
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.home / "superlink.log"
        self.processes = _Processes(self.home)
        self.environment = _environment(self.home, self.simulation.ray_address)
        # Ray's clients import from the SuperLink's working directory before the app: it must hold nothing.
        self.neutral = self.home / "empty"
        self.neutral.mkdir()

    def start(self) -> None:
        """Start the SuperLink and wait until it answers; on another port if somebody just took this one."""
        for last in (False, False, True):
            self.port = _free_port()
            command = [_script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
            command += ["--host", "127.0.0.1", "--port", str(self.port)]
            with self.log.open("wb") as sink:
                self.process = self._spawn(command, sink)
            try:
                self._wait_until_healthy()
                return
            except EngineError:
                if last or "address already in use" not in _tail(self.log).lower():
                    raise

    def submit(self, app: Path, run_config: Mapping[str, Scalar], sink: IO[bytes]) -> subprocess.Popen[bytes]:
        """Send the app to the SuperLink; the process returned streams the run's output into ``sink``."""
        connection = {"address": f"127.0.0.1:{self.port}", "insecure": True}
        config = {"superlink": {"default": "own", "own": connection}}
        (self.home / "config.toml").write_text(tomli_w.dumps(config))
        overrides = self.home / "run-config.toml"
        overrides.write_text(tomli_w.dumps(dict(run_config)))
        command = [_script("flwr"), "run", str(app), "own", "--stream", "--run-config", str(overrides)]
        return self._spawn([*command, "--federation-config", self.simulation.federation_config()], sink)

    def status(self) -> tuple[str, str]:
        """Return the run's status ("" before it exists, "running", "finished:failed" ...) and its details."""
        answer = ListRunsResponse()
        try:
            answer.ParseFromString(self._http("POST", "/v1/control/list-runs", ListRunsRequest()))
        except OSError:  # busy or gone: the caller looks whether the SuperLink lives, and asks again
            return "unknown", ""
        for run in answer.run_dict.values():  # the SuperLink is private: there is one run
            state = run.status
            return ":".join(part for part in (state.status, state.sub_status) if part), state.details
        return "", ""

    def check_alive(self) -> None:
        """Raise `EngineError` if the SuperLink has ended."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            raise EngineError(f"Flower's SuperLink exited with {code}; its log ends:\n{_tail(self.log)}")

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.simulation.startup_timeout
        while time.monotonic() < deadline:
            self.check_alive()
            with suppress(OSError):
                self._http("GET", "/health")
                return
            time.sleep(0.1)
        seconds = self.simulation.startup_timeout
        raise EngineError(f"Flower's SuperLink did not answer within {seconds:g} s:\n{_tail(self.log)}")

    def _http(self, method: str, path: str, request: ListRunsRequest | None = None) -> bytes:
        """Return the answer's body; http.client, as urllib and httpx may send loopback to a proxy."""
        body = b"" if request is None else request.SerializeToString()
        media = "application/protobuf"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {"content-type": media, "accept": media})
            response = connection.getresponse()
            content = response.read()
        except http.client.HTTPException as error:
            raise OSError(f"no answer on {path}: {error!r}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise OSError(f"answer {response.status} on {path}: {content[:200]!r}")
        return content

    def _spawn(self, command: list[str], sink: IO[bytes]) -> subprocess.Popen[bytes]:
        # a session of its own: the terminal's Ctrl-C must reach us alone, or children vanish meanwhile
        process = subprocess.Popen(
            _launcher() + command,
            cwd=self.neutral,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.processes.add(process.pid)
        return process


@contextmanager
def _private_superlink(simulation: FlowerSimulation) -> Iterator[_SuperLink]:
    """A running SuperLink in a temporary home; both are gone afterwards, whatever happened."""
    base = tempfile.gettempdir()
    if len(base) + len("/fedmac-12345678") > _LONGEST_HOME:
        base = "/tmp"
    with _termination_raises():
        link = _SuperLink(Path(tempfile.mkdtemp(prefix="fedmac-", dir=base)), simulation)
        try:
            link.start()
            yield link
        finally:
            with _uninterrupted():
                link.processes.stop()
                if link.process is not None:
                    link.process.wait()
                shutil.rmtree(link.home, ignore_errors=True)


class _Processes:
    """The processes of one run, found by the home in their environment and by descent.

    Descent alone loses those whose parent has died (a process group does not hold them either: Flower and
    Ray open sessions of their own); the environment alone loses those that overwrite it with their title,
    as Ray's workers may. A process is known by its id and start time, so that a reused id is never hit.
    """

    def __init__(self, home: Path) -> None:
        self._marker = f"FLWR_HOME={home}".encode()
        self._known: dict[int, str] = {}

    def add(self, pid: int) -> None:
        """Take a process that we started ourselves."""
        if (row := _process_table().get(pid)) is not None:
            self._known[pid] = row[1]

    def look(self) -> set[int]:
        """Return the ids of those that live now."""
        table = _process_table()
        found = {pid for pid, start in self._known.items() if pid in table and table[pid][1] == start}
        found |= {pid for pid in table if pid not in found and self._is_marked(pid)}
        grown = True
        while grown:
            children = {pid for pid, (parent, _) in table.items() if parent in found} - found
            found |= children
            grown = bool(children)
        found.discard(os.getpid())
        self._known = {pid: table[pid][1] for pid in found}
        return found

    def stop(self) -> None:
        """End all of them: SIGTERM, then SIGKILL for those that live on after a few seconds."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _GRACE_SECONDS
            told: set[int] = set()
            while (alive := self.look()) and time.monotonic() < deadline:
                for pid in alive - told:  # whoever was started in the meantime is told as well
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                told |= alive
                time.sleep(0.05)
        if alive := self.look():
            warnings.warn(f"processes {sorted(alive)} of the Flower run could not be ended", stacklevel=2)

    def _is_marked(self, pid: int) -> bool:
        try:
            return self._marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile, somebody else's, or a system without /proc
            return False


def _process_table() -> dict[int, tuple[int, str]]:
    """Return parent id and start time of each living process (zombies are not living)."""
    if not Path("/proc/self/stat").exists():
        return _process_table_of_ps()
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # the name, in brackets, may hold anything: fields are counted from its last bracket
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    table[int(entry.name)] = (int(fields[1]), fields[19])
    return table


def _process_table_of_ps() -> dict[int, tuple[int, str]]:
    """`_process_table` where there is no /proc (macOS)."""
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=3) for line in output.splitlines())
    return {int(pid): (int(parent), start) for pid, parent, state, start in rows if state[0] != "Z"}


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that clean-up runs; what the program set itself stays."""
    both = (signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in both if signal.getsignal(number) == signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handlers(dict.fromkeys(numbers, leave)):
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a second Ctrl-C (or SIGTERM) while processes are being ended: a few seconds at most."""
    with _handlers(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), signal.SIG_IGN)):
        yield


@contextmanager
def _handlers(
    handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None] | signal.Handlers],
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's affair
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(home: Path, ray_address: str | None) -> dict[str, str]:
    """Return the environment of the SuperLink: nothing asks the network or is shared with other runs."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # or each run calls uv sync
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # the log is read while the run goes on
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"])),
        # Flower starts its parts by name, and from another directory than ours
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(_import_paths()),
    }
    if ray_address is not None:
        environment["RAY_ADDRESS"] = ray_address
        del environment["RAY_TMPDIR"]
    return environment


def _import_paths() -> list[str]:
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    given = [str(Path(entry).resolve()) for entry in entries if entry]
    ours = Path(__file__).resolve().parents[2]
    # an installed package needs no help; a checkout that is not installed would be lost with the directory
    return given if ours.name in ("site-packages", "dist-packages") else [*given, str(ours)]


def _launcher() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]


def _script(name: str) -> str:
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise EngineError(f"{path} is missing: install Flower beside {sys.executable}")
    return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def _lines(file: Path, start: int = 0) -> list[str]:
    text = file.read_bytes()[start:].decode(errors="replace") if file.exists() else ""
    noise = ("uvicorn.access", "ControlServicer.ListRuns")  # our own questions
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    return [line for line in lines if not any(word in line for word in noise)]


def _tail(file: Path) -> str:
    return "\n".join(_lines(file)[-_TAIL_LINES:])


def _traceback(log: Path, start: int) -> str:
    """Return the last traceback in the part of the log that this run wrote, or the end of that part."""
    lines = _lines(log, start)
    heads = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    if not heads:
        return "\n".join(lines[-_TAIL_LINES:])
    trace = lines[heads[-1] :]
    # the first line below that is not indented names the exception and ends the traceback
    ends = (number for number, line in enumerate(trace) if number and line.strip() and line[0] != " ")
    end = next(ends, len(trace)) + 1
    return "\n".join(trace[:end][-_TAIL_LINES:])
