"""How a command ends: its exit code, and what it says on stderr, warnings on its way included."""

from __future__ import annotations

import sys
import warnings

BAD_INPUT, FAILURE = 2, 1


def say(message: str) -> None:
    """Say why, on stderr."""
    print(f"fedmac: {message}", file=sys.stderr)


def say_warnings() -> None:
    """Say warnings to users in a line as well, without the place in the code; others stay as Python shows them."""
    warnings.formatwarning = _in_a_line


def _in_a_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is UserWarning:
        return f"fedmac: warning: {message}\n"
    return _as_python(message, category, filename, lineno, line)


_as_python = warnings.formatwarning
