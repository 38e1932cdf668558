"""A SuperLink of our own: Flower's server process, in a private home, that runs one app and is gone afterwards.

Source: Flower 1.41 ``flwr.cli.local_superlink``, ``flwr.simulation.app``.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import tomli_w

from fedmac.deployment.control import Control, NoAnswer, Scalar
from fedmac.engines.processes import Processes, launcher, termination_raises, uninterrupted

_LONGEST_HOME = 37  # Ray's sockets live below it and a Unix socket's path holds 107 bytes
_TAIL_LINES = 30


class EngineError(RuntimeError):
    """The engine could not run the app, or the app failed in it; the message says why."""


@dataclass
class SuperLink:
    """A SuperLink of our own, the home it lives in, and everything that it starts.

    Parameters
    ----------
    home
        Directory for Flower's and Ray's files; nothing else lives there.
    startup_timeout
        Seconds within which it must answer.
    ray_address
        Ray cluster that its simulation joins; None for a private Ray.
    """

    home: Path
    startup_timeout: float
    ray_address: str | None = None
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.home / "superlink.log"
        self.processes = Processes(self.home)
        self.environment = environment(self.home) | ray_environment(self.home, self.ray_address)
        # Ray's clients import from the SuperLink's working directory before the app: it must hold nothing.
        self.neutral = self.home / "empty"
        self.neutral.mkdir()

    def start(self) -> None:
        """Start the SuperLink and wait until it answers; on another port if somebody just took this one."""
        for last in (False, False, True):
            self.port = free_port()
            command = [script("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
            command += ["--host", "127.0.0.1", "--port", str(self.port)]
            with self.log.open("wb") as sink:
                self.process = self._spawn(command, sink)
            try:
                self._wait_until_healthy()
                return
            except EngineError:
                if last or "address already in use" not in log_tail(self.log).lower():
                    raise

    def submit(
        self, app: Path, run_config: Mapping[str, Scalar], federation_config: str, sink: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Send the app to the SuperLink; the process returned streams the run's output into ``sink``."""
        connection = {"address": f"127.0.0.1:{self.port}", "insecure": True}
        config = {"superlink": {"default": "own", "own": connection}}
        (self.home / "config.toml").write_text(tomli_w.dumps(config))
        overrides = self.home / "run-config.toml"
        overrides.write_text(tomli_w.dumps(dict(run_config)))
        command = [script("flwr"), "run", str(app), "own", "--stream", "--run-config", str(overrides)]
        return self._spawn([*command, "--federation-config", federation_config], sink)

    def status(self) -> tuple[str, str]:
        """Return the run's status ("" before it exists, "running", "finished:failed" ...) and its details."""
        try:
            return self.control.status()  # the SuperLink is private: there is one run
        except NoAnswer:  # busy or gone: the caller looks whether the SuperLink lives, and asks again
            return "unknown", ""

    @property
    def control(self) -> Control:
        """Where it is asked."""
        return Control(f"127.0.0.1:{self.port}", insecure=True)

    def check_alive(self) -> None:
        """Raise `EngineError` if the SuperLink has ended."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            raise EngineError(f"Flower's SuperLink exited with {code}; its log ends:\n{log_tail(self.log)}")

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.startup_timeout
        while time.monotonic() < deadline:
            self.check_alive()
            with suppress(NoAnswer):
                self.control.healthy()
                return
            time.sleep(0.1)
        seconds = self.startup_timeout
        raise EngineError(f"Flower's SuperLink did not answer within {seconds:g} s:\n{log_tail(self.log)}")

    def _spawn(self, command: list[str], sink: IO[bytes]) -> subprocess.Popen[bytes]:
        # a session of its own: the terminal's Ctrl-C must reach us alone, or children vanish meanwhile
        process = subprocess.Popen(
            launcher() + command,
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
def private_superlink(startup_timeout: float, ray_address: str | None = None) -> Iterator[SuperLink]:
    """A running SuperLink in a temporary home; both are gone afterwards, whatever happened."""
    base = tempfile.gettempdir()
    if len(base) + len("/fedmac-12345678") > _LONGEST_HOME:
        base = "/tmp"
    with termination_raises():
        link = SuperLink(Path(tempfile.mkdtemp(prefix="fedmac-", dir=base)), startup_timeout, ray_address)
        try:
            link.start()
            yield link
        finally:
            with uninterrupted():
                link.processes.stop()
                if link.process is not None:
                    link.process.wait()
                shutil.rmtree(link.home, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """The environment of a Flower process at home in `home`: nothing asks the network or is shared with others."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # or each run calls uv sync
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",  # the log is read while the run goes on
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1,localhost"])),
        # Flower starts its parts by name, and from another directory than ours
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(_import_paths()),
    }


def ray_environment(home: Path, ray_address: str | None) -> dict[str, str]:
    """What a simulation's environment adds: its own Ray at home in `home`, or the cluster's address."""
    where = {"RAY_TMPDIR": str(home)} if ray_address is None else {"RAY_ADDRESS": ray_address}
    # The scenario is the user's own, as it is in the user's own process.
    return {"RAY_USAGE_STATS_ENABLED": "0", "FEDMAC_ALLOW_IMPORTS": "1"} | where


def _import_paths() -> list[str]:
    """Where this process imports from beside its environment: a notebook's folder, PYTHONPATH, a checkout."""
    paths = [Path(entry).resolve() for entry in [*sys.path, str(Path(__file__).parents[2])]]
    own = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    # files are the zipped standard library; what lies in the environment needs no help
    return [
        str(path) for path in dict.fromkeys(paths) if path.is_dir() and not any(path.is_relative_to(o) for o in own)
    ]


def script(name: str) -> str:
    """Path of one of Flower's programs, beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise EngineError(f"{path} is missing: install Flower beside {sys.executable}")
    return str(path)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_lines(file: Path, start: int = 0) -> list[str]:
    text = file.read_bytes()[start:].decode(errors="replace") if file.exists() else ""
    noise = ("uvicorn.access", "ControlServicer.ListRuns")  # our own questions
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    return [line for line in lines if not any(word in line for word in noise)]


def log_tail(file: Path) -> str:
    return "\n".join(log_lines(file)[-_TAIL_LINES:])
