"""A task: work for a process of its own, and the life of that process."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from fedmac.engines.processes import termination_raises

GRACE_SECONDS = 15.0
"""From SIGTERM to the end of a process: Flower needs some seconds to end its own."""

_OURS = ("channel", "clients", "fedmac", "strategies")

Send = Callable[[Any], None]
"""Takes a message, which reaches the process that has started the work."""


@dataclass(frozen=True)
class Task:
    """Work for a process of its own.

    Parameters
    ----------
    name : str
        Tells it from the others.
    work : callable
        A function of a module, or a partial of one; called with what sends a message to the first process. What it
        raises is the reason why the task has failed.
    log : Path, optional
        Gets what the process prints, and is removed when the task has succeeded. The terminal gets it if not given.
    threads : int
        Threads of its computations outside the engine's workers.
    """

    name: str
    work: Callable[[Send], None]
    log: Path | None = None
    threads: int = 1


@dataclass(frozen=True)
class Failure:
    """The last message of a task that failed."""

    reason: str


def perform_task(task: Task, messages: connection.Connection) -> None:
    """The life of a process: one task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with termination_raises():
        threading.Thread(target=_end_with_parent, daemon=True).start()
        try:
            if task.log is not None:
                _take_log(task.log)
            _limit_threads(task.threads)
            task.work(messages.send)
        except Exception as error:
            if task.log is not None:
                traceback.print_exc()
            messages.send(Failure(reason_of(error, place=task.log is None)))
            sys.exit(1)


def _end_with_parent() -> None:
    """However the parent ends, end as well: as on SIGTERM, so that the engine ends its processes, else at once."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _take_log(log: Path) -> None:
    """Print to the log. Its lock holds back the next process for the same work while that of a killed parent lives."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _limit_threads(threads: int) -> None:
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch.set_num_threads(threads)
    threadpool_limits(threads)


def reason_of(error: Exception, *, place: bool = True) -> str:
    """The message of an error of ours, which explains itself; of others their kind and, if asked for, place as well."""
    if type(error).__module__.partition(".")[0] in _OURS:
        return str(error)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" ({frame.tb_frame.f_code.co_filename}:{frame.tb_lineno})" if place and frame is not None else ""
    return f"{type(error).__name__}: {error}{where}"
