"""A file with a device's own rows, for devices that hold data which the scenario's source has not."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from clients.data import Split
from clients.own_rows import OwnRows, mapped, rows_name

ENDINGS = (".npz", ".csv")


def rows_of_file(path: Path, number: int, classes: int | None = None, dtype: torch.dtype = torch.float32) -> OwnRows:
    """The rows in `path`, mapped into memory after the first time.

    Parameters
    ----------
    path : Path
        A NumPy archive ``.npz`` with the arrays ``inputs``, shape (n, ...), and ``targets``, shape (n,), and if wanted
        the number ``classes``; or a table ``.csv`` of numbers, of which the last column is the target, with or without
        a line of names. Inputs are used as they are: on the scale that the whole federation uses.
    number : int
        Of the device.
    classes : int, optional
        Number of classes that the federation tells apart; of the archive if not given, else one more than the largest
        target here, which is too few where this device has not seen them all.
    dtype : torch.dtype
        Floating-point type of the inputs.

    Raises
    ------
    ValueError
        If the file cannot be read, or does not hold rows of finite inputs with a class each.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f'node_config data = "{path}": accepted: a file that ends in {" or ".join(ENDINGS)}')
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f'node_config data = "{path}": {error.strerror}; accepted: a file of this device') from error
    name = rows_name(str(path.absolute()), stat.st_mtime_ns, stat.st_size, str(dtype), classes)
    return mapped(name, number, lambda: _read(path, classes, dtype))


def _read(path: Path, classes: int | None, dtype: torch.dtype) -> tuple[Split, int]:
    inputs, targets, said = _archive(path) if path.suffix == ".npz" else _table(path)
    _check(path, inputs, targets)
    most = int(targets.max()) + 1
    count = classes if classes is not None else said if said is not None else most
    if count < most:
        raise ValueError(f'node_config data = "{path}": target {most - 1} is none of {count} classes (from 0)')
    return Split(torch.from_numpy(inputs).to(dtype), torch.from_numpy(targets.astype(np.int64))), count


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray, int | None]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("inputs", "targets", "classes") if name in archive.files}
            classes = int(arrays["classes"]) if "classes" in arrays else None
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _refusal(path, f"cannot be read: {error}") from error
    for name in ("inputs", "targets"):
        if name not in arrays:
            raise _refusal(path, f"has no array {name!r}, but {list(arrays)}")
    return arrays["inputs"], arrays["targets"], classes


def _table(path: Path) -> tuple[np.ndarray, np.ndarray, None]:
    try:
        with path.open() as file:
            first = file.readline()
        table = np.loadtxt(path, delimiter=",", skiprows=0 if _is_numbers(first) else 1, ndmin=2)
    except (OSError, ValueError) as error:
        raise _refusal(path, f"cannot be read: {error}") from error
    if table.shape[1] < 2:
        raise _refusal(path, f"has {table.shape[1]} columns")
    return table[:, :-1], table[:, -1], None


def _is_numbers(line: str) -> bool:
    try:
        return bool([float(word) for word in line.split(",")])
    except ValueError:
        return False


def _check(path: Path, inputs: np.ndarray, targets: np.ndarray) -> None:
    if inputs.ndim < 2 or targets.ndim != 1 or len(inputs) != len(targets) or not len(targets):
        raise _refusal(path, f"has inputs of shape {inputs.shape} and targets of shape {targets.shape}")
    if inputs.dtype.kind not in "biuf" or not np.isfinite(inputs).all():
        raise _refusal(path, f"has inputs of type {inputs.dtype}, or some that are not finite")
    if targets.dtype.kind not in "biuf" or np.any(targets != np.floor(targets)) or targets.min() < 0:
        raise _refusal(path, f"has targets of type {targets.dtype} that are not all classes")


def _refusal(path: Path, found: str) -> ValueError:
    accepted = "inputs (n, ...), finite, and targets (n,), whole numbers >= 0, n >= 1"
    if path.suffix == ".csv":
        accepted = "rows of numbers with commas, inputs first and the class (a whole number >= 0) last"
    return ValueError(f'node_config data = "{path}" {found}; accepted: {accepted}')
