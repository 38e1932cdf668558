"""Worker processes of the local engine: they train devices and add up their updates."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray
from torch import Tensor

from clients.app import Workplace
from strategies.cohort import BadPayload, Metrics

LANES = 16
"""Updates are added up in this many lanes, whatever the number of workers, so that rounding does not depend on it."""

FIRST_NODE = 2
"""Node id of device 0 (1 is the SuperLink's)."""

ROWS = 2
"""Superpositions that fit the shared buffer at once."""


EachWork = tuple[int, NDArray[np.floating], Mapping[str, Any]]
"""A device, the model that it gets, and the server's configuration."""

EachAnswer = tuple[NDArray[np.floating], int, float] | str
"""The trained model, number of examples and mean loss; or why the device failed."""


class WorkerDied(RuntimeError):
    """A worker process ended before its work was done."""


@dataclass(frozen=True)
class DeviceReport:
    """What a device reports of a round: examples, mean training loss, norm of its update, time, or why it failed."""

    device: int
    examples: int = 0
    loss: float = 0.0
    norm: float = 0.0
    seconds: float = 0.0
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
    """What a lane's devices did in the last training.

    Parameters
    ----------
    devices : list of int
        Those with a usable update x_i, in the order trained.
    examples : list of int
        Their n_i.
    rows : Tensor of shape (kept, d)
        The updates of the first of them.
    rest : Tensor of shape (d,)
        ``sum n_i x_i`` over the others.
    """

    devices: list[int]
    examples: list[int]
    rows: Tensor
    rest: Tensor


class Lanes:
    """The work of some lanes: trains their devices and adds up their updates. Lives in one process.

    Memory is bounded: a lane keeps the updates of its first devices and of the others only ``sum n_i x_i``. That sum
    is enough where power control aligns devices, so that gains are proportional to n_i; a device whose gain is not
    (it sends at full power and still arrives too weak) is trained again, which is deterministic.

    Parameters
    ----------
    workplace : Workplace
        Model, data and training.
    received : Tensor of shape (d,)
        The model of the round, shared with the other processes.
    sums : Tensor of shape (LANES, ROWS, d)
        Where lane sums go, shared.
    capacity : int
        Updates that a lane keeps.
    app : ClientApp
        The devices' app, for messages that are not plain training.
    """

    def __init__(self, workplace: Workplace, received: Tensor, sums: Tensor, capacity: int, app: ClientApp) -> None:
        self.workplace = workplace
        self.app = app
        self.contexts: dict[int, Context] = {}
        self.received = received
        self.sums = sums
        self.capacity = capacity
        self.config: Mapping[str, Any] = {}
        self.work: dict[int, LaneWork] = {}
        self.scratch = torch.empty_like(received)

    def train(self, lanes: Mapping[int, Sequence[int]], config: Mapping[str, Any], keep: bool) -> list[DeviceReport]:
        """Train the devices of the lanes; keep what fits of their updates if `keep`, and add up the rest."""
        self.config = config
        capacity = self.capacity if keep else 0
        return [report for lane, devices in lanes.items() for report in self._train_lane(lane, devices, capacity)]

    def superpose(self, lanes: Mapping[int, tuple[Sequence[int], NDArray[np.float64]]]) -> None:
        """Write ``gains @ updates`` of each lane, (R, devices of the lane) @ (devices, d), to the lane's sums."""
        for lane, (devices, gains) in lanes.items():
            self._superpose_lane(lane, devices, gains)

    def handle(self, messages: Sequence[tuple[int, Message]]) -> list[Message]:
        """Let the app of each addressed device handle its message; what a device keeps between messages lives here."""
        return [self._handle(device, message) for device, message in messages]

    def train_each(self, work: Sequence[EachWork]) -> list[EachAnswer]:
        """Train devices, each from a model and with a configuration of its own, one after the other."""
        return [self._train_one(*one) for one in work]

    def _train_one(self, device: int, received: NDArray[np.floating], config: Mapping[str, Any]) -> EachAnswer:
        try:
            state, examples, loss = self.workplace.train(torch.from_numpy(received), device, config)
            return state.cpu().numpy().copy(), examples, loss
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def device_states(self) -> dict[int, RecordDict]:
        """What each device keeps between messages, of those that have got any here."""
        return {device: context.state for device, context in self.contexts.items()}

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let devices go on with these states."""
        self.contexts = {device: self._context(device, state) for device, state in states.items()}

    def _context(self, device: int, state: RecordDict) -> Context:
        config: dict[str, Any] = {"partition-id": device, "num-partitions": len(self.workplace.data.parts)}
        return Context(1, FIRST_NODE + device, config, state, {})

    def _handle(self, device: int, message: Message) -> Message:
        if device not in self.contexts:
            self.contexts[device] = self._context(device, RecordDict())
        try:
            return self.app(message, self.contexts[device])
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    def _train_lane(self, lane: int, devices: Sequence[int], capacity: int) -> list[DeviceReport]:
        rows, rest = self._buffers(lane, min(len(devices), capacity))
        work = LaneWork([], [], rows, rest.zero_())
        reports = []
        for device in devices:
            kept = len(work.devices) < len(rows)
            update = rows[len(work.devices)] if kept else self.scratch
            report = self._train_device(device, update)
            reports.append(report)
            if report.usable:
                work.devices.append(device)
                work.examples.append(report.examples)
                if not kept:
                    rest.add_(update, alpha=report.examples)
        work.rows = rows[: len(work.devices)]
        self.work[lane] = work
        return reports

    def _superpose_lane(self, lane: int, devices: Sequence[int], gains: NDArray[np.float64]) -> None:
        work = self.work[lane]
        place = {device: k for k, device in enumerate(work.devices)}
        placed = np.zeros((len(gains), len(work.devices)))
        placed[:, [place[device] for device in devices]] = gains
        kept = len(work.rows)
        sums = self.sums[lane, : len(gains)]
        torch.mm(self._weights(placed[:, :kept]), work.rows, out=sums)
        if kept == len(work.devices):
            return
        examples = np.array(work.examples[kept:], dtype=np.float64)
        shares = np.median(placed[:, kept:] / examples, axis=1)
        sums.addr_(self._weights(shares), work.rest)
        missing = placed[:, kept:] - shares[:, None] * examples
        missing[np.abs(missing) <= 1e-9 * np.abs(placed[:, kept:])] = 0.0
        for k in np.flatnonzero(missing.any(axis=0)):
            self._train_device(work.devices[kept + k], self.scratch)
            sums.addr_(self._weights(missing[:, k]), self.scratch)

    def _weights(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.sums.dtype)

    def _buffers(self, lane: int, count: int) -> tuple[Tensor, Tensor]:
        last = self.work.get(lane)
        rest = torch.empty_like(self.received) if last is None else last.rest
        rows = torch.empty(0) if last is None else last.rows
        if len(rows) < count or last is None:
            rows = torch.empty((count, len(self.received)), dtype=self.received.dtype)
        return rows[:count], rest

    def _train_device(self, device: int, out: Tensor) -> DeviceReport:
        start = time.perf_counter()
        try:
            state, examples, loss = self.workplace.train(self.received, device, self.config)
            torch.sub(state.cpu(), self.received, out=out)
            norm = float(torch.linalg.vector_norm(out))
            return DeviceReport(device, examples, loss, norm, time.perf_counter() - start)
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
    app : ClientApp
        The devices' app, for messages that are not plain training.
    """

    def __init__(self, workplace: Workplace, app: ClientApp, *, workers: int, threads: int, memory: int) -> None:
        self.size = workplace.trainer.size
        self.threads = threads
        dtype = workplace.trainer.state.dtype
        self.received = _shared_tensor((self.size,), dtype)
        self.sums = _shared_tensor((LANES, ROWS, self.size), dtype)
        capacity = memory // (LANES * self.received.numel() * self.received.element_size())
        self.here = Lanes(workplace, self.received, self.sums, capacity, app)
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
        answers = [iter(answer) for answer in self._each("handle", [(part,) for part in parts])]
        return [next(answers[device % count]) for device, _ in messages]

    def train_each(self, work: Sequence[EachWork]) -> list[EachAnswer]:
        """As :meth:`Lanes.train_each`, in the order given; a device is always served by the same worker."""
        count = max(1, len(self.connections))
        parts = [[one for one in work if one[0] % count == worker] for worker in range(count)]
        answers = [iter(answer) for answer in self._each("train_each", [(part,) for part in parts])]
        return [next(answers[device % count]) for device, _, _ in work]

    def device_states(self) -> dict[int, RecordDict]:
        """What each device keeps between messages, by number."""
        count = max(1, len(self.connections))
        return {device: state for part in self._each("device_states", [()] * count) for device, state in part.items()}

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let each device go on with its state, in the worker that serves it."""
        count = max(1, len(self.connections))
        parts = [{n: state for n, state in states.items() if n % count == worker} for worker in range(count)]
        self._each("restore_device_states", [(part,) for part in parts])

    def _add_up(self, rows: int) -> Tensor:
        total = torch.zeros((rows, self.size), dtype=torch.float64)
        for lane in self._lanes:
            total += self.sums[lane, :rows]
        return total

    def _everyone(self, task: str, lanes: Mapping[int, Any], *arguments: Any) -> list[Any]:
        """Have each worker do `task` on its lanes; the answers in the order of the workers."""
        count, order = max(1, len(self.connections)), list(lanes)
        return self._each(task, [({lane: lanes[lane] for lane in order[i::count]}, *arguments) for i in range(count)])

    def _each(self, task: str, work: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Have each worker do `task` on its own arguments; this process does it where there are no workers."""
        if not self.connections:
            before = torch.get_num_threads()
            torch.set_num_threads(self.threads)
            try:
                return [getattr(self.here, task)(*work[0])]
            finally:
                torch.set_num_threads(before)
        for i, arguments in enumerate(work):
            self._send(i, (task, arguments))
        return [self._answer(i) for i in range(len(work))]

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
