"""Workers of a toy problem on a simulated clock, for the tests of clock and systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from clients.device_profiles import ComputeProfile
from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.faults import Faults, Incident
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import Link
from fedmac.clock.network import Network
from fedmac.engines.local import FIRST_NODE
from tests.answering_grid import AnsweringGrid

Vector = NDArray[np.float64]
Answer = Callable[[int, Vector, int], Vector]
"""The model after a device's step: of device, model and step."""

ONE_FLOP_A_SECOND = ComputeProfile("one", 1.0, busy_watts=2.0, idle_watts=0.5)
"""So that FLOPs are seconds."""

INSTANT = Link(np.inf, np.inf, 0.0)
"""Sends in no time."""


class InstantGrid(AnsweringGrid):
    """Devices that answer at once; what they were sent is kept in `asked`, as (device, step, model)."""

    def __init__(self, devices: int, answer: Answer) -> None:
        super().__init__(devices, self._answered)
        self.answer = answer
        self.asked: list[tuple[int, int, Vector]] = []

    def _answered(self, message: Message) -> Message:
        device = message.metadata.dst_node_id - FIRST_NODE
        model = message.content.array_records["arrays"]["x"].numpy()
        step = int(str(message.content.config_records["config"]["server-round"]))
        self.asked.append((device, step, model))
        try:
            trained = self.answer(device, model, step)
        except ValueError as error:
            return Message(Error(0, str(error)), reply_to=message)
        metrics = MetricRecord({"num-examples": 1, "train_loss": float(np.sum(model))})
        return Message(RecordDict({"arrays": vector(trained), "metrics": metrics}), reply_to=message)


def vector(x: Vector) -> ArrayRecord:
    """A model of one array."""
    return ArrayRecord({"x": Array(np.ascontiguousarray(x))})


def clocked(
    answer: Answer,
    seconds: Sequence[float],
    *,
    link: Link = INSTANT,
    server_bps: float = np.inf,
    shared_medium: bool = False,
    seed: int = 0,
    faults: Faults | None = None,
    incidents: Sequence[Incident] = (),
    profile: ComputeProfile = ONE_FLOP_A_SECOND,
    **given: Any,
) -> ClockedGrid:
    """A grid of devices whose steps take so many seconds each; `given` may have a fleet's jitter and stragglers."""
    of_fleet = {key: given.pop(key) for key in list(given) if key.startswith(("jitter", "straggler"))}
    devices = len(seconds)
    return ClockedGrid(
        InstantGrid(devices, answer),
        Fleet([profile], devices, seed, **of_fleet),
        Network([link] * devices, server_bps, shared_medium=shared_medium),
        lambda device: seconds[device],
        faults=faults or Faults(devices, seed, incidents=incidents),
        **given,
    )


def unchanged(device: int, model: Vector, step: int) -> Vector:
    """The null model."""
    return model


def one_more(device: int, model: Vector, step: int) -> Vector:
    """An update of ones."""
    return model + 1.0
