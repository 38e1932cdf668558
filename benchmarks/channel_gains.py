"""Milliseconds to draw the gains of all devices for a round from 3GPP channels, on one core.

usage: python benchmarks/channel_gains.py [--devices 100,1000] [--repeats 5] [--subbands 1] [--antennas 1]

Every environment of ``channel.three_gpp.ENVIRONMENTS`` and both kinds of delay line, one thread. *First round*: a new
large-scale state, with everything after Sionna's import and its first use. *Next round*: one that shares the state.
*Again*: the same round asked for once more. Times are the processor's (what a quiet core would take); the wall's of the
first round are beside them. The sources take turns, each time with another seed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from engines_report import Target, environment
from threadpoolctl import threadpool_limits

from channel.three_gpp import ENVIRONMENTS, DelayLine, ThreeGPPCell

TARGET_DEVICES, TARGET_MS = 1000, 1000.0
"""Gains of 1,000 devices for a round, on one core."""


@dataclass
class Subject:
    """A source with a number of devices, and the seconds it took, of the processor and of the wall."""

    source: ThreeGPPCell | DelayLine
    devices: int
    first: list[tuple[float, float]] = field(default_factory=list)
    following: list[tuple[float, float]] = field(default_factory=list)
    again: list[tuple[float, float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What a reader calls it."""
        model = f"-{self.source.model}" if isinstance(self.source, DelayLine) else ""
        return f"{self.source.kind}{model}, {self.devices} devices"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="100,1000", help="numbers of devices, with commas between them")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns")
    parser.add_argument("--subbands", type=int, default=1)
    parser.add_argument("--antennas", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts = environment()
    subjects = [
        Subject(source, int(devices))
        for devices in arguments.devices.split(",")
        for source in (*map(ThreeGPPCell, ENVIRONMENTS), *map(DelayLine, ("tdl", "cdl")))
    ]
    with threadpool_limits(1):
        for turn in range(arguments.repeats + 1):  # the first is to warm up
            for subject in subjects:
                take_a_turn(subject, turn, arguments.subbands, arguments.antennas, timed=turn > 0)
    print(render(facts, subjects, arguments))


def take_a_turn(subject: Subject, seed: int, subbands: int, antennas: int, *, timed: bool) -> None:
    """Ask for a first round, the next, and the next again; keep the times."""
    for round_, times in ((0, subject.first), (1, subject.following), (1, subject.again)):
        processor, wall = time.process_time(), time.perf_counter()
        gains = subject.source.response(round_, subject.devices, subbands, antennas, seed)
        taken = time.process_time() - processor, time.perf_counter() - wall
        if gains.shape != (subbands, subject.devices, antennas):
            raise RuntimeError(f"{subject.title}: gains of shape {gains.shape}")
        if timed:
            times.append(taken)


def median_ms(times: list[tuple[float, float]], clock: int = 0) -> float:
    """Median in milliseconds; clock 0 is the processor's, 1 the wall's."""
    return 1e3 * statistics.median(pair[clock] for pair in times)


def render(facts: dict[str, Any], subjects: list[Subject], arguments: argparse.Namespace) -> str:
    """Everything as markdown: the machine, the times, and the targets."""
    lines = [
        f"Subbands {arguments.subbands}, antennas {arguments.antennas}; median ms of {arguments.repeats}, one thread.",
        f"{facts['processor']}, load {facts['load_average_1_min']:.2f} at the start; Python {facts['python']}, "
        f"torch {facts['versions']['torch']}, numpy {facts['versions']['numpy']}; {facts['started']}.",
        "",
        "| source | first round | next round | again | first round, wall |",
        "|---|---:|---:|---:|---:|",
    ]
    for s in subjects:
        lines.append(
            f"| {s.title} | {median_ms(s.first):.0f} | {median_ms(s.following):.1f} | {median_ms(s.again):.3f} | "
            f"{median_ms(s.first, 1):.0f} |"
        )
    lines += ["", "| target on one quiet core | at most | measured | |", "|---|---:|---:|---|"]
    for s in subjects:
        if s.devices == TARGET_DEVICES:
            slowest = max(median_ms(s.first), median_ms(s.following))
            target = Target(s.title, "at most", TARGET_MS, slowest, "ms")
            lines.append(f"| {target.what} | {target.bound:g} ms | {slowest:.0f} ms | {target.verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
