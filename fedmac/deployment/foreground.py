"""One of Flower's processes in the foreground: what it says is shown, and it ends with us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedmac.engines.processes import Processes, launcher, termination_raises, uninterrupted
from fedmac.engines.superlink import environment

_KEPT_LINES = 40
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Foreground:
    """A process of Flower that is running.

    Parameters
    ----------
    process : subprocess.Popen
        Its output is a pipe.
    say : callable
        Called with each line of it.
    """

    def __init__(self, process: subprocess.Popen[str], say: Callable[[str], None]) -> None:
        self.process = process
        self._say = say
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> int | None:
        """Exit code if the process ends within `seconds`."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The end of what it has said, without colours."""
        self._reader.join(timeout=1.0)
        return "\n".join(_COLOURS.sub("", line) for line in self._lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line.rstrip())
            self._say(line.rstrip())


@contextmanager
def foreground(
    command: Sequence[str], state: Path, say: Callable[[str], None], more: Mapping[str, str] | None = None
) -> Iterator[Foreground]:
    """Run one of Flower's programs; it and all that it started are gone afterwards, whatever happened.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    state : Path
        Where Flower writes (``FLWR_HOME``); made, for its owner alone, if it is not there.
    say : callable
        Called with each line of output, from another thread.
    more : mapping, optional
        What the environment holds besides.
    """
    # Apps are looked for in the working directory first: it must hold nothing.
    empty = state / "empty"
    empty.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    processes = Processes(state)
    with termination_raises():
        process = subprocess.Popen(
            launcher() + list(command),
            cwd=empty,
            env=environment(state) | _cache(state) | dict(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        processes.add(process.pid)
        try:
            yield Foreground(process, say)
        finally:
            with uninterrupted():
                processes.stop()
                process.wait()


def _cache(state: Path) -> dict[str, str]:
    """Data and rows are kept in the folder too, unless the caller has another place for them."""
    return {} if "FEDMAC_CACHE" in os.environ else {"FEDMAC_CACHE": str(state / "cache")}


def first_on_path(folder: Path, programs: Mapping[str, str]) -> dict[str, str]:
    """Put Python programs into `folder`; the environment variable by which Flower finds them before its own."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in programs.items():
        program = folder / name
        program.write_text(f"#!{sys.executable}\n{text}")
        program.chmod(0o700)
    path = [str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {"PATH": os.pathsep.join(path)}


def allow_imports(allowed: bool) -> dict[str, str]:
    """What tells Flower's processes whether a scenario may name code to import."""
    return {"FEDMAC_ALLOW_IMPORTS": "1" if allowed else "0"}


def threads() -> dict[str, str]:
    """What the caller has said of threads, which a device's process keeps."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: os.environ[name] for name in names if name in os.environ}
