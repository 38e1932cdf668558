"""Runs the commands that ``engines.py`` compares: each alone, with one thread, in an interleaved order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from engines_report import Memory
from memory import peak_pss
from subjects import HERE, Subject, local_command

TIMEOUT_SECONDS = 600.0


class Failure(RuntimeError):
    """A subject's process did not end well."""


def run(command: Sequence[str], *, watch: bool = False) -> tuple[dict[str, Any], int]:
    """Run a command to its end; give the line of JSON that it prints, and with `watch` its peak PSS in bytes.

    Raises
    ------
    Failure
        The command exited with another code than 0, or took too long; with the end of what it wrote.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, text=True, env=environment, cwd=HERE.parent)
        try:
            peak = peak_pss(process, TIMEOUT_SECONDS) if watch else 0
            process.wait(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"no end within {TIMEOUT_SECONDS:g} s") from None
        finally:
            # SIGTERM, so that Flower's engine can end what it has started; without effect on what has ended.
            process.terminate()
            process.wait()
        out.seek(0)
        log.seek(0)
        if process.returncode != 0:
            end = "\n".join(log.read().splitlines()[-15:])
            raise Failure(f"exit code {process.returncode}; it wrote at last:\n{end}")
        return json.loads(out.read().splitlines()[-1]), peak


def time_all(subjects: Sequence[Subject]) -> None:
    """Time the subjects in turn, as often as each is to be repeated; rounds are added to their timings."""
    turns = [
        subject
        for repeat in range(max((s.repeats for s in subjects), default=0))
        for subject in subjects
        if repeat < subject.repeats
    ]
    for number, subject in enumerate(turns, 1):
        timing = subject.timing
        if timing.failure:
            continue
        try:
            result, _ = run(subject.command)
        except Failure as failure:
            timing.failure = str(failure)
            say(f"[{number}/{len(turns)}] {timing.title}: FAILED, {failure}")
        else:
            timing.seconds += result["round_seconds"]
            say(f"[{number}/{len(turns)}] {timing.title}: {timing.median:.3g} s a round")


def measure_memory(devices: int, rounds: int) -> list[Memory]:
    """Peak memory of the local engine with 2 workers, for each uplink."""
    found = []
    for uplink in ("ideal", "rlc"):
        _, peak = run(local_command(uplink, 2, devices, rounds), watch=True)
        found.append(Memory(uplink, devices, peak))
        say(f"memory, {uplink}, {devices} devices: {peak / 1e6:.0f} MB")
    return found


def say(line: str) -> None:
    """Tell whoever waits; stdout keeps to the tables."""
    print(line, file=sys.stderr, flush=True)
