"""Work in processes of its own, some side by side: one that fails, or is killed, leaves the others alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from fedmac.engines.processes import termination_raises, uninterrupted
from fedmac.studies.task import GRACE_SECONDS, Failure, Task, perform_task, reason_of

_POLL_SECONDS = 0.2
_PRELOADED = (
    "fedmac.runs", "fedmac.build", "fedmac.learn", "fedmac.engines.local", "fedmac.sinks", "flwr.serverapp.strategy",
    "flwr_datasets.partitioner", "flwr_datasets.visualization", "cvxpy", "safetensors.numpy", "safetensors.torch",
    "threadpoolctl",
)  # fmt: skip
"""What a run imports sooner or later; each process has it from its first moment."""

Ended = Callable[[Task, str | None], None]
Heard = Callable[[Task, Any], None]


@dataclass
class _Running:
    task: Task
    process: BaseProcess
    messages: connection.Connection
    reason: str | None = None


def run_in_processes(
    tasks: Sequence[Task],
    at_once: int,
    *,
    ended: Ended,
    begun: Callable[[Task], None] = lambda _: None,
    heard: Heard = lambda _, __: None,
    poll: Callable[[], None] = lambda: None,
    preload: Sequence[str] = (),
) -> None:
    """Perform tasks, at most `at_once` at a time, each in a fresh process that ends when this one does.

    Parameters
    ----------
    tasks : sequence of Task
        In the order in which they begin.
    at_once : int
        Processes that live at the same time.
    ended, begun, heard : callable
        Called in this process: when a task has ended, with the reason if it failed; before it begins; with each
        message it sends, all of them before it has ended.
    poll : callable
        Called a few times a second. What it, or another of these, raises ends all tasks, as an interruption does.
    preload : sequence of str
        Modules that each process has from its first moment, beside those that a run imports.
    """
    if not tasks:
        return
    context = _context(preload)
    waiting = deque(tasks)
    running: list[_Running] = []
    with termination_raises():
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    task = waiting.popleft()
                    begun(task)
                    running.append(_start(context, task))
                poll()
                ready = _wait(running)
                for one in [one for one in running if one.messages in ready or one.process.sentinel in ready]:
                    _hear(one, heard)
                    if one.process.sentinel in ready:
                        running.remove(one)
                        ended(one.task, _how_it_ended(one))
        finally:
            _stop(running)


def run_in_turn(tasks: Sequence[Task], *, ended: Ended, heard: Heard = lambda _, __: None) -> None:
    """Perform tasks one after the other in this process, which prints to where it prints; see `run_in_processes`."""
    with termination_raises():
        for task in tasks:
            reason = None
            try:
                task.work(partial(heard, task))
            except Exception as error:
                reason = reason_of(error)
            ended(task, reason)


def _context(preload: Sequence[str]) -> BaseContext:
    """Processes that begin with what a run imports, without the threads and locks of this one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, *preload])
    # Ctrl-C is for this process alone to hear, from the first moment of the others on.
    with _interrupts_ignored():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(context: BaseContext, task: Task) -> _Running:
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=perform_task, args=(task, theirs), daemon=False)  # type: ignore[attr-defined]
    # A new process would import the caller's script, which then begins all anew if it has no __main__ guard.
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
        theirs.close()
    return _Running(task, process, ours)


def _wait(running: Sequence[_Running]) -> list[object]:
    """The processes that have ended and the connections that have something to read, after a while at most."""
    sentinels = [one.process.sentinel for one in running]
    open_ones = [one.messages for one in running if not one.messages.closed]
    return list(connection.wait([*sentinels, *open_ones], timeout=_POLL_SECONDS))


def _hear(one: _Running, heard: Heard) -> None:
    """Pass on what has come; at its end the connection is closed, though the process may live on for a moment."""
    while not one.messages.closed and one.messages.poll():
        try:
            message = one.messages.recv()
        except (EOFError, OSError):  # it has ended, or was killed in the middle of a message
            one.messages.close()
        else:
            if isinstance(message, Failure):
                one.reason = message.reason
            else:
                heard(one.task, message)


def _how_it_ended(one: _Running) -> str | None:
    """None if the task succeeded, else the reason."""
    one.process.join()
    code = int(one.process.exitcode or 0)
    one.process.close()
    one.messages.close()
    if code:
        return one.reason or _meaning(code)
    if one.task.log is not None:
        with contextlib.suppress(OSError):
            one.task.log.unlink(missing_ok=True)
    return None


def _meaning(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by signal 9; often the machine has run out of memory"
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    if code > 128:
        return f"ended by signal {code - 128}"
    return f"ended with exit code {code}"


def _stop(running: Sequence[_Running]) -> None:
    """End processes: SIGTERM, by which they leave usable files and end what they started, then SIGKILL."""
    if not running:
        return
    with uninterrupted():
        for one in running:
            one.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for one in running:
            one.process.join(timeout=max(0.0, deadline - time.monotonic()))
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
            one.messages.close()
            log = one.task.log
            if log is not None and log.exists() and log.stat().st_size == 0:
                log.unlink()
