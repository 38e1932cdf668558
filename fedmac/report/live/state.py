"""How far a run has come: told from its scenario, its finished models and the ends of its records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedmac.record import ENVIRONMENT, ROUNDS, SCENARIO, SUMMARY, folder_of, model_path
from fedmac.report.table import UNITS
from fedmac.scenario import Scenario, Variant

QUIET_S = 60.0  # an unfinished run that has written nothing for so long is taken for interrupted ...
QUIET_ROUNDS = 5.0  # ... unless its rounds take long: then for so many of them
BLOCK = 64 * 1024  # bytes read at a time from the end of a record


class State(StrEnum):
    """What a run is doing."""

    running = "running"
    finished = "finished"
    interrupted = "interrupted"
    broken = "broken"


@dataclass(frozen=True)
class VariantProgress:
    """How far a variant has come, over all its seeds.

    Attributes
    ----------
    rounds, planned
        Rounds done and to do, summed over seeds.
    held_out
        What `accuracy` was measured on: ``test`` or ``validation``.
    accuracy, spread
        Once all seeds are done their mean and sample standard deviation (None for one seed); before that the
        latest of `seed`. None if nothing was evaluated yet, or the value is not finite.
    energy, unit
        Mean energy a device has spent so far, and its unit (J or normalised).
    seed
        The seed that `accuracy` and `energy` are of; None where they are means.
    """

    name: str
    rounds: int
    planned: int
    held_out: str
    accuracy: float | None
    spread: float | None
    energy: float | None
    unit: str
    seed: int | None


@dataclass(frozen=True)
class RunState:
    """What a run folder says of itself; :meth:`state` adds the time.

    Attributes
    ----------
    started, written
        When the run (last) started and wrote, in seconds since 1970.
    patience_s
        For how long it may write nothing before it is taken for interrupted.
    gave_up
        Whether its summary says that it was interrupted, and nothing was written after that.
    error
        Why the folder cannot be read; empty if it can.
    """

    name: str
    variants: tuple[VariantProgress, ...]
    started: float
    written: float
    patience_s: float = QUIET_S
    gave_up: bool = False
    error: str = ""

    @property
    def rounds(self) -> int:
        """Rounds done, over all variants and seeds."""
        return sum(variant.rounds for variant in self.variants)

    @property
    def planned(self) -> int:
        """Rounds to do, over all variants and seeds."""
        return sum(variant.planned for variant in self.variants)

    def state(self, now: float) -> State:
        """Tell the state at a time (seconds since 1970).

        Finished: every planned round is done. Interrupted: the run said so itself, or it has been silent for longer
        than `patience_s`. Running: otherwise.
        """
        if self.error:
            return State.broken
        if self.rounds >= self.planned:
            return State.finished
        silent = self.gave_up or now - self.written > self.patience_s
        return State.interrupted if silent else State.running


def read_state(folder: Path) -> RunState:
    """Read how far the run in a folder has come; what cannot be understood becomes the state's `error`.

    Only the scenario, the summary and the last lines of the records are read, so that it takes milliseconds however
    long the run is.
    """
    times = [_modified(folder / name) for name in (SCENARIO, ENVIRONMENT)]
    started = max(times)
    try:
        scenario = Scenario.load(folder / SCENARIO)
        summary = _summary(folder / SUMMARY)
        homes = {v.name: folder_of(scenario, folder, v.name) for v in scenario.resolve()}
        # A run of some variants only makes the folders of those.
        variants = [v for v in scenario.resolve() if homes[v.name].is_dir()] or scenario.resolve()
        rows = {str(row.get("name")): row for row in summary.get("variants", [])}
        read = [_progress(v, scenario, homes[v.name], rows.get(v.name, {})) for v in variants]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return RunState(folder.resolve().name, (), started, started, error=str(error) or type(error).__name__)
    written = max([started, *(_modified(homes[v.name] / ROUNDS) for v in variants)])
    gave_up = bool(summary.get("interrupted")) and _modified(folder / SUMMARY) >= written
    return RunState(
        scenario.name,
        tuple(progress for progress, _ in read),
        started,
        written,
        max([QUIET_S, *(QUIET_ROUNDS * seconds for _, seconds in read)]),
        gave_up,
    )


def lines_from_the_end(path: Path, block: int = BLOCK) -> Iterator[bytes]:
    """Yield a file's lines, last first, read `block` bytes at a time.

    What follows the last newline (a line being written, or one that a crash has cut) is left out.
    """
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest, ended = b"", False
        while position:
            step = min(block, position)
            position -= step
            file.seek(position)
            rest, *lines = (file.read(step) + rest).split(b"\n")
            if lines and not ended:
                lines.pop()
                ended = True
            yield from reversed(lines)
        if ended:
            yield rest


def _progress(
    variant: Variant, scenario: Scenario, home: Path, row: Mapping[str, Any]
) -> tuple[VariantProgress, float]:
    """How far a variant has come, and the seconds one of its rounds takes."""
    rounds = variant.scenario.rounds
    seeds = scenario.run_seeds
    finished = [seed for seed in seeds if model_path(home, variant, seed).exists()]
    judged = "accuracy" if variant.scenario.training.loss == "cross-entropy" else "loss"
    last = _last_round(home / ROUNDS, {f"test_{judged}", f"validation_{judged}"})
    done = rounds * len(finished)
    if last and last["seed"] not in finished:
        done += min(int(last["round"]), rounds)
    means = len(finished) == len(seeds) and bool(row)
    figures = row if means else last
    kind = "test" if scenario.evaluation.test else "validation"
    progress = VariantProgress(
        variant.name,
        done,
        rounds * len(seeds),
        kind,
        _number(figures.get(f"{kind}_accuracy")),
        _number(row.get(f"{kind}_accuracy_std")) if means and len(seeds) > 1 else None,
        _number(figures.get("energy_j_per_device_mean")),
        UNITS[variant.scenario.channel.units],
        None if means or not last else int(last["seed"]),
    )
    return progress, float(last.get("wall_s") or 0.0) / max(1, int(last.get("round", 0)))


def _last_round(path: Path, figures: Set[str]) -> dict[str, Any]:
    """The last line of a record, with those of the last evaluation before it, told by `figures`; empty without any."""
    if not path.is_file():
        return {}
    last: dict[str, Any] = {}
    for line in filter(None, lines_from_the_end(path)):
        record = _line(path, line)
        if last and record["seed"] != last["seed"]:
            break
        last = record | last
        if not figures.isdisjoint(last.keys()):
            break
    return last


def _line(path: Path, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not {"seed", "round"} <= record.keys():
        where = f"{path.parent.name}/{path.name}"
        raise ValueError(f"{where}: one of the last lines is no round; accepted: JSON objects with seed and round")
    return record


def _summary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path.name}: not valid JSON: {error}") from None
    if not isinstance(summary, dict) or not isinstance(summary.get("variants"), Sequence):
        raise ValueError(f"{path.name}: expected an object with a list of variants")
    return summary


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
