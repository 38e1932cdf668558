"""Files that a scenario names: looked for beside it, then in the working directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_KEYS = (("channel", "trace"), ("plan", "pilot"))
"""Tables and keys whose value is a file."""


def found_from(folder: Path | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario's content with the files it names in full, where they exist.

    A run folder keeps the scenario, which then means the same files wherever it is read again. What is not found stays
    as it is, to be refused when it is opened.

    Parameters
    ----------
    folder : Path or None
        Of the scenario file; None for a scenario that is none, whose files are looked for in the working directory.
    content : mapping
        As read; variants are looked through as well.
    """
    found = dict(content)
    for table, key in FILE_KEYS:
        section = found.get(table)
        if isinstance(section, Mapping) and isinstance(section.get(key), str):
            found[table] = dict(section) | {key: _in_full(section[key], folder)}
    variants = found.get("variants")
    if isinstance(variants, list):
        found["variants"] = [found_from(folder, v) if isinstance(v, Mapping) else v for v in variants]
    return found


def _in_full(name: str, folder: Path | None) -> str:
    for place in ([] if folder is None else [folder]) + [Path()]:
        if name and (place / name).is_file():
            return str((place / name).absolute())
    return name
