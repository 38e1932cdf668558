"""Worker processes of the local engine: they train devices and add up their updates."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.app import Workplace
from strategies.cohort import BadPayload, Metrics

LANES = 16
"""Updates are added up in this many lanes, whatever the number of workers, so that rounding does not depend on it."""

ROWS = 2
"""Superpositions that fit the shared buffer at once."""


class WorkerDied(RuntimeError):
    """A worker process ended before its work was done."""


@dataclass(frozen=True)
class DeviceReport:
    """What a device reports of a round: examples, mean training loss, norm of its update, or why it failed."""

    device: int
    examples: int = 0
    loss: float = 0.0
    norm: float = 0.0
    failure: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the device has an update that can be sent."""
        return self.failure is None and bool(np.isfinite(self.norm))

    def metrics(self) -> Metrics:
        """The metrics that the device's app would send.

        Raises
        ------
        BadPayload
            If the device failed or its update is not finite.
        """
        if self.failure is not None:
            raise BadPayload(self.failure)
        if not self.usable:
            raise BadPayload(f"the update's norm is {self.norm}, expected a finite number >= 0")
        return {"num-examples": self.examples, "train_loss": self.loss}


@dataclass
class LaneWork:
    """What a lane did in the last training: who trained, and the updates that were kept, in the same order."""

    trained: list[int]
    rows: Tensor
    kept: int


class Lanes:
    """The work of some lanes: trains their devices and adds up their updates. Lives in one process.

    Parameters
    ----------
    workplace : Workplace
        Model, data and training.
    received : Tensor of shape (d,)
        The model of the round, shared with the other processes.
    sums : Tensor of shape (LANES, ROWS, d)
        Where lane sums go, shared.
    capacity : int
        Updates that a lane keeps. Devices beyond it are trained again when their updates are asked for: training is
        deterministic, so memory is bounded at the price of time.
    """

    def __init__(self, workplace: Workplace, received: Tensor, sums: Tensor, capacity: int) -> None:
        self.workplace = workplace
        self.received = received
        self.sums = sums
        self.capacity = capacity
        self.config: Mapping[str, Any] = {}
        self.work: dict[int, LaneWork] = {}
        self.scratch = torch.empty_like(received)

    def train(self, lanes: Mapping[int, Sequence[int]], config: Mapping[str, Any], keep: bool) -> list[DeviceReport]:
        """Train the devices of the lanes; keep their updates, or add them up weighted by their examples."""
        self.config = config
        return [report for lane, devices in lanes.items() for report in self._train_lane(lane, devices, keep)]

    def _train_lane(self, lane: int, devices: Sequence[int], keep: bool) -> list[DeviceReport]:
        rows = self._rows(lane, min(len(devices), self.capacity) if keep else 0)
        if not keep:
            self.sums[lane, 0].zero_()
        reports: list[DeviceReport] = []
        trained: list[int] = []
        for device in devices:
            row = rows[len(trained)] if len(trained) < len(rows) else self.scratch
            report = self._train_device(device, row)
            reports.append(report)
            if report.usable:
                trained.append(device)
                if not keep:
                    self.sums[lane, 0].add_(row, alpha=report.examples)
        self.work[lane] = LaneWork(trained, rows, min(len(trained), len(rows)) if keep else 0)
        return reports

    def superpose(self, lanes: Mapping[int, tuple[Sequence[int], NDArray[np.float64]]]) -> None:
        """Write ``gains @ updates`` of each lane, (R, devices of the lane) @ (devices, d), to the lane's sums."""
        for lane, (devices, gains) in lanes.items():
            work = self.work[lane]
            place = {device: k for k, device in enumerate(work.trained)}
            placed = torch.zeros((len(gains), len(work.trained)), dtype=self.sums.dtype)
            placed[:, [place[device] for device in devices]] = torch.from_numpy(gains).to(placed.dtype)
            sums = self.sums[lane, : len(gains)]
            torch.mm(placed[:, : work.kept], work.rows[: work.kept], out=sums)
            for k in range(work.kept, len(work.trained)):
                self._train_device(work.trained[k], self.scratch)
                sums.addr_(placed[:, k], self.scratch)

    def _rows(self, lane: int, count: int) -> Tensor:
        last = self.work.get(lane)
        if last is not None and len(last.rows) >= count:
            return last.rows[:count] if count else last.rows[:0]
        return torch.empty((count, len(self.received)), dtype=self.received.dtype)

    def _train_device(self, device: int, out: Tensor) -> DeviceReport:
        try:
            state, examples, loss = self.workplace.train(self.received, device, self.config)
            torch.sub(state.cpu(), self.received, out=out)
            return DeviceReport(device, examples, loss, float(torch.linalg.vector_norm(out)))
        except Exception as error:
            return DeviceReport(device, failure=f"{type(error).__name__}: {error}")


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
    """

    def __init__(self, workplace: Workplace, *, workers: int, threads: int, memory: int) -> None:
        self.size = workplace.trainer.size
        self.threads = threads
        dtype = workplace.trainer.state.dtype
        self.received = _shared_tensor((self.size,), dtype)
        self.sums = _shared_tensor((LANES, ROWS, self.size), dtype)
        capacity = memory // (LANES * self.received.numel() * self.received.element_size())
        self.here = Lanes(workplace, self.received, self.sums, capacity)
        self.connections: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []
        self._lanes: dict[int, list[int]] = {}
        self._examples = 0
        if workers > 1:
            self._hire(min(workers, LANES))

    def _hire(self, workers: int) -> None:
        # Fork, so that workers share the data; they compute on their own threads and never touch a GPU.
        context = multiprocessing.get_context("fork")
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, [*self.connections, ours], self.here, self.threads), daemon=True
            )
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def train(
        self, received: Tensor, devices: Sequence[int], config: Mapping[str, Any], keep: bool
    ) -> list[DeviceReport]:
        """Train `devices` from the model `received`; their reports, in the order of the devices."""
        self.received.copy_(received)
        parts = np.array_split(np.asarray(devices, dtype=np.int64), LANES)
        self._lanes = {lane: part.tolist() for lane, part in enumerate(parts) if len(part)}
        reports = [report for answer in self._everyone("train", self._lanes, config, keep) for report in answer]
        self._examples = sum(r.examples for r in reports if r.usable)
        return sorted(reports, key=lambda report: report.device)

    def mean(self) -> Tensor:
        """Mean update of the last training weighted by examples, (d,), float64; for updates that were not kept."""
        return self._add_up(1)[0] / self._examples

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

    def _add_up(self, rows: int) -> Tensor:
        total = torch.zeros((rows, self.size), dtype=torch.float64)
        for lane in self._lanes:
            total += self.sums[lane, :rows]
        return total

    def _everyone(self, task: str, lanes: Mapping[int, Any], *arguments: Any) -> list[Any]:
        """Have each worker do `task` on its lanes; the answers in the order of the workers."""
        if not self.connections:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                return [getattr(self.here, task)(lanes, *arguments)]
            finally:
                torch.set_num_threads(before)
        count = len(self.connections)
        order = list(lanes)
        for i in range(count):
            self._send(i, (task, ({lane: lanes[lane] for lane in order[i::count]}, *arguments)))
        return [self._answer(i) for i in range(count)]

    def _send(self, worker: int, work: tuple[str, tuple[Any, ...]]) -> None:
        try:
            self.connections[worker].send(work)
        except OSError:
            raise self._death_of(worker) from None

    def _answer(self, worker: int) -> Any:
        try:
            answer = self.connections[worker].recv()
        except (EOFError, OSError):
            raise self._death_of(worker) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

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
