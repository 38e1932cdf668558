"""Runs, sweeps and comparisons below a folder, found by the files they are known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedmac.record import ENVIRONMENT, ROUNDS, SCENARIO, SUMMARY

SWEEP, COMPARISON = "sweep.toml", "comparison.html"
DEPTH = 8  # folders below the served one; deeper ones are not looked into
RECORD_FILES = frozenset({SCENARIO, ENVIRONMENT, SUMMARY, ROUNDS})


class LeadsOutside(ValueError):
    """A link in a folder leads out of the folder that is served."""


@dataclass(frozen=True)
class Found:
    """What lies below a folder: path relative to it ("" for itself, slashes between names) to where it is.

    Attributes
    ----------
    runs, sweeps
        Folders.
    comparisons
        Pages that `fedmac compare` has written.
    """

    runs: dict[str, Path]
    sweeps: dict[str, Path]
    comparisons: dict[str, Path]


def find(root: Path) -> Found:
    """Look through a folder, at most :data:`DEPTH` levels deep; links to folders and hidden folders are passed by.

    A run folder is one with ``scenario.toml`` and ``environment.json`` in it, a sweep one with ``sweep.toml``, a
    comparison one with ``comparison.html``.
    """
    found = Found({}, {}, {})
    for name, folders, files in os.walk(root):
        folder = Path(name)
        place = folder.relative_to(root)
        key = "" if folder == root else place.as_posix()
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if len(place.parts) < DEPTH else []
        if SWEEP in files:
            found.sweeps[key] = folder
        elif SCENARIO in files and ENVIRONMENT in files:
            found.runs[key] = folder
        if COMPARISON in files:
            found.comparisons[key] = folder / COMPARISON
    return found


def version_of(folder: Path, root: Path) -> str:
    """Return a text that changes whenever a file of the run in `folder` does.

    Raises
    ------
    LeadsOutside
        If one of these files is a link out of `root`: what is not in the folder served is not shown.
    """
    digest = hashlib.sha256()
    for entry in _record_files(folder, root):
        stat = entry.stat()
        digest.update(f"{os.fsencode(entry.path)!r} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return digest.hexdigest()[:16]


def refuse_outside(path: Path, root: Path) -> None:
    """Raise :class:`LeadsOutside` if `path`, all links followed, is not below `root`."""
    if not path.resolve().is_relative_to(root):
        raise LeadsOutside(f"{path.name}: a link that leads out of the folder served; accepted: files within it")


def _record_files(folder: Path, root: Path) -> Iterator[os.DirEntry[str]]:
    """Files that say what a run did: those in its folder, and those of its variants one level below."""
    entries = _listed(folder)
    for home, inside in [(folder, entries), *((Path(e.path), _listed(e.path)) for e in entries if e.is_dir())]:
        for entry in inside:
            model = entry.name.startswith("model") and entry.name.endswith(".safetensors")
            if entry.name in RECORD_FILES or model:
                if entry.is_symlink() or home.is_symlink():
                    refuse_outside(Path(entry.path), root)
                if entry.is_file():
                    yield entry


def _listed(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)
