"""Files of recorded channel gains, CSV and NPZ: reading and writing."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.trace_rows import COLUMNS, LEAVE_OUT, REQUIRED, Recording, Rows

Arrays = Mapping[str, NDArray[Any]]
HEADER_LINES = 1


def read_recording(path: Path) -> Recording:
    """Read a trace; see :class:`channel.trace.GainTrace` for what files hold.

    Raises
    ------
    ValueError
        A file of another kind, or a row that cannot be; the message names file and line (CSV) or index (NPZ).
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path).recording()
    _check_ending(path)
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # numpy would speak of pickles
            raise ValueError(f"{path}: cannot be read as NPZ (no zip archive); accepted: named arrays of numbers")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read as NPZ ({error}); accepted: named arrays of numbers") from error
    if "gains" in arrays:
        return _from_gains(arrays, path)
    return _from_columns(arrays, path).recording()


def write_recording(path: Path, gains: ArrayLike, reachable: ArrayLike | None = None) -> None:
    """Write gains as a trace; see :func:`channel.trace.write_trace`."""
    _check_ending(path)
    arrays = {"gains": np.asarray(gains)} | ({} if reachable is None else {"reachable": np.asarray(reachable)})
    recording = _from_gains(arrays, path)
    if path.suffix.lower() == ".csv":
        _write_csv(path, recording)
    else:
        np.savez(path, allow_pickle=False, gains=recording.gains, reachable=recording.reached)


def _check_ending(path: Path) -> None:
    if path.suffix.lower() not in (".csv", ".npz"):
        raise ValueError(f"path is {str(path)!r}; accepted: a gain trace, whose name ends in .csv or .npz")


def _write_csv(path: Path, recording: Recording) -> None:
    import pandas as pd

    for which, reached in (("first", recording.reached[0]), ("last", recording.reached[-1])):
        if not reached.any():
            raise ValueError(
                f"reachable says that nobody was reached in the {which} round, which the rows of {path} cannot; "
                "accepted: a name that ends in .npz"
            )
    by_device = recording.gains.transpose(0, 2, 1, 3)
    places = np.argwhere(np.broadcast_to(recording.reached[:, :, None, None], by_device.shape))
    values = by_device[tuple(places.T)]
    table = {"round": places[:, 0] + 1, "device": places[:, 1], "real": values.real, "imag": values.imag}
    if by_device.shape[2:] != (1, 1):
        table |= {"subband": places[:, 2], "antenna": places[:, 3]}
    pd.DataFrame(table).to_csv(path, index=False, lineterminator="\n")


def _read_csv(path: Path) -> Rows:
    """All columns as numbers, read exactly; blank lines are passed over."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                skipinitialspace=True,
                index_col=False,
                encoding="utf-8-sig",
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as CSV ({error}); accepted: a header {','.join(REQUIRED)}") from error
    table.columns = table.columns.str.strip()
    _check_columns(list(table.columns), path)
    table = table[~table.isin(["", None]).all(axis=1)]
    lines = table.index.to_numpy(dtype=np.int64) + HEADER_LINES + 1
    columns = {}
    for name in table.columns:
        unread = pd.to_numeric(table[name], errors="coerce").isna().to_numpy()
        if unread.any():
            row = int(np.argmax(unread))
            raise ValueError(
                f"{path}, line {lines[row]}: {name} is {table[name].iloc[row]!r}; accepted: a number; {LEAVE_OUT}"
            )
        columns[name] = table[name].to_numpy(dtype=np.str_).astype(np.float64)
    return Rows(columns, lines, "line", str(path))


def _from_columns(arrays: Arrays, path: Path) -> Rows:
    _check_columns(list(arrays), path)
    shape = arrays["round"].shape
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or len(shape) != 1 or array.shape != shape:
            raise ValueError(
                f"{path}: {name} has shape {array.shape} and type {array.dtype}; accepted: real numbers, all arrays of "
                f"one length (round has shape {shape})"
            )
    columns = {name: array.astype(np.float64) for name, array in arrays.items()}
    return Rows(columns, np.arange(shape[0], dtype=np.int64), "index", str(path))


def _check_columns(names: list[str], path: Path) -> None:
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if missing or unknown:
        raise ValueError(
            f"{path}: has {', '.join(names) or 'nothing'} (missing: {', '.join(missing) or 'none'}; unknown: "
            f"{', '.join(unknown) or 'none'}); accepted: {', '.join(REQUIRED)}, and if need be subband and antenna"
        )


def _from_gains(arrays: Arrays, path: Path) -> Recording:
    """``gains`` of shape (R, N) or (R, S, N, M), and ``reachable`` of shape (R, N)."""
    unknown = [name for name in arrays if name not in ("gains", "reachable")]
    given = arrays["gains"]
    if unknown:
        raise ValueError(f"{path}: has gains and {', '.join(unknown)}; accepted: gains, and if need be reachable")
    if given.ndim not in (2, 4) or given.size == 0 or given.dtype.kind not in "fc":
        raise ValueError(
            f"{path}: gains has shape {given.shape} and type {given.dtype}; accepted: complex numbers of shape "
            "(rounds, devices) or (rounds, subbands, devices, antennas)"
        )
    gains = given.astype(np.complex128)
    gains = gains[:, None, :, None] if gains.ndim == 2 else gains
    ids = (gains.shape[0], gains.shape[2])
    reached = np.asarray(arrays.get("reachable", np.ones(ids, dtype=np.bool_)))
    if reached.shape != ids or reached.dtype != np.bool_:
        raise ValueError(f"{path}: reachable has shape {reached.shape} and type {reached.dtype}; accepted: bool {ids}")
    gains = np.where(reached[:, None, :, None], gains, 0.0)
    bad = np.argwhere(reached[:, None, :, None] & ~(np.isfinite(gains) & (gains != 0)))
    if len(bad):
        index = tuple(int(i) for i in bad[0])
        shown = index if given.ndim == 4 else (index[0], index[2])
        raise ValueError(
            f"{path}, index {shown}: gain is {gains[index]}; accepted: a finite number other than 0; where a device "
            "could not be reached, reachable[round, device] is False"
        )
    return Recording(gains, reached, 0, str(path))
