"""Values between each two devices as a file gives them: one number for all pairs, or a matrix."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator, WithJsonSchema

from fedmac.scenario_errors import shown

ACCEPTED = "a number > 0, or a matrix of them, a row for each device that sends and a column for each that receives"


def _checked(given: Any) -> Any:
    if _is_number(given):
        if 0 < given <= sys.float_info.max:
            return float(given)
    elif isinstance(given, list | tuple) and given and all(isinstance(row, list | tuple) for row in given):
        return tuple(_row(number, row, len(given)) for number, row in enumerate(given))
    raise ValueError(f"= {shown(given)}: accepted: {ACCEPTED}")


def _row(number: int, row: Sequence[Any], devices: int) -> tuple[float, ...]:
    if len(row) != devices:
        raise ValueError(f"= {shown(row)} in row {number}: {len(row)} values; accepted: {devices}, as there are rows")
    for column, value in enumerate(row):
        if column != number and not (_is_number(value) and 0 < value <= sys.float_info.max):
            where = f"from device {number} to device {column}"
            raise ValueError(f"= {shown(value)} {where}: accepted: a number > 0 (anything on the diagonal)")
    return tuple(0.0 if column == number else float(value) for column, value in enumerate(row))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBER = {"type": "number", "exclusiveMinimum": 0}

PairValues = Annotated[
    float | tuple[tuple[float, ...], ...],
    PlainValidator(_checked),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "array", "items": NUMBER}}, NUMBER]}),
]
"""Of a table's key: numbers > 0; the diagonal of a matrix is of no account."""


def between_pairs(given: float | Sequence[Sequence[float]], devices: int) -> NDArray[np.float64]:
    """The values from the row's device to the column's, shape (P, P), infinite on the diagonal.

    Raises
    ------
    ValueError
        If a matrix is of another number of devices.
    """
    values = np.array(given, dtype=np.float64)
    if values.ndim and len(values) != devices:
        raise ValueError(f"= a matrix of {len(values)} devices: accepted: of {devices}, or a number for all pairs")
    values = np.array(np.broadcast_to(values, (devices, devices)))
    np.fill_diagonal(values, math.inf)
    return values
