"""What a test says of a command: how it ended, and what it showed. The fixture `fedmac` in `conftest` runs one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def narrow(text: str, columns: int = 80) -> bool:
    """Whether text fits into so many columns."""
    return all(len(line.rstrip()) <= columns for line in text.splitlines())


def one_line(text: str) -> str:
    """Text without the line breaks and boxes that a narrow terminal needs."""
    return re.sub(r"[│\s]+", " ", text)


def drawn(text: str) -> str:
    """Text without a terminal's control sequences: colours, and where to draw."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
