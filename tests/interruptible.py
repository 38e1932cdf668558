"""Commands that Ctrl-C reaches, wherever the tests run: a shell's background jobs inherit an ignored SIGINT."""

from __future__ import annotations

import sys

_HEAR_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


def interruptible(*arguments: str) -> list[str]:
    """The command ``python *arguments``, started with SIGINT at its default; its process id is that of the command."""
    return [sys.executable, "-c", _HEAR_SIGINT, sys.executable, *arguments]
