"""Imported by Python itself when it is up: notes the time, and how long importing torch takes.

Times are seconds since the machine started, as the kernel's are, which says when the process began.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def now() -> float:
    """Seconds since the machine started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _began() -> float:
    """When the kernel started this process."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


class TorchTimer(MetaPathFinder):
    """Adds the time that importing torch takes to ``SPENT``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find torch where it is, with a loader that takes its time."""
        if name != "torch":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def timed(module: ModuleType) -> None:
            start = now()
            load(module)
            SPENT["torch"] = now() - start

        spec.loader.exec_module = timed  # type: ignore[method-assign]
        return spec


BEGAN, UP = _began(), now()
SPENT = {"torch": 0.0}

if Path(sys.argv[0]).name == "flwr-clientapp" or "flwr-clientapp" in " ".join(sys.orig_argv):
    sys.meta_path.insert(0, TorchTimer())
