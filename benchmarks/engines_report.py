"""What ``engines.py`` has found, as markdown and as JSON: figures, ratios to the local engine, and the targets."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

ENGINES = {
    "local-1": "FedMAC local, 1 worker",
    "local-2": "FedMAC local, 2 workers",
    "local-1-batches": "FedMAC local, 1 worker, devices in batches",
    "local-cuda": "FedMAC local, GPU, devices one by one",
    "local-cuda-batches": "FedMAC local, GPU, devices in batches",
    "bare": "bare PyTorch loop, 1 process",
    "pfl": "pfl-research, 1 process",
    "flower": "Flower's engine, plain Flower app, 2 clients at a time",
    "fedmac-flower": "Flower's engine, FedMAC's app, 2 clients at a time",
}
UPLINKS = {"ideal": "ideal", "rlc": "RLC, Rayleigh"}
REFERENCES = ("local-1", "local-2")
BATCHES = {"local-1-batches": "local-1", "local-cuda-batches": "local-cuda"}
"""Engines that train devices in batches, and the same that trains them one by one."""


@dataclass
class Timing:
    """Seconds of the timed rounds of one engine, uplink and number of devices; or why there are none."""

    engine: str
    uplink: str
    devices: int
    seconds: list[float] = field(default_factory=list)
    failure: str = ""

    @property
    def title(self) -> str:
        """What a reader calls it."""
        return f"{ENGINES[self.engine]}, {UPLINKS[self.uplink]}, {self.devices} devices"

    @property
    def median(self) -> float:
        """Median of the timed rounds in s."""
        return median(self.seconds)


@dataclass(frozen=True)
class Memory:
    """Peak PSS in bytes of the local engine with 2 workers: the main process and its workers."""

    uplink: str
    devices: int
    peak_bytes: int


@dataclass(frozen=True)
class Target:
    """A bound on a figure: ``at least`` or ``at most``; ``measured`` is None where a part of it is missing."""

    what: str
    sense: str
    bound: float
    measured: float | None
    unit: str = "x"

    @property
    def verdict(self) -> str:
        """Whether it is met."""
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.bound if self.sense == "at least" else self.measured <= self.bound
        return "met" if met else "missed"


def targets(timings: Iterable[Timing], memory: Iterable[Memory]) -> list[Target]:
    """The project's targets for two cores, each with what was measured."""
    medians = {(t.engine, t.uplink, t.devices): t.median for t in timings if t.seconds}

    def ratio(over: tuple[str, str, int], under: tuple[str, str, int]) -> float | None:
        return medians[over] / medians[under] if over in medians and under in medians else None

    found = []
    for engine, reference, devices, bound in (
        ("flower", "local-2", 100, 8.0),
        ("flower", "local-2", 1000, 30.0),
        ("pfl", "local-1", 100, 2.0),
        ("pfl", "local-2", 100, 3.5),
    ):
        measured = ratio((engine, "ideal", devices), (reference, "ideal", devices))
        what = f"{ENGINES[engine].split(',')[0]} / {ENGINES[reference]}, {devices} devices"
        found.append(Target(what, "at least", bound, measured))
    for reference in REFERENCES:
        for devices in (100, 1000):
            measured = ratio((reference, "rlc", devices), (reference, "ideal", devices))
            what = f"{UPLINKS['rlc']} / ideal, {ENGINES[reference]}, {devices} devices"
            found.append(Target(what, "at most", 1.25, measured))
    peaks = {m.uplink: m.peak_bytes / 1e6 for m in memory if m.devices == 1000}
    for uplink, name in UPLINKS.items():
        found.append(Target(f"memory, {name}, 1000 devices", "at most", 600.0, peaks.get(uplink), "MB"))
    return found


def batching(timings: Iterable[Timing]) -> list[tuple[Timing, Timing]]:
    """What was timed both with devices in batches and one by one: pairs of the two."""
    found = {(t.engine, t.uplink, t.devices): t for t in timings if t.seconds}
    pairs = [
        (many, found.get((BATCHES[engine], uplink, devices)))
        for (engine, uplink, devices), many in found.items()
        if engine in BATCHES
    ]
    return [(many, one) for many, one in pairs if one is not None]


def environment() -> dict[str, Any]:
    """The machine, its load at this moment and the versions that matter."""
    packages = ("torch", "flwr", "ray", "numpy", "scipy", "cvxpy")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average_1_min": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: found for name in packages if (found := _version(name))},
    }


def render(facts: dict[str, Any], timings: Sequence[Timing], memory: Sequence[Memory]) -> str:
    """Everything as markdown: the machine, the table of timings, memory, and the targets."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        "MLP 784-128-10 (101,770 parameters), batches of 10, one local epoch, every device in every round.",
        f"{facts['processor']}, {facts['cores']} cores, load {facts['load_average_1_min']:.2f} at the start; "
        f"Python {facts['python']}, {versions}; {facts['started']}.",
        "",
        "| devices | uplink | engine | s per round (median) | fastest | rounds | / local, 1 worker | / local, 2 |",
        "|---:|---|---|---:|---:|---:|---:|---:|",
        *(_row(timing, timings) for timing in timings),
        "",
    ]
    if gains := batching(timings):
        lines += ["| devices in batches : one by one | uplink | devices | s a round | ratio |"]
        lines += ["|---|---|---:|---:|---:|"]
        for many, one in gains:
            figures = f"{many.median:.3g} : {one.median:.3g} | {many.median / one.median:.3g}"
            lines.append(f"| {ENGINES[one.engine]} | {UPLINKS[one.uplink]} | {one.devices:,} | {figures} |")
        lines.append("")
    if memory:
        lines += ["| memory of the local engine, 2 workers | devices | peak PSS (MB) |", "|---|---:|---:|"]
        lines += [f"| {UPLINKS[m.uplink]} | {m.devices:,} | {m.peak_bytes / 1e6:.0f} |" for m in memory]
        lines.append("")
    lines += ["| target on two cores | wanted | measured | |", "|---|---|---:|---|"]
    for t in targets(timings, memory):
        measured = "-" if t.measured is None else f"{t.measured:.3g} {t.unit}"
        lines.append(f"| {t.what} | {t.sense} {t.bound:g} {t.unit} | {measured} | {t.verdict} |")
    return "\n".join(lines)


def as_json(facts: dict[str, Any], timings: Sequence[Timing], memory: Sequence[Memory]) -> dict[str, Any]:
    """Everything as plain data, with each timed round."""
    return {
        "environment": facts,
        "timings": [asdict(t) | {"median": t.median if t.seconds else None} for t in timings],
        "memory": [asdict(m) for m in memory],
        "targets": [asdict(t) | {"verdict": t.verdict} for t in targets(timings, memory)],
    }


def _row(timing: Timing, timings: Sequence[Timing]) -> str:
    start = f"| {timing.devices:,} | {UPLINKS[timing.uplink]} | {ENGINES[timing.engine]} |"
    if not timing.seconds:
        return f"{start} failed | | | | |"
    ratios = []
    for reference in REFERENCES:
        wanted = (reference, timing.uplink, timing.devices)
        found = [t.median for t in timings if (t.engine, t.uplink, t.devices) == wanted and t.seconds]
        ratios.append(f"{timing.median / found[0]:.3g}" if found else "-")
    figures = [f"{timing.median:.3g}", f"{min(timing.seconds):.3g}", str(len(timing.seconds)), *ratios]
    return f"{start} {' | '.join(figures)} |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:  # importlib.metadata's PackageNotFoundError is one
        return None
