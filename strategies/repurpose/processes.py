"""Runs a plan on P processes of this machine: each holds its part alone and sends what the plan says, by gloo."""

from __future__ import annotations

import json
import multiprocessing
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from safetensors.torch import load_file, save_file
from torch import Tensor

from strategies.repurpose.inference import Inference, Machine, WorkerDied, check_inputs
from strategies.repurpose.part_file import save_parts
from strategies.repurpose.plan import COLLECTOR, Plan
from strategies.repurpose.worker_process import (
    INPUTS,
    LOST_A_PEER,
    OUTPUTS,
    START_SECONDS,
    STARTED,
    log_name,
    result_name,
    work,
)

POLL = 0.05
"""Seconds between looks at the processes."""
GRACE = 2.0
"""Seconds in which the one that died first is found among those that lost it, and those that lost it end themselves."""
LOOK = 0.25
"""Seconds between looks at whether the workers move."""


def infer(plan: Plan, inputs: Tensor, *, batch: int = 1, timeout: float = 30.0) -> Inference:
    """Run a plan on as many processes as it has workers.

    Parameters
    ----------
    plan : Plan
    inputs : Tensor
        Shape (N, ...), N >= 1.
    batch : int
        Inputs that go through together.
    timeout : float
        Seconds that a worker waits for another, and longest time of a batch between two exchanges, > 0.

    Raises
    ------
    WorkerDied
        If a worker ends early, one waits longer than `timeout`, or none moves for as long; all others are ended.
    ValueError
        If the inputs are not of the plan's shape, or an argument is not accepted.
    """
    check_inputs(plan, inputs, batch, timeout)
    with tempfile.TemporaryDirectory(prefix="fedmac-infer-") as name:
        folder = Path(name)
        save_parts(plan, folder)
        save_file({"inputs": inputs.contiguous()}, folder / INPUTS)
        context = _context()
        workers: list[BaseProcess] = []
        moves = context.RawArray("Q", plan.workers)
        try:
            for rank in range(plan.workers):
                workers.append(_start(context, folder, rank, batch, timeout, moves))
            _wait(workers, moves, folder, timeout)
        finally:
            _end(workers)
        return _result(folder, plan.workers, batch)


def _context() -> BaseContext:
    """Processes that begin with torch imported once for all, without the threads and locks of this one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    return context


def _start(
    context: BaseContext, folder: Path, rank: int, batch: int, timeout: float, moves: Sequence[int]
) -> BaseProcess:
    process: BaseProcess = context.Process(  # type: ignore[attr-defined]
        target=work, args=(str(folder), rank, batch, timeout, _loopback(), moves), name=f"worker-{rank}", daemon=True
    )
    # A new process would import the caller's script, which then begins all anew if it has no __main__ guard.
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    return process


def _wait(workers: Sequence[BaseProcess], moves: Sequence[int], folder: Path, timeout: float) -> None:
    """Until all have ended well; else say who was first to end badly, or that none moves: they may all have stopped."""
    running, seen, still = list(workers), list(moves), 0.0
    while running and not any(worker.exitcode for worker in workers):
        # Looks are counted, not the clock: while this process is itself stopped, its workers may be too.
        if connection.wait([worker.sentinel for worker in running], LOOK):
            running = [worker for worker in running if worker.exitcode is None]
        still = still + LOOK if list(moves) == seen else 0.0
        seen = list(moves)
        if running and still > (timeout if min(seen) > STARTED else START_SECONDS) + GRACE:
            silent = [rank for rank, worker in enumerate(workers) if worker in running]
            raise WorkerDied(f"workers {silent} did not answer within {timeout:g} s")
    if any(worker.exitcode for worker in workers):
        until = time.monotonic() + GRACE
        while time.monotonic() < until and not _blamed(workers):
            time.sleep(POLL)
        raise WorkerDied(_reason(workers, folder, _blamed(workers), timeout))


def _blamed(workers: Sequence[BaseProcess]) -> list[int]:
    """Workers that ended badly for a reason of their own."""
    return [rank for rank, worker in enumerate(workers) if worker.exitcode not in (None, 0, LOST_A_PEER)]


def _reason(workers: Sequence[BaseProcess], folder: Path, blamed: Sequence[int], timeout: float) -> str:
    if blamed:
        rank, code = blamed[0], workers[blamed[0]].exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = _last_words(folder / log_name(rank))
        return f"worker {rank} of {len(workers)} {how}{f': {said}' if said else ''}"
    waiting = [rank for rank, worker in enumerate(workers) if worker.exitcode == LOST_A_PEER]
    silent = [rank for rank, worker in enumerate(workers) if worker.exitcode is None]
    told = f"workers {silent} did not answer" if silent else f"workers {waiting} lost each other"
    return f"{told} within {timeout:g} s: {_last_words(folder / log_name(waiting[0]))}"


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode is None:
            worker.kill()
    for worker in workers:
        worker.join()


def _result(folder: Path, workers: int, batch: int) -> Inference:
    said = [json.loads((folder / result_name(rank)).read_text(encoding="utf-8")) for rank in range(workers)]
    first = said[COLLECTOR]
    speed = statistics.median_low(one["speed"] for one in said)
    return Inference(
        outputs=load_file(folder / OUTPUTS)["outputs"],
        bytes_sent=sum(one["bytes"] for one in said),
        batch_seconds=first["seconds"],
        batch=batch,
        machine=Machine(speed, first["rate"], first["delay"]),
    )


def _loopback() -> str:
    """Name of the loopback interface, which every machine has."""
    return next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
