"""The local engine: devices of a scenario in this process and its workers, behind Flower's Grid."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.layout import Layout
from channel.records import records_in
from channel.uplinks import symbol_scale
from clients.app import Workplace
from fedmac.engines.lanes import FIRST_NODE, DeviceReport
from fedmac.engines.workers import Team
from strategies.cohort import BELIEVING, BadPayload, CohortGrid, Failure, Gathered, Metrics, read_weight
from strategies.received import largest_norm
from strategies.refusal import said
from strategies.trust import Trust


class LocalCohort:
    """A cohort whose plain updates lie with the workers; implements :class:`channel.uplinks.Cohort`."""

    def __init__(
        self,
        team: Team,
        devices: NDArray[np.int64],
        weights: NDArray[np.float64],
        norms: NDArray[np.float64],
        total: int,
    ) -> None:
        self.team = team
        self.devices = devices
        self.weights = weights
        self.norms = norms
        self.size = team.size
        self.total = total

    def updates(self, gains: NDArray[np.float64]) -> Tensor:
        """Superpositions of the plain updates, (R, d)."""
        return self.team.superpose(self.devices, gains)

    def signals(self, gains: NDArray[np.float64]) -> Tensor:
        """Never needed: plain updates are at hand and the code is linear."""
        raise TypeError("LocalCohort.signals: code the superposition of updates() instead")

    def symbols(self, code: Code, seed: int) -> Tensor:
        """Every device's own update, coded and scaled to unit mean power a use."""
        coded = code.encode(self.updates(np.eye(len(self.devices))), seed)
        with np.errstate(divide="ignore"):
            scales = np.where(self.norms > 0, symbol_scale(code, self.size) / self.norms, 0.0)
        return coded * torch.from_numpy(scales)[:, None]


class LocalGrid(CohortGrid):
    """Flower's Grid over devices simulated in place: deterministic, without serialising models.

    Training messages for FedMAC's own devices are handled by :meth:`train_cohort`; every other message runs the
    ClientApp, in the worker that always serves the device.

    Parameters
    ----------
    workplace : Workplace
        Model, data and training of the devices.
    app : ClientApp
        The devices' app, for messages that are not plain training.
    workers : int, default 1
        Worker processes; 1 trains in this process. Results are identical for every number, to rounding if devices are
        trained in batches.
    threads : int, default 1
        Threads of each worker's computations.
    memory : int, default 100 MB
        Bytes for the updates held until power control knows all norms; of devices beyond, those whose gain is not
        their weight are trained twice.
    batch : int, default 1
        Devices that a process trains side by side in one computation; results are the same to rounding.
    patience : float, optional
        Seconds that a worker may be silent before :class:`~fedmac.engines.workers.WorkerDied` says so; by default any
        number.
    """

    def __init__(
        self,
        workplace: Workplace,
        app: ClientApp,
        *,
        workers: int = 1,
        threads: int = 1,
        memory: int = 10**8,
        batch: int = 1,
        patience: float | None = None,
    ) -> None:
        self.app = app
        self.devices = len(workplace.data.parts)
        self.team = Team(
            workplace, app, workers=workers, threads=threads, memory=memory, batch=batch, patience=patience
        )
        # Flower's Message constructor asks who is speaking.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
        self._run = Run.create_empty(run_id=1)
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def close(self) -> None:
        """Stop the workers."""
        self.team.close()

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """One node for each device."""
        return [FIRST_NODE + device for device in range(self.devices)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let each addressed device handle its message now; replies wait for :meth:`pull_messages`."""
        messages = list(messages)
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = f"local-{self._sent}"
        ids = [message.metadata.message_id for message in messages]
        replies = self.team.handle([(m.metadata.dst_node_id - FIRST_NODE, m) for m in messages])
        self._replies |= dict(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to messages pushed before; each is handed over once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Handle messages and return their replies; nothing to wait for, so `timeout` has no effect."""
        return self.pull_messages(self.push_messages(messages))

    def train_cohort(
        self, messages: list[Message], weighted_by_key: str, keep_updates: bool, trust: Trust = BELIEVING
    ) -> Gathered:
        """Train the addressed devices on the workers; see :class:`strategies.cohort.CohortGrid`."""
        content = messages[0].content
        arrays = {name: a.numpy() for name, a in next(iter(records_in(content, ArrayRecord).values())).items()}
        layout = Layout.of_arrays(arrays)
        received = torch.from_numpy(layout.flatten(arrays))
        config = dict(next(iter(records_in(content, ConfigRecord).values()), {}))
        devices = sorted(m.metadata.dst_node_id - FIRST_NODE for m in messages)
        keep_updates = keep_updates or weighted_by_key != "num-examples"
        reports = self.team.train(received, devices, config, keep_updates)
        failures: list[Failure] = []
        senders: list[tuple[DeviceReport, float, Metrics]] = []
        for report in reports:
            if report.failure is not None:
                failures.append(Failure(report.device, said(report.failure)))
                continue
            try:
                metrics = report.metrics(largest_norm(layout))
                weight = read_weight(metrics, weighted_by_key)
            except BadPayload as bad:
                failures.append(Failure(report.device, str(bad), bad.kind))
            else:
                senders.append((report, weight, metrics))
        too_long = trust.too_long({report.device: report.norm for report, _, _ in senders})
        failures += [Failure(device, reason, "norm") for device, reason in too_long.items()]
        senders = [sender for sender in senders if sender[0].device not in too_long]
        if not senders:
            return Gathered(None, [], failures)
        weights = np.array([weight for _, weight, _ in senders])
        cohort = LocalCohort(
            self.team,
            np.array([report.device for report, _, _ in senders]),
            weights / weights.sum(),
            np.array([report.norm for report, _, _ in senders]),
            self.devices,
        )
        return Gathered(
            cohort,
            [metrics for _, _, metrics in senders],
            failures,
            [report.seconds for report, _, _ in senders],
        )

    def device_states(self) -> dict[int, RecordDict]:
        """What each device that was sent a message keeps, by number."""
        return self.team.device_states()

    def restore_device_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let devices go on with these; the number of workers may be another than it was."""
        self.team.restore_device_states(states)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.close()
