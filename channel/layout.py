"""Layout: named arrays as one flat vector, the update that is coded and sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """Which entries of a flat vector belong to which array.

    Only floating-point arrays are part of the vector: parameters and running statistics. Integer buffers (counters)
    are not learned and keep the server's value.

    Parameters
    ----------
    names : tuple of str
        Array names in order.
    shapes : tuple of tuple of int
        Their shapes.
    dtypes : tuple of str
        Their NumPy dtype names.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Layout:
        """Layout of the floating-point arrays in `arrays`, in their order."""
        kept = {name: a for name, a in arrays.items() if np.issubdtype(a.dtype, np.floating)}
        return cls(
            tuple(kept),
            tuple(tuple(a.shape) for a in kept.values()),
            tuple(str(a.dtype) for a in kept.values()),
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each array."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length d of the flat vector."""
        return sum(self.sizes)

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Dtype that holds every array of the vector."""
        return np.result_type(*self.dtypes) if self.dtypes else np.dtype(np.float32)

    def flatten(self, arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.floating]:
        """The arrays as one vector of shape (d,).

        Raises
        ------
        ValueError
            If an array is missing or has another shape; the message names it.
        """
        flat = np.empty(self.size, self.dtype)
        offset = 0
        for name, shape, size in zip(self.names, self.shapes, self.sizes, strict=True):
            array = arrays.get(name)
            if array is None or tuple(array.shape) != shape:
                found = "nothing" if array is None else f"shape {tuple(array.shape)}"
                raise ValueError(f"array {name!r}: expected shape {shape}, found {found}")
            flat[offset : offset + size] = array.reshape(-1)
            offset += size
        return flat

    def unflatten(self, flat: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
        """The vector's entries as named arrays of their own shapes and dtypes."""
        arrays: dict[str, NDArray[np.floating]] = {}
        offset = 0
        for name, shape, size, dtype in zip(self.names, self.shapes, self.sizes, self.dtypes, strict=True):
            arrays[name] = flat[offset : offset + size].reshape(shape).astype(dtype)
            offset += size
        return arrays
