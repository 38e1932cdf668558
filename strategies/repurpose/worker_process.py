"""One worker of :mod:`strategies.repurpose.processes`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from strategies.repurpose.part import Part
from strategies.repurpose.part_file import load_part, part_path
from strategies.repurpose.part_run import Mail, PartRun, bytes_of
from strategies.repurpose.plan import COLLECTOR

INPUTS, OUTPUTS, RENDEZVOUS = "inputs.safetensors", "outputs.safetensors", "rendezvous"
LOST_A_PEER = 3
"""Exit code of a worker that another one has left waiting."""
START_SECONDS = 120.0
"""In which all workers must have met: a process takes long to start on a busy machine."""
STARTED = 1
"""What a worker has told when it has begun and not met the others; each exchange adds one."""
PROBE_SIDE, PROBE_BYTES, PROBES = 512, 4_000_000, 20


class LostPeer(RuntimeError):
    """Another worker has ended, or has not answered in time."""


def result_name(rank: int) -> str:
    """The file in which a worker says what it has counted."""
    return f"result-{rank}.json"


@dataclass(frozen=True)
class Peers:
    """The other workers, and how long to wait for them.

    Attributes
    ----------
    timeout : timedelta
        For each exchange.
    tell : callable
        Called after each, so that the process that has started this one sees it move.
    """

    timeout: timedelta
    tell: Callable[[], None]

    def exchange(self, outgoing: Mail, expected: dict[int, tuple[int, int, int]], dtype: torch.dtype) -> Mail:
        """Send, and take what is expected: by worker, its shape.

        Raises
        ------
        LostPeer
            If another worker is gone or does not answer in time.
        """
        mail = {q: torch.empty(shape, dtype=dtype) for q, shape in expected.items()}
        with self._listening():
            waiting = [dist.isend(tensor.contiguous(), q) for q, tensor in outgoing.items()]
            waiting += [dist.irecv(tensor, q) for q, tensor in mail.items()]
            for one in waiting:
                if one is not None:
                    one.wait(self.timeout)
        self.tell()
        return mail

    def barrier(self) -> None:
        """Wait until all workers are here."""
        with self._listening():
            waiting = dist.barrier(async_op=True)
            if waiting is not None:
                waiting.wait(self.timeout)
        self.tell()

    @staticmethod
    @contextmanager
    def _listening() -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostPeer(str(error)) from error


def log_name(rank: int) -> str:
    """The file that a worker prints to."""
    return f"log-{rank}"


def work(folder_name: str, rank: int, batch: int, timeout: float, interface: str, moves: MutableSequence[int]) -> None:
    """Run one worker in a process of its own, which this ends.

    Parameters
    ----------
    folder_name : str
        With its part and the inputs; what it finds goes there.
    rank : int
        Its number.
    batch : int
        Inputs that go through together.
    timeout : float
        Seconds that it waits for another.
    interface : str
        Name of the network interface to meet on.
    moves : mutable sequence of int
        Shared with the process that has started this one: how often each worker has moved.
    """
    moves[rank] = STARTED

    def tell() -> None:
        moves[rank] += 1

    folder = Path(folder_name)
    log = os.open(folder / log_name(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _meet_and_run(folder, rank, batch, Peers(timedelta(seconds=timeout), tell))
    except LostPeer as error:
        print(str(error).splitlines()[0], flush=True)
        os._exit(LOST_A_PEER)


def _end_with_parent() -> None:
    """Should the process that has started this one be killed, nobody waits for the outputs any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(LOST_A_PEER)


def _meet_and_run(folder: Path, rank: int, batch: int, peers: Peers) -> None:
    part, inputs = load_part(part_path(folder, rank)), load_file(folder / INPUTS)["inputs"]
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / RENDEZVOUS}",
            rank=rank,
            world_size=part.workers,
            timeout=timedelta(seconds=START_SECONDS),
        )
    except RuntimeError as error:
        raise LostPeer(str(error)) from error
    peers.tell()
    with torch.no_grad():
        _run(folder, part, inputs, batch, peers)
    peers.barrier()
    dist.destroy_process_group()


def _run(folder: Path, part: Part, inputs: Tensor, batch: int, peers: Peers) -> None:
    said = {"speed": _own_speed(batch), **_link(part, peers)}
    outputs, seconds, sent = [], [], 0
    for rows in torch.split(inputs, batch):
        peers.barrier()
        start = time.perf_counter()
        result, count = _infer(part, rows, peers)
        seconds.append(time.perf_counter() - start)
        sent += count
        if result is not None:
            outputs.append(result)
    if part.worker == COLLECTOR:
        save_file({"outputs": torch.cat(outputs)}, folder / OUTPUTS)
    text = json.dumps({**said, "seconds": seconds, "bytes": sent})
    (folder / result_name(part.worker)).write_text(text, encoding="utf-8")


def _infer(part: Part, inputs: Tensor, peers: Peers) -> tuple[Tensor | None, int]:
    """Outputs (at the collector) and the bytes that this worker sent."""
    run, sent, mail = PartRun({0: inputs}), 0, Mail()
    while True:
        outgoing = run.advance(part, mail)
        if run.finished:
            return run.outputs, sent
        sent += sum(map(bytes_of, outgoing.values()))
        mail = peers.exchange(outgoing, _expected(part, run, len(inputs)), inputs.dtype)


def _expected(part: Part, run: PartRun, rows: int) -> dict[int, tuple[int, int, int]]:
    """Shapes of what the worker is to be sent, by worker: rows, units, elements."""
    if run.step < len(part.steps):
        step = part.steps[run.step]
        elements = part.steps[step.sources[0] - 1].elements
        return {q: (rows, units, elements) for q, units in part.layers[step.name].receives.items()}
    if part.worker != COLLECTOR:
        return {}
    elements = part.steps[-1].elements
    shares = enumerate(part.gathered)
    return {q: (rows, len(units), elements) for q, units in shares if q != COLLECTOR and len(units)}


def _own_speed(batch: int) -> float:
    """Multiply-adds a second on a dense layer."""
    weight, inputs = torch.ones(PROBE_SIDE, PROBE_SIDE), torch.ones(batch, PROBE_SIDE)
    times = []
    for _ in range(PROBES):
        start = time.perf_counter()
        functional.linear(inputs, weight)
        times.append(time.perf_counter() - start)
    return batch * PROBE_SIDE**2 / sorted(times)[PROBES // 2]


def _link(part: Part, peers: Peers) -> dict[str, float]:
    """Rate and delay of a message between the first two workers, from there and back."""
    peers.barrier()
    if part.workers < 2:
        return {"rate": 0.0, "delay": 0.0}
    found = {numbers: _round_trip(part.worker, numbers, peers) for numbers in (1, PROBE_BYTES // 4)}
    delay = found[1] / 2
    spread = max((found[PROBE_BYTES // 4] - found[1]) / 2, 1e-9)
    return {"rate": 8.0 * PROBE_BYTES / spread, "delay": delay}


def _round_trip(rank: int, numbers: int, peers: Peers) -> float:
    tensor, times = torch.zeros(numbers), []
    for _ in range(PROBES):
        start = time.perf_counter()
        if rank == 0:
            peers.exchange({1: tensor}, {}, tensor.dtype)
            peers.exchange({}, {1: (numbers, 1, 1)}, tensor.dtype)
        elif rank == 1:
            peers.exchange({}, {0: (numbers, 1, 1)}, tensor.dtype)
            peers.exchange({0: tensor}, {}, tensor.dtype)
        times.append(time.perf_counter() - start)
    return min(times)  # what is slower has waited for the machine
