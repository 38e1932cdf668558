"""A tree of values in one safetensors file: arrays as tensors, everything else as JSON in the file's metadata."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.memory import CannotBeKept
from fedmac.record import put_in_place

Arrays = dict[str, NDArray[Any]]

ARRAY, SCALAR, BYTES, TUPLE = "$array", "$scalar", "$bytes", "$tuple"
"""Keys of the JSON objects that stand for what JSON does not have."""

MARKS = (ARRAY, SCALAR, BYTES, TUPLE)
PLAIN = frozenset({type(None), bool, int, float, str})
KINDS = (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
"""Types of array that a file holds."""
DTYPES = frozenset(map(np.dtype, KINDS))


class StateFileError(ValueError):
    """A file that holds no tree, or one that is damaged; the message names it and says what is wrong."""


def write_state(path: Path, tree: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write a tree so that a crash leaves the old file or the new one.

    Nothing is rounded: numbers come back with all their bits, NumPy scalars as NumPy scalars, tuples as tuples.

    Parameters
    ----------
    path : Path
        The file; its folder is there.
    tree : mapping
        Dicts (keys are texts), lists and tuples of None, booleans, numbers, texts, bytes, NumPy scalars and arrays.
    sync : bool, default True
        Wait until it is on the disk. Without, what a power failure leaves may be damaged; a crash of the program does
        no harm.

    Raises
    ------
    CannotBeKept
        If the tree holds anything else; the message names the path in it.
    RecordError
        If the file cannot be written; the old one stays.
    """
    from safetensors.numpy import save

    arrays: Arrays = {}
    text = json.dumps(_encoded(tree, "", arrays), separators=(",", ":"))
    content = save(arrays, {"tree": text, "crc32": str(_checksum(text, arrays))})
    with put_in_place(path) as part, part.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def read_state(path: Path) -> dict[str, Any]:
    """Read what :func:`write_state` has written.

    Raises
    ------
    StateFileError
        If it is not such a file, or damaged.
    OSError
        If it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 the file is no mapping
    except SafetensorError as error:
        raise StateFileError(f"{path}: not a whole safetensors file: {error}") from None
    if not {"tree", "crc32"} <= metadata.keys():
        raise StateFileError(f"{path}: a safetensors file without a tree of values")
    if metadata["crc32"] != str(_checksum(metadata["tree"], arrays)):
        raise StateFileError(f"{path}: damaged: its checksum is not that of its content")
    tree: dict[str, Any] = _decoded(json.loads(metadata["tree"]), arrays)
    return tree


def _checksum(text: str, arrays: Arrays) -> int:
    checksum = zlib.crc32(text.encode())
    for name, array in sorted(arrays.items()):
        checksum = zlib.crc32(f"{name}{array.dtype}{array.shape}".encode(), checksum)
        checksum = zlib.crc32(array.reshape(-1).view(np.uint8).data, checksum)
    return checksum


def _encoded(value: Any, path: str, arrays: Arrays) -> Any:
    """The value as JSON; its arrays go to `arrays`."""
    if type(value) in PLAIN:  # by far the most, and isinstance takes its time
        return value
    if isinstance(value, np.generic):  # before float, which float64 is: what is computed from it has its type
        return {SCALAR: _put(np.asarray(value), path, arrays)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return {ARRAY: _put(value, path, arrays)}
    if isinstance(value, bytes):
        return {BYTES: _put(np.frombuffer(value, np.uint8), path, arrays)}
    if isinstance(value, list | tuple):
        items = [_encoded(item, f"{path}[{number}]", arrays) for number, item in enumerate(value)]
        return items if isinstance(value, list) else {TUPLE: items}
    if isinstance(value, Mapping) and all(isinstance(key, str) and key not in MARKS for key in value):
        return {key: _encoded(item, f"{path}.{key}" if path else key, arrays) for key, item in value.items()}
    raise CannotBeKept(
        f"{path or 'the tree'}: {_described(value)}; accepted: None, booleans, numbers, texts, bytes, NumPy arrays, "
        "and lists and dicts (with texts for keys) of those"
    )


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        wrong = next(key for key in value if not isinstance(key, str) or key in MARKS)
        return f"a {type(value).__name__} with the key {wrong!r}"
    return f"a {type(value).__name__}"


def _put(array: NDArray[Any], path: str, arrays: Arrays) -> str:
    if array.dtype not in DTYPES:  # one of another byte order is none of these
        raise CannotBeKept(f"{path}: an array of {array.dtype.str}; accepted: {', '.join(KINDS)}")
    name = path
    while name in arrays:  # a key may have a dot in it
        name += "'"
    arrays[name] = np.asarray(array, order="C")
    return name


def _decoded(value: Any, arrays: Arrays) -> Any:
    if isinstance(value, list):
        return [_decoded(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (key, held), *_ = value.items()
        if key == ARRAY:
            return arrays[held]
        if key == SCALAR:
            return arrays[held][()]
        if key == BYTES:
            return arrays[held].tobytes()
        if key == TUPLE:
            return tuple(_decoded(item, arrays) for item in held)
    return {key: _decoded(item, arrays) for key, item in value.items()}
