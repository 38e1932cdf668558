"""What AirGrid reads from messages on their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.common.constant import ErrorCode
from numpy.typing import NDArray

from channel.order import BLOCKS_KEY, ORDER_KEY, SCALARS_KEY
from channel.records import records_in
from strategies.received import Metrics
from strategies.refusal import ERROR, NO_REPLY, OVERLONG_REPLY, UNREADABLE_REPLY, Failure, said

ENERGY_SHARE = "energy-share"
"""Key of a training message's configuration: what its exchange may use of the energy granted to one (default 1)."""

SCALAR_BITS = 32
"""Bits of a scalar on the control channel."""

_BAD_ERRORS = {UNREADABLE_REPLY: "unreadable", OVERLONG_REPLY: "length"}
"""Kinds of failures by the codes of errors in the place of what a device did send."""

_KINDS = _BAD_ERRORS | {ErrorCode.NODE_UNAVAILABLE: NO_REPLY}
"""Of errors in the place of replies; the SuperLink speaks for a node that is gone, all others are the app's."""


def kind_of(message: Message) -> str:
    """``train``, ``query`` …: the message's type without its action."""
    return message.metadata.message_type.split(".")[0]


def goes_over_the_air(message: Message) -> bool:
    """Whether its reply takes the air; all but training takes the control channel."""
    return kind_of(message) == MessageType.TRAIN


def energy_share(message: Message) -> float:
    """What its exchange may use of the energy granted to one."""
    return float(str(config_of(message).get(ENERGY_SHARE, 1.0)))


def scalars_of(message: Message) -> dict[str, int]:
    """The metrics that a reply to a message must hold, and how many numbers each."""
    asked = records_in(message.content, ConfigRecord).get(SCALARS_KEY, ConfigRecord())
    return {name: int(str(count)) for name, count in asked.items()}


def scalars_in(reply: Message) -> int:
    """How many numbers a reply's metrics hold."""
    records = records_in(reply.content, MetricRecord).values()
    return sum(int(np.size(value)) for record in records for value in record.values())


def reason_of(reply: Message | None) -> str:
    """Why a device that was asked is not heard: its error, or that there is no reply."""
    if reply is None:
        return "no reply in time"
    return said(reply.error.reason or "") or f"error code {reply.error.code}"


def failure_of(device: int, reply: Message | None) -> Failure:
    """Of a device whose reply is an error, bytes of no use (which count against it), or is not there."""
    if reply is None:
        return Failure(device, reason_of(reply), NO_REPLY)
    return Failure(device, reason_of(reply), _KINDS.get(reply.error.code, ERROR))


def is_for_bad_bytes(reply: Message) -> bool:
    """Whether it is an error in the place of bytes that a device did send, of no use."""
    return reply.has_error() and reply.error.code in _BAD_ERRORS


def model_of(message: Message) -> dict[str, NDArray[Any]]:
    """The model that a training message carries.

    Raises
    ------
    ValueError
        If it carries none, or several.
    """
    records = records_in(message.content, ArrayRecord)
    if len(records) != 1:
        raise ValueError(
            f"AirGrid: a training message must carry exactly one ArrayRecord (the model), found {list(records)}"
        )
    return {name: array.numpy() for name, array in next(iter(records.values())).items()}


def config_of(message: Message) -> ConfigRecord:
    """The strategy's own configuration, whatever else the message carries for the air."""
    records = records_in(message.content, ConfigRecord)
    return next(
        (record for key, record in records.items() if key not in (BLOCKS_KEY, ORDER_KEY, SCALARS_KEY)), ConfigRecord()
    )


def metrics_of_most(metrics: Sequence[Metrics]) -> dict[str, tuple[int, ...]]:
    """Names of the metrics that more than half of the devices report in one form, with its shape, in a fixed order.

    A list of one number is a number. What one device writes otherwise than the others must not cost them the mean.
    """
    forms: dict[str, Counter[tuple[int, ...]]] = {}
    for own in metrics:
        for name, value in own.items():
            forms.setdefault(name, Counter())[as_numbers(value).shape] += 1
    most = {name: counts.most_common(1)[0] for name, counts in forms.items()}
    return {name: shape for name, (shape, count) in most.items() if 2 * count > len(metrics)}


def weighted_metrics(metrics: Sequence[Metrics], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Weighted mean of each metric that most devices report, over those who report it as most do."""
    means: dict[str, Any] = {}
    for name, shape in metrics_of_most(metrics).items():
        read = [as_numbers(own[name]) if name in own else None for own in metrics]
        alike = np.array([value is not None and value.shape == shape for value in read])
        values = np.stack([value for value in read if value is not None and value.shape == shape])
        shares = weights if alike.all() else weights[alike] / weights[alike].sum()
        means[name] = np.tensordot(shares, values, axes=1).tolist()
    return means


def as_numbers(value: int | float | list[int] | list[float]) -> NDArray[np.float64]:
    """A metric as an array: of shape () for a number, also for one in a list of its own."""
    numbers = np.asarray(value, dtype=np.float64)
    return numbers.reshape(()) if numbers.size == 1 else numbers
