"""One device's own rows, in a file of their own that the device's processes map into memory.

A deployment starts a process for every message. The first makes the data of the whole federation, to find which rows
are the device's, and keeps those; the processes after it map them and neither read nor import anything else.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clients.data import FederatedData, Split
from clients.disk_cache import cache_folder

_LAYOUT = "own rows, 1"


@dataclass(frozen=True)
class OwnRows(FederatedData):
    """The training rows of one device, and nobody else's.

    Attributes
    ----------
    number : int
        Which device's they are.
    """

    number: int = 0

    @classmethod
    def of(cls, rows: Split, number: int, num_classes: int) -> OwnRows:
        """Device `number` with its `rows`; validation and test are empty."""
        none = Split(rows.inputs[:0], rows.targets[:0])
        held = torch.arange(len(rows))
        shape = tuple(rows.inputs.shape[1:])
        return cls(rows, none, none, [held], num_classes, shape, offsets=(0, len(rows)), number=number)

    def device(self, index: int) -> Split:
        """The rows of device ``index``, which must be the one they are of."""
        if index != self.number:
            raise ValueError(f"device = {index}: only the rows of device {self.number} are here; accepted: that number")
        return super().device(0)


def rows_name(*determined_by: object) -> str:
    """A file name that changes whenever one of the values (of plain types) does that determine the rows."""
    return "rows-" + hashlib.blake2b(repr((_LAYOUT, determined_by)).encode(), digest_size=16).hexdigest()


def kept_rows(name: str, number: int) -> OwnRows | None:
    """The rows of device `number` kept as `name`, mapped into memory; None if there are none, or they are damaged.

    Pages are read when they are used and are private: whoever changes the tensors does not change the file.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        with safe_open(folder / f"{name}.safetensors", framework="pt") as file:
            said = file.metadata() or {}
            rows = Split(file.get_tensor("inputs"), file.get_tensor("targets"))
        if said["checksum"] != _checksum(rows):
            return None
        return OwnRows.of(rows, number, int(said["classes"]))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None  # absent, unreadable or damaged: made anew and written over


def keep_rows(name: str, rows: Split, num_classes: int) -> None:
    """Keep `rows` as `name`, whole or not at all; no one but the user may read the file.

    A disk that is full or read-only is no error: the next process makes the rows again.
    """
    folder = cache_folder()
    if folder is None:
        return
    part: Path | None = None
    tensors = {"inputs": rows.inputs.contiguous(), "targets": rows.targets.contiguous()}
    said = {"classes": str(num_classes), "checksum": _checksum(rows)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, written = tempfile.mkstemp(dir=folder, suffix=".tmp")  # mode 0600
        os.close(descriptor)
        part = Path(written)
        save_file(tensors, part, metadata=said)
        part.replace(folder / f"{name}.safetensors")
    except (OSError, SafetensorError):
        if part is not None:
            part.unlink(missing_ok=True)


def mapped(name: str, number: int, make: Callable[[], tuple[Split, int]]) -> OwnRows:
    """The rows kept as `name`; where there are none, those (with the number of classes) that `make` makes, kept."""
    found = kept_rows(name, number)
    if found is not None:
        return found
    rows, num_classes = make()
    keep_rows(name, rows, num_classes)
    return OwnRows.of(rows, number, num_classes)


def _checksum(rows: Split) -> str:
    inputs = zlib.crc32(rows.inputs.contiguous().numpy().data)
    return f"{zlib.crc32(rows.targets.contiguous().numpy().data, inputs):08x}"
