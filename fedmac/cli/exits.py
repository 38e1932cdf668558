"""How a command ends: its exit code, and what it says on stderr."""

from __future__ import annotations

import sys

BAD_INPUT, FAILURE = 2, 1


def say(message: str) -> None:
    """Say why, on stderr."""
    print(f"fedmac: {message}", file=sys.stderr)
