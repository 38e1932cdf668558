"""Arrays that are costly to make, kept for the process and on disk.

A deployment starts a new client process for every message, so what one process has read or partitioned must
be there, ready, for the next. Nothing depends on it: an unwritable or damaged cache only costs time.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

_MEMORY_ENTRIES = 16
_memory: dict[str, dict[str, np.ndarray]] = {}


def cache_folder() -> Path | None:
    """``$FEDMAC_CACHE``, else ``$XDG_CACHE_HOME/fedmac`` (default ``~/.cache/fedmac``), else ``$FLWR_HOME/cache``.

    None where none of them is set and the user has no home folder, as that of a service may not.
    """
    if chosen := os.environ.get("FEDMAC_CACHE"):
        return Path(chosen)
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():  # the XDG specification says to ignore relative paths
        return Path(named) / "fedmac"
    try:
        return Path.home() / ".cache" / "fedmac"
    except RuntimeError:
        home = os.environ.get("FLWR_HOME")
        return Path(home) / "cache" if home else None


def cached(name: str, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays called ``name``: from this process, else from disk, else from ``make()``.

    Parameters
    ----------
    name : str
        File name without its ending. It must change whenever the content would.
    make : callable
        Makes the arrays; none may have dtype object, because nothing here is pickled.

    Returns
    -------
    dict of str to numpy.ndarray
        Read-only arrays, shared by all callers in the process.
    """
    if name not in _memory:
        arrays = _read(name)
        if arrays is None:
            arrays = dict(make())
            _write(name, arrays)
        for array in arrays.values():
            array.setflags(write=False)
        while len(_memory) >= _MEMORY_ENTRIES:
            _memory.pop(next(iter(_memory)))
        _memory[name] = arrays
    return _memory[name]


def forget() -> None:
    """Drop what this process remembers; files stay."""
    _memory.clear()


def _read(name: str) -> dict[str, np.ndarray] | None:
    folder = cache_folder()
    if folder is None:
        return None
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None  # absent, unreadable or damaged: made anew and written over


def _write(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write beside the final name and rename, so that no reader ever sees half a file."""
    folder = cache_folder()
    if folder is None:
        return
    part: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
            part = Path(file.name)
            np.savez(file, allow_pickle=False, **dict(arrays))
        part.replace(folder / f"{name}.npz")
    except OSError:  # read-only or full disk: the next process makes the arrays again
        if part is not None:
            part.unlink(missing_ok=True)
