"""Times FedMAC's local engine against Flower's simulation engine, pfl-research and a bare PyTorch loop.

What is timed: seconds per round of federated averaging of an MLP 784-128-10 (101,770 parameters), all devices in
every round, batches of 10, one local epoch, for 100 devices with 50 samples each and 1,000 with 5:

* FedMAC's local engine with 1 and 2 workers, over an ideal uplink and over the air (``fedmac_run.py``);
* Flower's engine with a plain Flower app, 2 clients at a time (``flower_reference.py``): the engine's own speed;
* Flower's engine with FedMAC's app (``fedmac_run.py --engine flower``): the same scenario as on the local engine;
* pfl-research 0.6 in one process (``pfl_reference.py``, in an environment that ``pfl_environment.py`` makes);
* a bare loop in one process (``bare_loop.py``), the price of the learning itself;
* with ``--device cuda``, the local engine on a GPU as well, with devices one by one and in batches;
* with ``--batched-devices N``, one worker that trains N devices in one computation, on the CPU too.

How: each figure comes from fresh processes, one at a time, with one thread each (``OMP_NUM_THREADS=1``). The first
round of a process is left out. Repeats are interleaved (A B C A B C), so that a machine that slows down slows all.
A figure is the median over all timed rounds; a ratio is a ratio of medians. Memory is measured in runs of its own
(``memory.py``), as the watching costs time.

Run on a quiet machine, from the repository: ``.venv/bin/python benchmarks/engines.py`` (on two cores about a
quarter of an hour), or with ``--quick`` for a first look. Progress goes to stderr; the tables, in markdown, to
stdout. The exit code is 1 if anything could not be measured, 0 otherwise, whether or not a target is met.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines_report import Memory, as_json, environment, render
from measuring import Failure, measure_memory, say, time_all
from memory import can_measure
from pfl_environment import make_pfl_environment
from subjects import QUICK, SAMPLES, SKIPPABLE, Plan, list_subjects


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and return the exit code."""
    options = _parse(arguments)
    failures = []
    pfl_python = None
    if "pfl" not in options.skip:
        try:
            pfl_python = make_pfl_environment()
        except RuntimeError as error:
            failures.append(f"pfl: {error}")
    subjects = list_subjects(options.plan, options.skip, options.device == "cuda", pfl_python, options.batched_devices)
    # Asked before the work, which is to be the only load of the machine.
    facts = environment()
    time_all(subjects)
    timings = [subject.timing for subject in subjects]
    failures += [f"{timing.title}: {timing.failure.splitlines()[-1]}" for timing in timings if timing.failure]
    memory: list[Memory] = []
    if "memory" not in options.skip:
        try:
            memory = _measure_memory(options.plan)
        except Failure as failure:
            failures.append(f"memory: {failure}")
    print(render(facts, timings, memory))
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(facts, timings, memory), indent=2) + "\n")
    for reason in failures:
        say(f"not measured: {reason}")
    return 1 if failures else 0


def _measure_memory(plan: Plan) -> list[Memory]:
    if not can_measure():
        raise Failure("needs Linux's /proc/self/smaps_rollup; accepted: --skip memory")
    return measure_memory(max(plan.devices), min(plan.rounds, 10))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time FedMAC's engines against each other and against others.")
    parser.add_argument("--quick", action="store_true", help="few rounds, Flower's engine up to 100 devices only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda adds the local engine on a GPU")
    parser.add_argument(
        "--batched-devices", type=_count, metavar="N", help="also time N devices in one computation (a GPU: default)"
    )
    parser.add_argument(
        "--skip", type=_names, default=[], help=f"what to leave out, with commas: {', '.join(SKIPPABLE)}"
    )
    parser.add_argument("--devices", type=_counts, help="numbers of devices, with commas (100,1000)")
    parser.add_argument("--rounds", type=_count, help="timed rounds of a process (20; --quick: 5)")
    parser.add_argument("--repeats", type=_count, help="processes of each kind (3; --quick: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there as well")
    options = parser.parse_args(arguments)
    chosen = {name: getattr(options, name) for name in ("devices", "rounds", "repeats")}
    plan = QUICK if options.quick else Plan()
    options.plan = replace(plan, **{name: value for name, value in chosen.items() if value is not None})
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SKIPPABLE:
            raise argparse.ArgumentTypeError(f"{name!r} is not accepted: give some of {', '.join(SKIPPABLE)}")
    return names


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(sorted({_count(word) for word in text.split(",")}))
    if counts[-1] > SAMPLES:
        raise argparse.ArgumentTypeError(f"{counts[-1]} is not accepted: give at most {SAMPLES}")
    return counts


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is not accepted: give a whole number of at least 1")
    return count


if __name__ == "__main__":
    raise SystemExit(main())
