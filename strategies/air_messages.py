"""What AirGrid reads from messages on their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType
from numpy.typing import NDArray

from channel.order import BLOCKS_KEY, ORDER_KEY, SCALARS_KEY
from strategies.cohort import Metrics

ENERGY_SHARE = "energy-share"
"""Key of a training message's configuration: what its exchange may use of the energy granted to one (default 1)."""

SCALAR_BITS = 32
"""Bits of a scalar on the control channel."""


def kind_of(message: Message) -> str:
    """``train``, ``query`` …: the message's type without its action."""
    return message.metadata.message_type.split(".")[0]


def goes_over_the_air(message: Message) -> bool:
    """Whether its reply takes the air; all but training takes the control channel."""
    return kind_of(message) == MessageType.TRAIN


def energy_share(message: Message) -> float:
    """What its exchange may use of the energy granted to one."""
    return float(str(config_of(message).get(ENERGY_SHARE, 1.0)))


def scalars_in(reply: Message) -> int:
    """How many numbers a reply's metrics hold."""
    return sum(int(np.size(value)) for record in reply.content.metric_records.values() for value in record.values())


def reason_of(reply: Message | None) -> str:
    """Why a device that was asked is not heard: its error, or that there is no reply."""
    if reply is None:
        return "no reply in time"
    return reply.error.reason or f"error code {reply.error.code}"


def model_of(message: Message) -> dict[str, NDArray[Any]]:
    """The model that a training message carries.

    Raises
    ------
    ValueError
        If it carries none, or several.
    """
    records = message.content.array_records
    if len(records) != 1:
        raise ValueError(
            f"AirGrid: a training message must carry exactly one ArrayRecord (the model), found {list(records)}"
        )
    return {name: array.numpy() for name, array in next(iter(records.values())).items()}


def config_of(message: Message) -> ConfigRecord:
    """The strategy's own configuration, whatever else the message carries for the air."""
    records = message.content.config_records
    return next(
        (record for key, record in records.items() if key not in (BLOCKS_KEY, ORDER_KEY, SCALARS_KEY)), ConfigRecord()
    )


def metrics_in(reply: Message) -> Metrics:
    """What a device says in numbers; empty if nothing."""
    return dict(next(iter(reply.content.metric_records.values()), {}))


def weighted_metrics(metrics: Sequence[Metrics], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Weighted mean of each metric that every device reports (numbers, and lists of one length).

    A list of one number is a number: what one device writes otherwise than the others must not cost them the mean.
    """
    shared = [key for key in metrics[0] if all(key in m for m in metrics)] if metrics else []
    means: dict[str, Any] = {}
    for name in shared:
        values = [as_numbers(m[name]) for m in metrics]
        if len({v.shape for v in values}) == 1:
            means[name] = np.tensordot(weights, np.stack(values), axes=1).tolist()
    return means


def as_numbers(value: int | float | list[int] | list[float]) -> NDArray[np.float64]:
    """A metric as an array: of shape () for a number, also for one in a list of its own."""
    numbers = np.asarray(value, dtype=np.float64)
    return numbers.reshape(()) if numbers.size == 1 else numbers
