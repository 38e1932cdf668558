"""Records of one kind among those of a message or of a device's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Record = TypeVar("Record")


def records_in(content: Mapping[str, object], kind: type[Record]) -> dict[str, Record]:
    """The records of `kind` in `content`, by name; to be read, not to be written to.

    For Flower's ``content.array_records`` and its likes, which each make a view that refers to itself: what it shows,
    models and all, then stays in memory until Python's garbage collector happens to come by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}
