"""Trains devices of the local engine several at a time, and those that cannot be one after the other."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clients.app import Workplace
from clients.batched_training import CannotBatch, largest_batch
from clients.training import Trainer

MOST = 64
"""Devices of a batch on a GPU, where the scenario does not say."""


@dataclass(frozen=True)
class TrainedDevice:
    """A device's work of a round, or why it failed.

    Parameters
    ----------
    device : int
        Which.
    state : Tensor of shape (d,), optional
        The trained model, only valid until the next device's is asked for; None if the device failed.
    examples : int
        Number of its examples.
    loss : float
        Mean training loss.
    seconds : float
        What its work took; of a batch an equal share each.
    failure : str, optional
        Kind and message of the error.
    """

    device: int
    state: Tensor | None = None
    examples: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    failure: str | None = None


class DevicesInBatches:
    """Trains devices of a workplace, up to `batch` of them in one computation.

    A batch that raises an error is trained again, one device after the other, so that the error is that of the device
    whose it is. If then none of them fails, it was the batching: the rest of the run goes one by one, with a warning
    that says why.

    Parameters
    ----------
    workplace : Workplace
        Model, data and training.
    batch : int
        Devices of a batch, >= 1; 1 trains one after the other.
    """

    def __init__(self, workplace: Workplace, batch: int) -> None:
        self.workplace = workplace
        self.batch = batch

    def train(self, received: Tensor, devices: Sequence[int], config: Mapping[str, Any]) -> Iterator[TrainedDevice]:
        """Train `devices` from the model `received`, (d,); in their order, as they are asked for."""
        first = 0
        while first < len(devices):
            several = devices[first : first + self.batch]
            first += len(several)
            if len(several) > 1:
                yield from self._together(received, several, config)
            else:
                yield self._alone(received, several[0], config)

    def _alone(self, received: Tensor, device: int, config: Mapping[str, Any]) -> TrainedDevice:
        start = time.perf_counter()
        try:
            state, examples, loss = self.workplace.train(received, device, config)
        except Exception as error:
            return TrainedDevice(device, failure=_text(error))
        return TrainedDevice(device, state, examples, loss, time.perf_counter() - start)

    def _together(self, received: Tensor, devices: Sequence[int], config: Mapping[str, Any]) -> Iterator[TrainedDevice]:
        start = time.perf_counter()
        try:
            answers = self.workplace.train_together(received, devices, config)
        except Exception as error:
            reason, for_ever = _text(error), isinstance(error, CannotBatch)
        else:
            share = (time.perf_counter() - start) / len(devices)
            for device, (state, examples, loss) in zip(devices, answers, strict=True):
                yield TrainedDevice(device, state, examples, loss, share)
            return
        # Only now that the error is gone is the memory free that the batch had taken.
        failed = False
        for device in devices:
            one = self._alone(received, device, config)
            failed |= one.failure is not None
            yield one
        if for_ever or not failed:
            self.batch = 1
            why = f"devices are trained one after the other from now on; a batch could not be: {reason}"
            warnings.warn(f"engine.batched_devices: {why}", stacklevel=2)


def devices_of_a_batch(asked: int | None, trainer: Trainer, memory: int) -> int:
    """How many devices to train at a time.

    Parameters
    ----------
    asked : int or None
        What the scenario says, ``engine.batched_devices``. If it does not: 1 on a CPU; on a GPU :data:`MOST`, or fewer,
        so that the devices' copies of the model (:data:`clients.batched_training.COPIES`) fit into `memory`.
    trainer : Trainer
        Its model and compute device.
    memory : int
        Bytes.
    """
    if asked is not None:
        return asked
    if trainer.device.type == "cpu":
        return 1
    return largest_batch(trainer.size, trainer.state.element_size(), memory, MOST)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
