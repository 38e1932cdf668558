"""What a device says, read so that nothing it makes up does harm: arrays, norms, weights, metrics, times."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ConfigRecord, Message, MetricRecord
from numpy.typing import DTypeLike, NDArray

from channel.layout import Layout
from channel.order import SEED, TRANSMISSION_KEY
from channel.records import records_in
from strategies.refusal import BadPayload, shown

Metrics = Mapping[str, int | float | list[int] | list[float]]

LARGEST_NORM = 1e100
"""Largest norm of an update that is believed: power control squares it."""

SMALLEST_NORM = 1 / LARGEST_NORM
"""A smaller norm counts as none: divided by its square, nothing is finite."""

LARGEST_NORMS: Mapping[str, float] = {"float64": LARGEST_NORM, "float32": 1e18, "float16": 65504.0}
"""The same by the dtype of the model: added to it, and squared by strategies, it must not overflow."""

LARGEST_WEIGHT = 2.0**53
"""Largest aggregation weight that is believed: examples can be counted so far in float64, and sums stay finite."""

LONGEST_SECONDS = 7 * 24 * 3600.0
"""Longest time of computing that is believed: a week."""

LARGEST_POWER = 1e5
"""Largest power (W) that a device is believed to draw over that time."""

MOST_METRICS = 10_000
"""Numbers that metrics may hold beside those that were asked for."""

HEADER_BYTES = 1024
"""Of an array's own description, at most; NumPy writes 128."""


def read_array(
    array: Array,
    what: str,
    shape: tuple[int, ...],
    dtypes: Collection[DTypeLike],
    *,
    most: int | None = None,
    flat: bool = False,
) -> NDArray[Any]:
    """An array from a reply, without a copy, once its length, dtype and shape are known to be right.

    The bytes are NumPy's own format, without pickle. Nothing but the header is looked at until it is known that they
    are as many as they must be, and nothing is allocated by what it says.

    Parameters
    ----------
    array : Array
        As it came.
    what : str
        Its name in messages: ``symbols``.
    shape : tuple of int
        What it must have; of no consequence where `most` is given.
    dtypes : collection of dtype
        Those that are accepted, in this machine's byte order.
    most : int, optional
        Of an array of one dimension: how many entries it may have at most, at least one.
    flat : bool
        Any shape of as many entries is as good; it is returned with `shape`.

    Raises
    ------
    BadPayload
        If it is not as described.
    """
    accepted = [np.dtype(dtype) for dtype in dtypes]
    dtype, found, start = _header(array, what)
    if dtype not in accepted:
        raise BadPayload(f"{what} have dtype {dtype.str}, expected {' or '.join(d.name for d in accepted)}", "dtype")
    if flat and math.prod(found) == math.prod(shape):
        found = shape
    if found != shape if most is None else (len(found) != 1 or not 0 < found[0] <= most):
        expected = f"shape {shape}" if most is None else f"1 to {most} in one dimension"
        raise BadPayload(f"{what} of shape {shown(found)}, expected {expected}", "shape")
    if (length := len(array.data)) != start + math.prod(found) * dtype.itemsize:
        raise BadPayload(f"{what} in {length} bytes, for shape {found} of {dtype.name} after {start} bytes", "length")
    return np.frombuffer(array.data, dtype=dtype, offset=start).reshape(found)


def _header(array: Array, what: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Dtype, shape, and where the data begin."""
    if array.stype != "numpy.ndarray":
        raise BadPayload(f"{what} cannot be read: serialised as {shown(array.stype)}, expected numpy.ndarray", "dtype")
    head = io.BytesIO(array.data[:HEADER_BYTES])
    try:
        if (version := np.lib.format.read_magic(head)) != (1, 0):
            raise ValueError(f"version {version} of NumPy's format, expected (1, 0)")  # 2 is for long headers
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head, max_header_size=HEADER_BYTES)
    except Exception as error:  # whatever NumPy makes of bytes that a device made up
        reason = f"{what} cannot be read: {type(error).__name__}: {shown(str(error))}"
        raise BadPayload(reason, "unreadable") from error
    if fortran and len(shape) > 1:
        raise BadPayload(f"{what} of shape {shown(shape)} in Fortran order, expected C order", "shape")
    if any(type(side) is not int or side < 0 for side in shape):
        raise BadPayload(f"{what} of shape {shown(shape)}", "shape")
    return dtype, shape, head.tell()


def largest_norm(layout: Layout) -> float:
    """The largest norm of an update that is believed, for a model of this layout."""
    return min((LARGEST_NORMS.get(dtype, LARGEST_NORMS["float16"]) for dtype in layout.dtypes), default=LARGEST_NORM)


def check_finite(values: NDArray[np.floating[Any]], what: str) -> None:
    """See that an array's entries are all finite.

    Raises
    ------
    BadPayload
        Saying how many are not.
    """
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise BadPayload(f"{count} of {values.size} {what} are not finite", "not-finite")


def said_of_transmission(message: Message) -> ConfigRecord:
    """What a device reports beside what it sends; empty if nothing."""
    return records_in(message.content, ConfigRecord).get(TRANSMISSION_KEY, ConfigRecord())


def check_seed(message: Message, seed: int) -> None:
    """See that a reply was made for this exchange, and is not an earlier one again.

    A reply that says nothing at all of its transmission is not of the mod `clients.transmit`: that is told elsewhere.

    Raises
    ------
    BadPayload
        If it says another seed, or none.
    """
    transmission = said_of_transmission(message)
    if transmission and ((said := transmission.get(SEED)) != seed or isinstance(said, bool)):
        raise BadPayload(f"made under the seed {shown(said)} and not this exchange's: {seed}", "seed")


def read_norm(transmission: Mapping[str, object], key: str = "norm", largest: float = LARGEST_NORM) -> float:
    """The norm that a device says its update has; 0 below :data:`SMALLEST_NORM`.

    Raises
    ------
    BadPayload
        If it says none that can be believed.
    """
    norm = transmission.get(key)
    if not _is_number(norm) or not 0 <= norm <= largest:  # type: ignore[operator]
        raise BadPayload(
            f"the update's norm is {shown(norm)}, expected a finite number >= 0, at most {largest:g}", "norm"
        )
    return float(norm) if norm >= SMALLEST_NORM else 0.0  # type: ignore[arg-type, operator]


def read_seconds(message: Message) -> float | None:
    """How long a device says it has computed (s); None if it says nothing that can be believed."""
    seconds = said_of_transmission(message).get("seconds")
    if _is_number(seconds) and 0 <= seconds <= LONGEST_SECONDS:  # type: ignore[operator]
        return float(seconds)  # type: ignore[arg-type]
    return None


def read_joules(message: Message) -> float | None:
    """What a device estimates that its computing took (J); None if it says nothing that can be believed."""
    joules = said_of_transmission(message).get("joules")
    if _is_number(joules) and 0 <= joules <= LARGEST_POWER * LONGEST_SECONDS:  # type: ignore[operator]
        return float(joules)  # type: ignore[arg-type]
    return None


def read_weight(metrics: Metrics, key: str) -> float:
    """A device's aggregation weight from its metrics.

    Raises
    ------
    BadPayload
        If it is missing, not a number, or not positive and at most :data:`LARGEST_WEIGHT`.
    """
    value = metrics.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadPayload(f"metric {key!r}, the aggregation weight, is {shown(value)}, expected a number", "weight")
    if not 0 < value <= LARGEST_WEIGHT:
        expected = f"expected a positive number, at most {LARGEST_WEIGHT:g}"
        raise BadPayload(f"metric {key!r}, the aggregation weight, is {shown(value)}, {expected}", "weight")
    return float(value)


def read_metrics(reply: Message, wanted: Mapping[str, int] | None = None, *, finite: bool = True) -> Metrics:
    """What a device says in numbers, all of them finite but for those in `wanted`, which may be infinite.

    Parameters
    ----------
    reply : Message
        With at most one record of metrics; a device that has none says nothing.
    wanted : mapping of str to int, optional
        Metrics that must be there, and how many numbers each holds.
    finite : bool
        Whether the others must be finite, and few.

    Raises
    ------
    BadPayload
        If there are several records, too many numbers, or one that is none.
    """
    records = records_in(reply.content, MetricRecord)
    if len(records) > 1:
        raise BadPayload(f"{len(records)} records of metrics, expected one", "metrics")
    metrics = dict(next(iter(records.values()), {}))
    wanted = wanted or {}
    check_scalars(metrics, wanted)
    others = {name: value for name, value in metrics.items() if name not in wanted}
    count = sum(len(value) if isinstance(value, list) else 1 for value in others.values())
    if finite and count > MOST_METRICS:
        raise BadPayload(f"metrics of {count} numbers, expected at most {MOST_METRICS}", "metrics")
    for name, value in others.items():
        numbers = _as_floats(name, value)
        if finite and not np.isfinite(numbers).all():
            raise BadPayload(f"metric {shown(name)} is {shown(value)}, expected finite numbers", "metrics")
    return metrics


def check_scalars(metrics: Metrics, wanted: Mapping[str, int]) -> None:
    """See that metrics hold the numbers asked for, so many of each; infinity is one, NaN is none.

    Raises
    ------
    BadPayload
        Naming the first that they do not.
    """
    for name, count in wanted.items():
        values = _as_floats(name, metrics.get(name, []))
        if values.size != count or np.isnan(values).any():
            raise BadPayload(f"metric {name!r} is {shown(metrics.get(name))}, expected numbers: {count}", "metrics")


def _as_floats(name: str, value: object) -> NDArray[np.float64]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (OverflowError, ValueError, TypeError) as error:
        raise BadPayload(f"metric {shown(name)} is {shown(value)}: {error}", "metrics") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
