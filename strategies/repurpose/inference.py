"""An inference on several workers, whatever carries their activations: what it takes and gives, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from strategies.repurpose.plan import Plan


class WorkerDied(RuntimeError):
    """A worker ended, failed or did not answer in time; the message says which and how."""


@dataclass(frozen=True)
class Machine:
    """What workers and links were measured to do before the start.

    Attributes
    ----------
    speed : float
        Multiply-adds a second of a worker, on a dense layer.
    rate, delay : float
        bit/s and s of a message between two workers; 0 for one worker.
    """

    speed: float
    rate: float
    delay: float


@dataclass(frozen=True)
class Inference:
    """What P workers made of some inputs.

    Attributes
    ----------
    outputs : Tensor
        In the model's order, shape (N, outputs, ...).
    bytes_sent : int
        Of activations and outputs, counted where they were sent, by all workers together.
    batch_seconds : list of float
        For each batch the time from its start on all workers to the outputs at the collector.
    batch : int
        Inputs in a batch; the last may have fewer.
    machine : Machine, optional
        Measured by processes of one machine only.
    """

    outputs: Tensor
    bytes_sent: int
    batch_seconds: list[float]
    batch: int
    machine: Machine | None = None


def check_inputs(plan: Plan, inputs: Tensor, batch: int, timeout: float) -> None:
    """Refuse what a plan cannot be run on.

    Raises
    ------
    ValueError
        If the inputs are not of the plan's shape and type, or an argument is not accepted.
    """
    if tuple(inputs.shape[1:]) != plan.network.input_shape or not len(inputs):
        raise ValueError(f"inputs of shape {tuple(inputs.shape)}; accepted: (N, {plan.network.input_shape}), N >= 1")
    dtype = next(iter(plan.network.weights.values())).weight.dtype
    if inputs.dtype != dtype:
        raise ValueError(f"inputs of type {inputs.dtype}; accepted: {dtype}, as the plan's weights")
    if batch < 1 or not timeout > 0:
        raise ValueError(f"batch = {batch!r}, timeout = {timeout!r}; accepted: batch >= 1, timeout > 0 seconds")
