"""A model as Flower's arrays and as one vector, from one to the other without more than a copy."""

from __future__ import annotations

import math
import struct
from collections.abc import ItemsView, Iterator, KeysView, ValuesView

import numpy as np
from flwr.app import Array, ArrayRecord

from channel.layout import Layout
from strategies.mean_exchange import Vector

MAGIC_BYTES = 10
"""Of NumPy's format 1.0 before its header: magic, version, and the header's length in two bytes."""


class ModelForm:
    """How a model lies in the arrays of a record.

    Flower's arrays are NumPy files in memory. Writing and parsing their headers costs more than all else where models
    are small, and they are the same for every model of a run: they are taken from the first one. Arrays that are not
    floating-point keep its values.

    Parameters
    ----------
    record : ArrayRecord
        Any model of that form.
    """

    def __init__(self, record: ArrayRecord) -> None:
        self.template = record
        self.layout = Layout.of_arrays({name: array.numpy() for name, array in record.items()})
        self._heads = {name: _head(record[name]) for name in self.layout.names}
        self._sizes = self.layout.sizes

    def pack(self, flat: Vector) -> ArrayRecord:
        """The vector of shape (d,) as a record."""
        packed = dict(self.template.items())
        offset = 0
        layout = self.layout
        for name, size, shape, dtype in zip(layout.names, self._sizes, layout.shapes, layout.dtypes, strict=True):
            numbers = flat[offset : offset + size].astype(dtype, copy=False)
            data = self._heads[name] + numbers.tobytes()
            packed[name] = Array(dtype=dtype, shape=shape, stype=self.template[name].stype, data=data)
            offset += size
        return ArrayRecord(packed)

    def like(self, other: ModelForm) -> bool:
        """Whether arrays of both have the same names, shapes and types."""
        return self.layout == other.layout

    def unpack(self, record: ArrayRecord) -> Vector | None:
        """The record as a vector of shape (d,); None if any of its arrays is not, to the byte, of this form."""
        flat = np.empty(self.layout.size, self.layout.dtype)
        offset = 0
        for name, size, dtype in zip(self.layout.names, self._sizes, self.layout.dtypes, strict=True):
            array, head = record.get(name), self._heads[name]
            numbers = np.dtype(dtype)
            if array is None or array.stype != self.template[name].stype:
                return None
            if len(array.data) != len(head) + size * numbers.itemsize or not array.data.startswith(head):
                return None
            flat[offset : offset + size] = np.frombuffer(array.data, numbers, offset=len(head))
            offset += size
        return flat


class FlatModel(ArrayRecord):
    """A record of a model at hand as a vector: its arrays are made when somebody looks at them.

    For messages within one process, where often nobody does. It cannot be sent over a network.

    Parameters
    ----------
    form : ModelForm
        How the model would lie in arrays.
    flat : ndarray of shape (d,)
        The model; not to be changed any more.
    """

    def __init__(self, form: ModelForm, flat: Vector) -> None:
        super().__init__()
        self.__dict__["form"], self.__dict__["flat"] = form, flat

    def _arrays(self) -> dict[str, Array]:
        arrays: dict[str, Array] = self.__dict__["_data"]
        if not arrays:
            arrays.update(self.__dict__["form"].pack(self.__dict__["flat"]).items())
        return arrays

    def __getitem__(self, name: str) -> Array:
        """The array of this name."""
        return self._arrays()[name]

    def __iter__(self) -> Iterator[str]:
        """The arrays' names."""
        return iter(self._arrays())

    def __len__(self) -> int:
        """How many arrays there are."""
        return len(self._arrays())

    def __contains__(self, name: object) -> bool:
        """Whether there is an array of this name."""
        return name in self._arrays()

    def __eq__(self, other: object) -> bool:
        """Whether the arrays are the same."""
        self._arrays()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> ArrayRecord:  # type: ignore[override]
        """The same arrays in a record of the usual kind."""
        return ArrayRecord(self._arrays())

    def keys(self) -> KeysView[str]:
        """The arrays' names."""
        return self._arrays().keys()

    def values(self) -> ValuesView[Array]:
        """The arrays."""
        return self._arrays().values()

    def items(self) -> ItemsView[str, Array]:
        """The arrays by name."""
        return self._arrays().items()


def flat_of(record: ArrayRecord, form: ModelForm) -> Vector | None:
    """The model of a record of this form as a vector of shape (d,), not to be changed; None if it is of another."""
    if isinstance(record, FlatModel) and (record.__dict__["form"] is form or record.__dict__["form"].like(form)):
        flat: Vector = record.__dict__["flat"]
        return flat
    return form.unpack(record)


def bits_of(record: ArrayRecord) -> int:
    """Bits of the numbers in a record."""
    arrays = record.__dict__["form"].template if isinstance(record, FlatModel) else record
    return sum(8 * np.dtype(array.dtype).itemsize * math.prod(array.shape) for array in arrays.values())


def _head(array: Array) -> bytes:
    """What comes before an array's numbers."""
    (length,) = struct.unpack("<H", array.data[8:MAGIC_BYTES])
    return bytes(array.data[: MAGIC_BYTES + length])
