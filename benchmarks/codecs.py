"""Milliseconds to encode and to decode an update with each codec, on one core.

usage: python benchmarks/codecs.py [--size 1000000] [--repeats 9] [--packing fixed] [--only dithered,qsgd]

Every codec of ``channel.codecs.CODECS``, of a float32 update with heavy tails, one thread. The codecs take turns, so
that a busy machine is busy for all of them. Times are the processor's (what a quiet core would take); the wall's are
beside them, and the ratio is that of medians within this run, to dithered quantisation at its defaults.
"""

from __future__ import annotations

import argparse
import inspect
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from engines_report import Target, environment
from threadpoolctl import threadpool_limits
from torch import Tensor

from channel.codecs import CODECS, Codec, Packet

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "dithered": [{"levels": 1}, {"levels": 3}, {"levels": 0.5}],
    "qsgd": [{"levels": 1}, {"levels": 3}],
    "compressive": [{"ratio": 0.25, "levels": 1}, {"ratio": 1, "levels": 1}],
    "eden": [{"bits": 1}, {"bits": 2}, {"bits": 0.5}],
    "rotated-dithered": [{"bits": 2}],
    "top-k": [{"fraction": 0.01}, {"fraction": 0.1}],
    "rand-k": [{"fraction": 0.01}, {"fraction": 0.1}],
}
"""What to measure of a codec; of others, its defaults."""

TARGETS_MS = {"dithered": 25.0, "qsgd": 25.0, "compressive": 80.0, "eden": 80.0}
"""Encoding and decoding of 1,000,000 float32 on one core, without entropy coding: rotated dithering always has it."""
TARGET_SIZE = 1_000_000


@dataclass
class Subject:
    """A codec with its parameters, and the seconds that it took: of the processor and of the wall."""

    codec: Codec
    parameters: dict[str, Any]
    bits: int = 0
    encoding: list[tuple[float, float]] = field(default_factory=list)
    decoding: list[tuple[float, float]] = field(default_factory=list)

    @property
    def title(self) -> str:
        """As a constructor would have it."""
        return f"{self.codec.name}({', '.join(f'{name}={value}' for name, value in self.parameters.items())})"

    def median_ms(self, times: list[tuple[float, float]], clock: int = 0) -> float:
        """Median in milliseconds; clock 0 is the processor's, 1 the wall's."""
        return 1e3 * statistics.median(pair[clock] for pair in times)

    @property
    def total_ms(self) -> float:
        """Median to encode and to decode, processor."""
        return self.median_ms(self.encoding) + self.median_ms(self.decoding)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=TARGET_SIZE, help="entries of the update")
    parser.add_argument("--repeats", type=int, default=9, help="timed turns")
    parser.add_argument("--packing", choices=["fixed", "entropy"], default="fixed")
    parser.add_argument("--only", default="", help="names of codecs, with commas between them; all if empty")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name] or list(CODECS)
    for name in names:
        if name not in CODECS:
            parser.error(f"--only: {name!r}: accepted: {', '.join(CODECS)}")
    torch.set_num_threads(1)
    facts = environment()
    update = heavy_tailed(arguments.size)
    subjects = [
        Subject(CODECS[name](**parameters), parameters) for name in names for parameters in PARAMETERS.get(name, [{}])
    ]
    with threadpool_limits(1):
        for turn in range(arguments.repeats + 1):  # the first is to warm up
            for subject in subjects:
                take_a_turn(subject, update, arguments.packing, timed=turn > 0)
    print(render(facts, subjects, arguments))


def heavy_tailed(size: int) -> Tensor:
    """Student's t with four degrees of freedom, each 256 entries with a scale of their own."""
    random = np.random.default_rng(0)
    scales = np.exp(random.standard_normal(math.ceil(size / 256))).repeat(256)[:size]
    return torch.from_numpy((random.standard_t(4, size) * scales).astype(np.float32))


def take_a_turn(subject: Subject, update: Tensor, packing: Any, *, timed: bool) -> None:
    """Encode and decode once, and keep the times."""
    codec = subject.codec
    known: dict[str, Any] = {}
    if "side_information" in inspect.signature(codec.decode).parameters:
        known["side_information"] = 0.9 * update
    packet, encoding = clocked(lambda: codec.encode(update, seed=1, packing=packing))
    decoded, decoding = clocked(lambda: codec.decode(packet, seed=1, **known))
    if decoded.shape != update.shape:
        raise RuntimeError(f"{subject.title}: decoded {tuple(decoded.shape)}; expected {tuple(update.shape)}")
    subject.bits = packet.bits
    if timed:
        subject.encoding.append(encoding)
        subject.decoding.append(decoding)


def clocked(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What the work gives, and the seconds it took: of the processor and of the wall."""
    processor, wall = time.process_time(), time.perf_counter()
    result: Packet | Tensor = work()
    return result, (time.process_time() - processor, time.perf_counter() - wall)


def render(facts: dict[str, Any], subjects: list[Subject], arguments: argparse.Namespace) -> str:
    """Everything as markdown: the machine, the times, and the targets."""
    own = [subject for subject in subjects if subject.codec.name == "dithered"]
    reference = own[0].total_ms if own else None
    lines = [
        f"{arguments.size:,} float32, {arguments.packing} packing, medians of {arguments.repeats} in ms, one thread.",
        f"{facts['processor']}, load {facts['load_average_1_min']:.2f} at the start; Python {facts['python']}, "
        f"torch {facts['versions']['torch']}, numpy {facts['versions']['numpy']}; {facts['started']}.",
        "",
        "| codec | bits an entry | encode | decode | both | / dithered | both, wall |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for s in subjects:
        wall = s.median_ms(s.encoding, 1) + s.median_ms(s.decoding, 1)
        ratio = "-" if reference is None else f"{s.total_ms / reference:.2f}"
        lines.append(
            f"| {s.title} | {s.bits / arguments.size:.3f} | {s.median_ms(s.encoding):.1f} | "
            f"{s.median_ms(s.decoding):.1f} | {s.total_ms:.1f} | {ratio} | {wall:.1f} |"
        )
    if arguments.size == TARGET_SIZE and arguments.packing == "fixed":
        lines += ["", "| target on one quiet core | at most | measured | |", "|---|---:|---:|---|"]
        for s in subjects:
            if s.codec.name in TARGETS_MS:
                target = Target(s.title, "at most", TARGETS_MS[s.codec.name], s.total_ms, "ms")
                lines.append(f"| {target.what} | {target.bound:g} ms | {s.total_ms:.1f} ms | {target.verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
