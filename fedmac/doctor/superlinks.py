"""SuperLinks on this machine: who answers on Flower's ports and ours, and which were left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmac.deployment.initialise import PORT
from fedmac.doctor.finding import Finding

FLOWERS_PORTS = {39091: "flwr run's local SuperLink", 9092: "Flower's old Fleet API", 9093: "Flower's old Control API"}
"""Ports on which SuperLinks that nobody thinks of are found."""

_PROGRAMS = (b"flower-superlink", b"fedmac.deployment.gate")
_PROC = Path("/proc")
_TIMEOUT_S = 0.5


@dataclass(frozen=True)
class Process:
    """A SuperLink that runs.

    Parameters
    ----------
    pid : int
        Its number.
    home : str
        Its FLWR_HOME; empty if it has none.
    gate : bool
        Whether ``fedmac deploy server`` has started it.
    """

    pid: int
    home: str
    gate: bool

    @property
    def private(self) -> bool:
        """Whether it serves a run of FedMAC, with which it ends."""
        return Path(self.home).name.startswith("fedmac-")


def superlinks(address: str | None = None) -> Iterator[Finding]:
    """Look at ports and at this user's processes.

    Parameters
    ----------
    address : str, optional
        Of the SuperLink that is expected to run; its port is not said to be taken.
    """
    expected = int(address.rpartition(":")[2]) if address else None
    yield from ports({**FLOWERS_PORTS, PORT: "FedMAC's default port"}, expected)
    if not _PROC.is_dir():
        yield Finding("ok", "background SuperLinks", "not looked for, as this system has no /proc")
        return
    running = processes()
    left = [one for one in running if not one.private and not one.gate]
    for one in left:
        home = f", at home in {one.home}" if one.home else ""
        found = f"process {one.pid} of yours{home}; `flwr run` starts one and leaves it, with the code of that day"
        yield Finding("warning", "background SuperLink", found, f"end it if nobody needs it: kill {one.pid}")
    if not left:
        others = f" but {len(running)} of FedMAC's own" if running else ""
        yield Finding("ok", "background SuperLinks", f"none of yours{others}")


def ports(wanted: dict[int, str], expected: int | None = None) -> Iterator[Finding]:
    """Which of some ports of this machine are free.

    Parameters
    ----------
    wanted : dict of int to str
        Ports and what they are for.
    expected : int, optional
        A port on which somebody should listen.
    """
    for port, purpose in wanted.items():
        about = f"port {port}"
        if not listens(port):
            yield Finding("ok", about, f"free ({purpose})")
            continue
        pid = listener(port)
        who = "a process of another user" if pid is None else f"process {pid} of yours"
        if port == expected:
            yield Finding("ok", about, f"in use by {who}, as it should be")
        else:
            advice = "end it or use another port" + (f" (kill {pid})" if pid is not None else "")
            yield Finding("warning", about, f"in use by {who} ({purpose})", advice)


def listens(port: int) -> bool:
    """Whether somebody on this machine takes connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(_TIMEOUT_S)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def listener(port: int) -> int | None:
    """The process of this user that listens on a port; None if there is none, or the system does not say."""
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for entry in _own_processes():
        try:
            if any(str(file.readlink()) in sockets for file in (entry / "fd").iterdir()):
                return int(entry.name)
        except OSError:  # it has ended, or its files are not ours to see
            continue
    return None


def processes() -> list[Process]:
    """This user's SuperLinks."""
    found = []
    for entry in _own_processes():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if not any(word.endswith(_PROGRAMS) for word in words[:4]):
                continue
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        home = next((line[len(b"FLWR_HOME=") :] for line in environment if line.startswith(b"FLWR_HOME=")), b"")
        found.append(Process(int(entry.name), home.decode(errors="replace"), _PROGRAMS[1] in words))
    return found


def _own_processes() -> Iterator[Path]:
    if not _PROC.is_dir():
        return
    for entry in _PROC.iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                yield entry
        except OSError:
            continue


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen on a port; columns of /proc/net/tcp, state 0A is LISTEN."""
    for table in ("tcp", "tcp6"):
        try:
            rows = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
