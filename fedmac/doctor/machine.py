"""The machine: cores, GPU, memory, disk, and folders that can be written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from clients.disk_cache import cache_folder
from fedmac.doctor.finding import Finding, Level, graded

GIGABYTE = 10**9
_CGROUP = Path("/sys/fs/cgroup")


def machine(folder: Path) -> Iterator[Finding]:
    """What there is to compute with, and room in `folder`, where runs go."""
    yield _processors()
    yield _gpu()
    yield _memory()
    yield disk(folder)
    yield writable("runs folder", folder / "runs", "run from another folder, or with --out")
    cache = cache_folder()
    if cache is None:
        yield Finding(
            "warning", "cache", "no home folder", "set XDG_CACHE_HOME, or data is prepared anew in each process"
        )
    else:
        yield writable("cache", cache, "set XDG_CACHE_HOME to a folder that can be written", "warning")


def _processors() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = os.environ.get("OMP_NUM_THREADS")
    threads = f"OMP_NUM_THREADS = {said}" if said else "OMP_NUM_THREADS is not set"
    return Finding("ok", "processor", f"{usable} of {os.cpu_count()} cores may be used; {threads}")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("ok", "GPU", 'none that torch can use; training.device = "auto" means cpu')
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Finding("ok", "GPU", ", ".join(names))


def _memory() -> Finding:
    free = memory_available()
    if free is None:
        return Finding("ok", "memory", "unknown on this system")
    level = graded(free, 0.5 * GIGABYTE, 2 * GIGABYTE)
    advice = "" if level == "ok" else "end other programs, or run with fewer --workers"
    return Finding(level, "memory", f"{free / GIGABYTE:.1f} GB available", advice)


def memory_available() -> int | None:
    """Bytes that processes may still take, within the limit of a container; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))


def disk(folder: Path) -> Finding:
    """Room on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    level = graded(free, 0.2 * GIGABYTE, 2 * GIGABYTE)
    advice = "" if level == "ok" else "delete what is not needed, or run with --out on another disk"
    return Finding(level, "disk", f"{free / GIGABYTE:.1f} GB free at {folder}", advice)


def writable(about: str, folder: Path, advice: str, level: Level = "problem") -> Finding:
    """Whether files can be made in a folder, or in the nearest one above it that is there."""
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        return Finding(level, about, f"{folder} cannot be written ({error.strerror})", advice)
    return Finding("ok", about, f"{folder} can be written")
