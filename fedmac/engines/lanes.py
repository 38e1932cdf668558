"""Lanes of the local engine: in one process they train devices and add up their updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray
from torch import Tensor

from clients.app import Workplace
from fedmac.engines.batched_devices import DevicesInBatches, TrainedDevice
from strategies.cohort import BadPayload, Metrics
from strategies.received import read_norm

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

    def metrics(self, largest_norm: float) -> Metrics:
        """The metrics that the device's app would send, if what it would send with them could be used.

        Parameters
        ----------
        largest_norm : float
            That is believed.

        Raises
        ------
        BadPayload
            If the update or the loss is not finite, or the norm beyond belief; of the kind that its message would be.
        """
        if not self.usable:
            raise BadPayload(f"the update's norm is {self.norm}, expected a finite number >= 0", "not-finite")
        read_norm({"norm": self.norm}, largest=largest_norm)
        if not np.isfinite(self.loss):
            raise BadPayload(f"metric 'train_loss' is {self.loss}, expected finite numbers", "metrics")
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
    batch : int, default 1
        Devices trained side by side in one computation.
    """

    def __init__(
        self, workplace: Workplace, received: Tensor, sums: Tensor, capacity: int, app: ClientApp, batch: int = 1
    ) -> None:
        self.workplace = workplace
        self.app = app
        self.contexts: dict[int, Context] = {}
        self.received = received
        self.sums = sums
        self.capacity = capacity
        self.config: Mapping[str, Any] = {}
        self.work: dict[int, LaneWork] = {}
        self.scratch = torch.empty_like(received)
        self.training = DevicesInBatches(workplace, batch)

    def train(self, lanes: Mapping[int, Sequence[int]], config: Mapping[str, Any], keep: bool) -> list[DeviceReport]:
        """Train the devices of the lanes; keep what fits of their updates if `keep`, and add up the rest."""
        self.config = config
        capacity = self.capacity if keep else 0
        everyone = [device for devices in lanes.values() for device in devices]
        trained = self.training.train(self.received, everyone, config)
        return [
            report for lane, devices in lanes.items() for report in self._add_lane(lane, devices, capacity, trained)
        ]

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

    def _add_lane(
        self, lane: int, devices: Sequence[int], capacity: int, trained: Iterator[TrainedDevice]
    ) -> list[DeviceReport]:
        """Take the lane's devices from those trained, which come in its order."""
        rows, rest = self._buffers(lane, min(len(devices), capacity))
        work = LaneWork([], [], rows, rest.zero_())
        reports = []
        for device in devices:
            kept = len(work.devices) < len(rows)
            update = rows[len(work.devices)] if kept else self.scratch
            report = self._update(next(trained), update)
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
        self._leave_out(work, frozenset(devices))
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
        again = np.flatnonzero(missing.any(axis=0))
        trained = self.training.train(self.received, [work.devices[kept + k] for k in again], self.config)
        for k, one in zip(again, trained, strict=True):
            self._update(one, self.scratch)
            sums.addr_(self._weights(missing[:, k]), self.scratch)

    def _leave_out(self, work: LaneWork, senders: frozenset[int]) -> None:
        """Add up the rest again without devices that do not send after all.

        To subtract them would not do: an update that is refused for its size has rounded the others' sum by it.
        """
        kept = len(work.rows)
        sending = [k for k, device in enumerate(work.devices) if k < kept or device in senders]
        if len(sending) == len(work.devices):
            return
        work.devices, work.examples = [work.devices[k] for k in sending], [work.examples[k] for k in sending]
        work.rest.zero_()
        again = self.training.train(self.received, work.devices[kept:], self.config)
        for one, examples in zip(again, work.examples[kept:], strict=True):
            self._update(one, self.scratch)
            work.rest.add_(self.scratch, alpha=examples)

    def _weights(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.sums.dtype)

    def _buffers(self, lane: int, count: int) -> tuple[Tensor, Tensor]:
        last = self.work.get(lane)
        rest = torch.empty_like(self.received) if last is None else last.rest
        rows = torch.empty(0) if last is None else last.rows
        if len(rows) < count or last is None:
            rows = torch.empty((count, len(self.received)), dtype=self.received.dtype)
        return rows[:count], rest

    def _update(self, one: TrainedDevice, out: Tensor) -> DeviceReport:
        """Write the device's update to `out`, and say what the device reports."""
        if one.state is None:
            return DeviceReport(one.device, failure=one.failure)
        torch.sub(one.state.cpu(), self.received, out=out)
        norm = float(torch.linalg.vector_norm(out))
        if not np.isfinite(norm):  # its square may be more than float32 holds, and the update finite
            norm = float(torch.linalg.vector_norm(out, dtype=torch.float64))
        return DeviceReport(one.device, one.examples, one.loss, norm, one.seconds)
