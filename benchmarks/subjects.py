"""What ``engines.py`` times: every engine at every size, each with the command that prints its rounds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines_report import Timing

HERE = Path(__file__).resolve().parent
SAMPLES = 5000  # in mnist-5k, dealt out evenly, but at most SAMPLES_PER_DEVICE to each device
SAMPLES_PER_DEVICE = 50
FLOWER_WORKERS = 2
SKIPPABLE = ("local-1", "local-2", "bare", "pfl", "flower", "memory")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Parameters
    ----------
    devices
        Numbers of devices.
    rounds, repeats
        Timed rounds of a process and processes of a subject.
    flower_rounds, flower_repeats
        The same for Flower's engine, which takes ten times as long.
    most_flower_devices
        Flower's engine is left out beyond this number.
    """

    devices: tuple[int, ...] = (100, 1000)
    rounds: int = 20
    repeats: int = 3
    flower_rounds: int = 10
    flower_repeats: int = 2
    most_flower_devices: int = 1000


QUICK = Plan(rounds=5, repeats=1, flower_rounds=3, flower_repeats=1, most_flower_devices=100)
LARGE = 1000  # devices from which on Flower's engine, at 15 to 30 s a round, runs 3 rounds, once, on one uplink


@dataclass(frozen=True)
class Subject:
    """One thing to time: a row of the table, and the command that prints its rounds."""

    timing: Timing
    command: tuple[str, ...]
    repeats: int


def local_command(
    uplink: str, workers: int, devices: int, rounds: int, device: str = "cpu", batch: int | None = 1
) -> tuple[str, ...]:
    """The command that times FedMAC's local engine, `batch` devices at a time (None: as many as it takes by itself)."""
    batches = () if batch is None else ("--batched-devices", str(batch))
    return (*_fedmac("local", uplink, workers, devices, rounds), "--device", device, *batches)


def _fedmac(engine: str, uplink: str, workers: int, devices: int, rounds: int) -> tuple[str, ...]:
    own = ("--engine", engine, "--uplink", uplink, "--workers", str(workers))
    return (sys.executable, str(HERE / "fedmac_run.py"), *own, *_size(devices, rounds))


def _size(devices: int, rounds: int) -> tuple[str, ...]:
    samples = min(SAMPLES_PER_DEVICE, SAMPLES // devices)
    return ("--devices", str(devices), "--samples", str(samples), "--rounds", str(rounds))


def list_subjects(
    plan: Plan, skip: Sequence[str], cuda: bool, pfl_python: Path | None, batch: int | None = None
) -> list[Subject]:
    """What is timed, in the order of the table; with `batch`, also one worker that trains as many devices at a time."""
    subjects = []
    for devices in plan.devices:
        for uplink in ("ideal", "rlc"):
            for engine, workers in (("local-1", 1), ("local-2", 2)):
                if engine not in skip:
                    command = local_command(uplink, workers, devices, plan.rounds)
                    subjects.append(Subject(Timing(engine, uplink, devices), command, plan.repeats))
            for engine, device, together in _with_batches(cuda, batch):
                command = local_command(uplink, 1, devices, plan.rounds, device, together)
                subjects.append(Subject(Timing(engine, uplink, devices), command, plan.repeats))
        size = _size(devices, plan.rounds)
        if "bare" not in skip:
            command = (sys.executable, str(HERE / "bare_loop.py"), *size)
            subjects.append(Subject(Timing("bare", "ideal", devices), command, plan.repeats))
        if pfl_python is not None:
            command = (str(pfl_python), str(HERE / "pfl_reference.py"), *size)
            subjects.append(Subject(Timing("pfl", "ideal", devices), command, plan.repeats))
        if "flower" not in skip and devices <= plan.most_flower_devices:
            subjects += _flower_subjects(plan, devices)
    return subjects


def _with_batches(cuda: bool, batch: int | None) -> list[tuple[str, str, int | None]]:
    """Engine, compute device and devices at a time of the rows that show what batches of devices do."""
    rows: list[tuple[str, str, int | None]] = []
    if batch is not None:
        rows.append(("local-1-batches", "cpu", batch))
    if cuda:
        rows += [("local-cuda", "cuda", 1), ("local-cuda-batches", "cuda", batch)]
    return rows


def _flower_subjects(plan: Plan, devices: int) -> list[Subject]:
    large = devices >= LARGE
    rounds, repeats = (min(3, plan.flower_rounds), 1) if large else (plan.flower_rounds, plan.flower_repeats)
    plain = (sys.executable, str(HERE / "flower_reference.py"), "--workers", str(FLOWER_WORKERS))
    subjects = [Subject(Timing("flower", "ideal", devices), (*plain, *_size(devices, rounds)), repeats)]
    for uplink in ("ideal",) if large else ("ideal", "rlc"):
        command = _fedmac("flower", uplink, FLOWER_WORKERS, devices, rounds)
        subjects.append(Subject(Timing("fedmac-flower", uplink, devices), command, repeats))
    return subjects
