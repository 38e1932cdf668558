"""Processes of a run: finding all of them, ending them, and ending with them.

Flower and Ray start processes that open sessions of their own and outlive their parents, so that neither a process
group nor descent alone holds them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

_GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL

# Ends what we start when we are killed with no chance to clean up (Linux's PR_SET_PDEATHSIG is 1); Flower and
# Ray then end what they started once the clients at work are done. A preexec_fn may deadlock beside threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


class Processes:
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
        if (row := process_table().get(pid)) is not None:
            self._known[pid] = row[1]

    def look(self) -> set[int]:
        """Return the ids of those that live now."""
        table = process_table()
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


def launcher() -> list[str]:
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]


@contextmanager
def termination_raises() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that clean-up runs; what the program set itself stays."""
    both = (signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in both if signal.getsignal(number) == signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handlers(dict.fromkeys(numbers, leave)):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
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


def process_table() -> dict[int, tuple[int, str]]:
    """Return parent id and start time of each living process (zombies are not living)."""
    if not Path("/proc/self/stat").exists():
        return process_table_of_ps()
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # the name, in brackets, may hold anything: fields are counted from its last bracket
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    table[int(entry.name)] = (int(fields[1]), fields[19])
    return table


def process_table_of_ps() -> dict[int, tuple[int, str]]:
    """`process_table` where there is no /proc (macOS)."""
    command = ["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (line.split(maxsplit=3) for line in output.splitlines())
    return {int(pid): (int(parent), start) for pid, parent, state, start in rows if state[0] != "Z"}
