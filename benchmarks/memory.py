"""Measures the memory of a process and all that it has started: proportional set size (PSS) from Linux's /proc.

PSS counts a page that n processes share 1/n to each, so that the sum over a process tree counts shared data once,
where the sum of resident set sizes would count it for every worker. Pages shared with processes outside the tree
(libtorch, where another Python has it loaded) count in part only: measure while nothing else runs.

Source: Linux ``Documentation/filesystems/proc.rst``, ``smaps_rollup``.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

INTERVAL_SECONDS = 0.02


def can_measure() -> bool:
    """Whether this system says what is needed (Linux from 4.14)."""
    return Path("/proc/self/smaps_rollup").exists()


def peak_pss(process: subprocess.Popen[str], timeout: float) -> int:
    """Watch a process and its descendants until it ends.

    Parameters
    ----------
    process
        Started by the caller, its output not in a pipe that could fill.
    timeout
        Seconds after which the watch ends, the process still running.

    Returns
    -------
    int
        The largest sum of PSS seen, in bytes; samples are 20 ms apart, and a shorter peak may be missed.
    """
    deadline = time.monotonic() + timeout
    peak = 0
    while process.poll() is None and time.monotonic() < deadline:
        peak = max(peak, sum(_pss(pid) for pid in _family(process.pid)))
        time.sleep(INTERVAL_SECONDS)
    return peak


def _family(pid: int) -> list[int]:
    """The process and its descendants."""
    members = [pid]
    for member in members:  # grows while it is read
        with suppress(OSError):
            for children in Path(f"/proc/{member}/task").glob("*/children"):
                members += map(int, children.read_text().split())
    return members


def _pss(pid: int) -> int:
    """PSS of one process in bytes; 0 if it has ended meanwhile."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
