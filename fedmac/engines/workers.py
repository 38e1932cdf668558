"""Worker processes of the local engine: a team of them, and what each does until the pipe to it closes."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import signal
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from clients.app import Workplace
from fedmac.engines.lanes import LANES, ROWS, DeviceReport, EachAnswer, EachWork, Lanes


class WorkerDied(RuntimeError):
    """A worker process ended, or fell silent, before its work was done."""


class Team:
    """Distributes lanes over worker processes.

    Parameters
    ----------
    workplace : Workplace
        Shared with the workers by fork: model and data are not copied.
    workers : int
        Number of processes; 1 works in this process.
    threads : int
        Threads of each worker's computations.
    memory : int
        Bytes that kept updates may take, in all processes together.
    app : ClientApp
        The devices' app, for messages that are not plain training.
    batch : int, default 1
        Devices that a process trains side by side in one computation.
    patience : float, optional
        Seconds that a worker may be silent (default: any number).
    """

    def __init__(
        self,
        workplace: Workplace,
        app: ClientApp,
        *,
        workers: int,
        threads: int,
        memory: int,
        batch: int = 1,
        patience: float | None = None,
    ) -> None:
        self.size = workplace.trainer.size
        self.devices = len(workplace.data.parts)
        self.threads = threads
        self.patience = patience
        dtype = workplace.trainer.state.dtype
        self.received = _shared_tensor((self.size,), dtype)
        self.sums = _shared_tensor((LANES, ROWS, self.size), dtype)
        capacity = memory // (LANES * self.received.numel() * self.received.element_size())
        self.here = Lanes(workplace, self.received, self.sums, capacity, app, batch)
        self.connections: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []
        self._lanes: dict[int, list[int]] = {}
        if workers > 1:
            self._hire(min(workers, LANES))

    def _hire(self, workers: int) -> None:
        # Fork, so that workers share the data; they compute on their own threads and never touch a GPU.
        context = multiprocessing.get_context("fork")
        # The workers' garbage collectors would write to every object they inherit, and so copy its memory.
        gc.freeze()
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, [*self.connections, ours], self.here, self.threads), daemon=True
            )
            process.start()
            theirs.close()
            if self.patience is not None:
                _limit(ours, self.patience)
            self.connections.append(ours)
            self.processes.append(process)
        gc.unfreeze()

    def train(
        self, received: Tensor, devices: Sequence[int], config: Mapping[str, Any], keep: bool
    ) -> list[DeviceReport]:
        """Train `devices` from the model `received`; their reports, in the order of the devices."""
        self.received.copy_(received)
        parts = np.array_split(np.asarray(devices, dtype=np.int64), LANES)
        self._lanes = {lane: part.tolist() for lane, part in enumerate(parts) if len(part)}
        reports = [report for answer in self._everyone("train", self._lanes, config, keep) for report in answer]
        return sorted(reports, key=lambda report: report.device)

    def superpose(self, devices: NDArray[np.int64], gains: NDArray[np.float64]) -> Tensor:
        """``gains @ updates`` of the last training, (R, K) @ (K, d), float64."""
        column = {int(device): k for k, device in enumerate(devices)}
        blocks = []
        for first in range(0, len(gains), ROWS):
            rows = gains[first : first + ROWS]
            work = {}
            for lane, members in self._lanes.items():
                senders = [device for device in members if device in column]
                work[lane] = (senders, rows[:, [column[device] for device in senders]])
            self._everyone("superpose", work)
            blocks.append(self._add_up(len(rows)))
        return torch.cat(blocks)

    def handle(self, messages: Sequence[tuple[int, Message]]) -> list[Message]:
        """Let each device handle its message, in the order given; a device is always served by the same worker."""
        count = max(1, len(self.connections))
        parts = [[one for one in messages if one[0] % count == worker] for worker in range(count)]
        answers = [iter(answer) for answer in self._each("handle", [(part,) for part in parts], _numbers(parts))]
        return [next(answers[device % count]) for device, _ in messages]

    def train_each(self, work: Sequence[EachWork]) -> list[EachAnswer]:
        """As :meth:`Lanes.train_each`, in the order given; a device is always served by the same worker."""
        count = max(1, len(self.connections))
        parts = [[one for one in work if one[0] % count == worker] for worker in range(count)]
        answers = [iter(answer) for answer in self._each("train_each", [(part,) for part in parts], _numbers(parts))]
        return [next(answers[device % count]) for device, _, _ in work]

    def device_states(self) -> dict[int, RecordDict]:
        """What each device keeps between messages, by number."""
        count = max(1, len(self.connections))
        served = [range(worker, self.devices, count) for worker in range(count)]
        parts = self._each("device_states", [()] * count, served)
        return {device: state for part in parts for device, state in part.items()}

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let each device go on with its state, in the worker that serves it."""
        count = max(1, len(self.connections))
        parts = [{n: state for n, state in states.items() if n % count == worker} for worker in range(count)]
        self._each("restore_device_states", [(part,) for part in parts], [list(part) for part in parts])

    def _add_up(self, rows: int) -> Tensor:
        total = torch.zeros((rows, self.size), dtype=torch.float64)
        for lane in self._lanes:
            total += self.sums[lane, :rows]
        return total

    def _everyone(self, task: str, lanes: Mapping[int, Any], *arguments: Any) -> list[Any]:
        """Have each worker do `task` on its lanes; the answers in the order of the workers."""
        count, order = max(1, len(self.connections)), list(lanes)
        devices = [[device for lane in order[i::count] for device in self._lanes[lane]] for i in range(count)]
        work = [({lane: lanes[lane] for lane in order[i::count]}, *arguments) for i in range(count)]
        return self._each(task, work, devices)

    def _each(self, task: str, work: Sequence[tuple[Any, ...]], devices: Sequence[Sequence[int]]) -> list[Any]:
        """Have each worker do `task` on its own arguments, for its `devices`; without workers this process does it."""
        if not self.connections:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                return [getattr(self.here, task)(*work[0])]
            finally:
                torch.set_num_threads(before)
        for i, arguments in enumerate(work):
            with self._alive(i, devices[i]):
                self.connections[i].send((task, arguments))
        return [self._answer(i, devices[i]) for i in range(len(work))]

    def _answer(self, worker: int, devices: Sequence[int]) -> Any:
        with self._alive(worker, devices):
            answer = self.connections[worker].recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextlib.contextmanager
    def _alive(self, worker: int, devices: Sequence[int]) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # what a pipe with a limit says when it is over
            raise self._silence_of(worker, devices) from None
        except (EOFError, OSError):
            raise self._death_of(worker) from None

    def _silence_of(self, worker: int, devices: Sequence[int]) -> WorkerDied:
        self.processes[worker].kill()  # stopped, it would not end by itself
        named = ", ".join(map(str, devices[:20])) + (", ..." if len(devices) > 20 else "")
        return WorkerDied(
            f"worker {worker} of the local engine ({f'devices {named}' if named else 'no devices'}) was silent for "
            f"{self.patience:g} s; --resume goes on after the last round that was kept; a round that takes longer "
            "needs a larger engine.round_timeout_s"
        )

    def _death_of(self, worker: int) -> WorkerDied:
        self.processes[worker].join(timeout=5)
        code = self.processes[worker].exitcode
        return WorkerDied(
            f"worker {worker} of the local engine ended with exit code {code} (a negative code is a signal; "
            "-9 often means the machine ran out of memory); try engine.workers=1"
        )

    def close(self) -> None:
        """Stop the workers."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
        self.connections, self.processes = [], []


def _numbers(parts: Sequence[Sequence[tuple[Any, ...]]]) -> list[list[int]]:
    """The devices in each part of some work."""
    return [[one[0] for one in part] for part in parts]


def _limit(connection: Connection, seconds: float) -> None:
    """Let reads and writes on a pipe end with BlockingIOError when nothing has moved for so long."""
    # C's struct timeval, seconds and microseconds, where nought would be no limit.
    duration = struct.pack("ll", *divmod(round(min(max(seconds, 1e-6), 1e9) * 1e6), 10**6))
    with socket.socket(fileno=os.dup(connection.fileno())) as pipe:  # its settings are those of both descriptors
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, duration)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, duration)


def _work(connection: Connection, inherited: Sequence[Connection], lanes: Lanes, threads: int) -> None:
    """A worker's life: do what comes down the pipe until it closes."""
    # Ctrl-C reaches the whole process group; the main process decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for other in inherited:
        other.close()
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task, arguments = connection.recv()
            try:
                connection.send(getattr(lanes, task)(*arguments))
            except Exception as error:
                connection.send(RuntimeError(f"{task}: {type(error).__name__}: {error}"))


def _shared_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in anonymous memory that forked processes share."""
    size = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    return torch.frombuffer(mmap.mmap(-1, max(size, 1)), dtype=dtype).reshape(shape)
