"""A federation on this machine: a server and devices as `fedmac deploy` starts them, each a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from fedmac.deployment.control import NoAnswer
from fedmac.deployment.folders import ServerFolder
from fedmac.deployment.initialise import initialise
from fedmac.deployment.server import control_of
from fedmac.engines.processes import launcher
from tests.interruptible import interruptible

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Of a command in another folder than the repository's."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Part:
    """A `fedmac deploy` command that is running.

    Parameters
    ----------
    log : Path
        Where what it says goes.
    words : str
        What follows ``fedmac deploy``; or, from ``-m`` on, ``python``.
    """

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        with log.open("wb") as sink:
            # Should the tests be killed, it goes with them.
            program = words if words[0] == "-m" else ("-m", "fedmac.cli", "deploy", *words)
            command = launcher() + interruptible(*program)
            both = {"stdout": sink, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, env=environment(), cwd=log.parent, start_new_session=True, **both)

    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Exit code; the time-out is an error."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log.name} still runs after {seconds} s:\n{self.said()}") from None

    def interrupt(self) -> None:
        """Interrupt it as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it, and what it has started, with no chance to clean up."""
        for pid in [*children_of(self.process.pid), self.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def children_of(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have started."""
    table: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            table[int(entry.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in table.items() if its_parent == parent]
    return found[1:]


def workers_of(part: Part) -> list[int]:
    """The processes of a device that do its work."""

    def is_worker(pid: int) -> bool:
        try:
            return b"flwr-clientapp" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return [pid for pid in children_of(part.process.pid) if is_worker(pid)]


class Federation:
    """A deployment's folder on this machine, its server, and its devices.

    Parameters
    ----------
    place : Path
        Empty folder.
    devices : int
        How many there are.
    """

    def __init__(self, place: Path, devices: int) -> None:
        self.place = place
        self.folder = place / "deployment"
        initialise(self.folder, devices=devices, hosts=("localhost",), port=free_port())
        self.control = control_of(ServerFolder.load(self.folder))
        self.address = self.control.address
        self.devices: dict[int, Part] = {}
        self.server: Part | None = None

    def start_server(self) -> None:
        """Start the server, and wait until it is ready."""
        self.server = server = Part(self.place / "server.log", "server", str(self.folder))
        wait_for(lambda: "ready:" in server.said() or server.process.poll() is not None, 150, "the server")
        assert "ready:" in server.said(), server.said()

    def start_device(self, device: int, *words: str) -> None:
        """Start a device; another program than ours as `words` say."""
        words = words or ("device", str(self.folder), "--id", str(device))
        self.devices[device] = Part(self.place / f"device-{device}.log", *words)

    def wait_until_online(self, count: int, seconds: float = 150) -> None:
        """Wait until so many devices are online."""
        wait_for(lambda: len(self.online()) == count, seconds, f"{count} devices online")

    def online(self) -> list[str]:
        """Names of the devices that are online."""
        try:
            return sorted(node.name for node in self.control.nodes() if node.status == "online")
        except NoAnswer:
            return []

    def stop(self) -> None:
        """Stop all of it."""
        parts = [part for part in (*self.devices.values(), self.server) if part is not None]
        for part in parts:
            part.interrupt()
        for part in parts:
            part.wait(60)


def wait_for(what: Callable[[], bool], seconds: float, name: str) -> None:
    """Wait until something holds; the time-out is an error."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"{name}: not within {seconds} s"
        time.sleep(0.1)
