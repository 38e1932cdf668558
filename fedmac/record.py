"""The run folder: everything needed to repeat and read a run, written as it happens."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w
from numpy.typing import NDArray

from fedmac.scenario import Scenario, Variant
from fedmac.scenario_clock import is_clock_simulated
from fedmac.scenario_keys import what_counts

RoundRecord = dict[str, Any]

COSTS = (
    "channel_uses", "bits_per_device_mean", "energy_j_per_device_mean", "energy_j_per_device_max", "air_time_s",
    "compute_s", "clock_s", "wall_train_s", "wall_uplink_s", "wall_evaluate_s", "wall_s",
)  # fmt: skip
"""What a run has spent so far, in each round's record and in the summary."""

MEASURED = (
    "train_s_mean", "train_s_max", "train_j_mean", "train_j_max", "compute_s", "clock_s",
    "wall_train_s", "wall_uplink_s", "wall_evaluate_s", "wall_s", "wire_down_bytes", "wire_up_bytes",
)  # fmt: skip
"""Seconds and bytes as this machine took them, and joules by them: all that another run under the same seed, on this
engine or another, may change. See :func:`measured` for scenarios whose clock is simulated."""

ROUNDS, SUMMARY, SCENARIO, ENVIRONMENT = "rounds.jsonl", "summary.json", "scenario.toml", "environment.json"

PART = ".part"
"""What the name of a file ends with while it is being written."""


class RecordError(RuntimeError):
    """The run folder cannot be written or read; the message names the path and the reason."""


class FolderInTheWay(RecordError):
    """The folder asked for holds something that this run may not touch."""


class NoRunHere(RecordError):
    """A folder that was to be read holds no run."""


class RunFolder:
    """One variant's part of a run: resolved scenario, a line per round, final models.

    Parameters
    ----------
    path : Path
        Folder of the variant; made if it is not there.
    variant : Variant
        What runs.
    """

    def __init__(self, path: Path, variant: Variant) -> None:
        self.path = path
        self.variant = variant
        self.rounds = path / ROUNDS
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / SCENARIO, tomli_w.dumps(variant.scenario.content()))

    def append(self, record: RoundRecord) -> None:
        """Write one round's line and flush it; a line that could not be written whole is taken back.

        Raises
        ------
        RecordError
            If the disk is full or the file cannot be written. Earlier rounds stay readable.
        """
        line = (json.dumps(_jsonable(record), allow_nan=False) + "\n").encode()
        with writing(self.rounds):
            descriptor = os.open(self.rounds, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                before = os.fstat(descriptor).st_size
                try:
                    written = os.write(descriptor, line)
                    if written != len(line):
                        raise OSError(28, "No space left on device")
                except OSError:
                    if os.fstat(descriptor).st_size > before:
                        os.ftruncate(descriptor, before)
                    raise
            finally:
                os.close(descriptor)

    def save_model(self, seed: int, arrays: Mapping[str, NDArray[Any]]) -> Path:
        """Write the final model of `seed`, in one step."""
        from safetensors.numpy import save_file

        path = model_path(self.path, self.variant, seed)
        with put_in_place(path) as part:
            save_file({name: array.copy() for name, array in arrays.items()}, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())  # the run counts as finished from here on, and its checkpoint goes
        return path

    def finished(self, seed: int) -> bool:
        """Whether the run of `seed` came to its end."""
        return model_path(self.path, self.variant, seed).exists()

    def read_rounds(self) -> list[RoundRecord]:
        """The rounds there are, none before the first."""
        return read_rounds(self.rounds) if self.rounds.exists() else []

    def drop_unfinished(self, keep: Mapping[int, int] = MappingProxyType({})) -> None:
        """Forget the rounds of seeds that did not come to their end, but those up to the round in `keep`, by seed."""
        if self.rounds.exists():
            kept = [
                r
                for r in self.read_rounds()
                if self.finished(int(r["seed"])) or int(r["round"]) <= keep.get(int(r["seed"]), -1)
            ]
            write_atomically(self.rounds, "".join(json.dumps(r) + "\n" for r in kept))


def measured(scenario: Scenario) -> tuple[str, ...]:
    """The keys of :data:`MEASURED` that are so in a run of this scenario; a simulated clock repeats to the bit."""
    simulated = ("compute_s", "clock_s") if is_clock_simulated(scenario) else ()
    return tuple(key for key in MEASURED if key not in simulated)


def folder_of(scenario: Scenario, out: Path, variant: str) -> Path:
    """Where a variant's part of a run lies: a subfolder where the scenario has variants."""
    return out / variant if scenario.variants else out


def model_path(folder: Path, variant: Variant, seed: int) -> Path:
    """Where the final model of `seed` is; the first seed's is ``model.safetensors``."""
    return folder / ("model.safetensors" if seed == variant.scenario.seed else f"model-seed-{seed}.safetensors")


def summary_row(variant: Variant, rounds: Iterable[RoundRecord]) -> dict[str, Any]:
    """Figures of a variant after its last round, means over seeds with their standard deviations."""
    rounds = list(rounds)
    last: dict[int, RoundRecord] = {}
    for record in rounds:
        seen = last.setdefault(int(record["seed"]), {})
        seen.update(record)
    finals = [last[seed] for seed in sorted(last)]
    row: dict[str, Any] = {
        "name": variant.name,
        "rounds": min((int(f["round"]) for f in finals), default=0),
        "seeds": sorted(last),
        "units": variant.scenario.channel.units,
        "devices": variant.scenario.data.devices,
        "parameters": next((f["parameters"] for f in finals if "parameters" in f), None),
        "training_examples": next((f["training_examples"] for f in finals if "training_examples" in f), None),
    }
    if variant.scenario.link.select is not None:
        row["select"] = variant.scenario.link.select
    if is_clock_simulated(variant.scenario):
        row["clock"] = "simulated"
    attackers = variant.scenario.attackers
    if attackers.present:
        row["attackers"], row["attack"] = attackers.count or len(attackers.devices or ()), attackers.kind
    for name in (
        "test_accuracy", "test_loss", "validation_accuracy", "validation_loss",
        "train_objective", "objective_gap", "train_gradient_norm",
    ):  # fmt: skip
        row[name], row[f"{name}_std"] = _mean_and_deviation([f[name] for f in finals if name in f])
    for name in COSTS:
        row[name] = statistics.fmean([float(f.get(name) or 0.0) for f in finals]) if finals else 0.0
    row["channel_uses"] = round(row["channel_uses"])
    if variant.scenario.privacy.delta is not None:
        told = [f.get("privacy_epsilon") for f in finals if int(f["round"]) > 0]
        row["privacy_delta"] = variant.scenario.privacy.delta
        row["privacy_epsilon"] = None if None in told else max((float(e) for e in told if e), default=0.0)
    for name in ("papr_db_mean", "papr_db_max", "papr_db_radiated_mean", "papr_db_radiated_max", "energy_ratio_std"):
        values = [float(r[name]) for r in rounds if r.get(name) is not None]
        if values:
            row[name] = statistics.fmean(values)
    return row


def _mean_and_deviation(values: list[float | None]) -> tuple[float | None, float | None]:
    """Over seeds; None if there are none, or if one is not finite (null in the record): a run that diverged."""
    finite = [float(value) for value in values if value is not None]
    if not finite or len(finite) < len(values):
        return None, None
    return statistics.fmean(finite), statistics.stdev(finite) if len(finite) > 1 else 0.0


def read_rounds(path: Path) -> list[RoundRecord]:
    """The rounds in a ``rounds.jsonl``; a last line cut short by a crash is left out.

    Raises
    ------
    RecordError
        If any other line is not valid.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rounds = []
    for number, line in enumerate(lines, 1):
        try:
            rounds.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise RecordError(f"{path}: line {number} is not valid JSON: {error}") from None
    return rounds


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a crash leaves the old file or the new one."""
    write_atomically(path, json.dumps(_jsonable(content), indent=2, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one."""
    with put_in_place(path) as part:
        part.write_text(text, encoding="utf-8")


FLOWER_LOG = "flower.log"
"""What Flower said; a deployment's ServerApp holds it (:func:`fedmac.lock.held`) as long as it writes to the folder."""

BEGUN = (SCENARIO + PART, SCENARIO, ENVIRONMENT + PART)
"""All that is in a folder whose run ended before :func:`prepare` did."""


def prepare(out: Path, scenario: Scenario, *, overwrite: bool, resume: bool, only: Iterable[str] = ()) -> None:
    """Make the run's folder, or refuse one that holds something else; see :func:`check_folder` for what is refused.

    The variants in `only`, where any are named, are kept for whoever resumes the run (:func:`kept_only`).

    Raises
    ------
    FolderInTheWay
        If the folder holds what this run may not touch.
    RecordError
        If it cannot be written.
    """
    check_folder(out, scenario, overwrite=overwrite, resume=resume)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for there in out.iterdir() if overwrite else ():  # the folder itself stays: this process holds it
            shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
    write_atomically(out / SCENARIO, tomli_w.dumps(scenario.content()))
    wanted = list(only)
    write_json(out / ENVIRONMENT, environment() | ({"only": wanted} if wanted else {}))


def kept_only(out: Path) -> tuple[str, ...]:
    """The variants that the run in a folder was told to run when it was begun or last resumed; none if all.

    Raises
    ------
    RecordError
        If the folder's ``environment.json`` cannot be read.
    """
    path = out / ENVIRONMENT
    if not path.is_file():
        return ()
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("only", [])
    except (ValueError, AttributeError):
        raise RecordError(f"{path}: not valid JSON; accepted: --only with the variants to run") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RecordError(f"{path}: only = {names!r}: accepted: a list of names, or --only with the variants to run")
    return tuple(names)


def check_folder(out: Path, scenario: Scenario, *, overwrite: bool, resume: bool) -> None:
    """Refuse a folder that the run may not use; nothing is touched.

    Raises
    ------
    FolderInTheWay
        If the folder exists and neither `overwrite` nor `resume` is given; if it is not a run folder (never
        overwritten); if the run to resume is of another scenario.
    """
    if overwrite and resume:
        raise FolderInTheWay("--overwrite and --resume: accepted: one of the two")
    if not out.exists() or (out.is_dir() and {file.name for file in out.iterdir()} <= set(BEGUN)):
        return
    if not (out / SCENARIO).is_file() or not (out / ENVIRONMENT).is_file():
        raise FolderInTheWay(f"{out}: exists and is not a run folder; accepted: another folder")
    if not overwrite and not resume:
        raise FolderInTheWay(f"{out}: holds a run already; accepted: another folder, --overwrite or --resume")
    if resume:
        _refuse_other_scenario(out, scenario)


def _refuse_other_scenario(out: Path, scenario: Scenario) -> None:
    there, here = (what_counts(s) for s in (Scenario.load(out / SCENARIO), scenario))
    differing = [key for key in dict.fromkeys([*there, *here]) if there.get(key) != here.get(key)]
    if differing:
        changes = "; ".join(
            f"{k}: {there.get(k, 'not set')!r} there, {here.get(k, 'not set')!r} here" for k in differing
        )
        raise FolderInTheWay(
            f"{out}: holds a run of another scenario ({changes}); accepted: the same scenario, another folder or "
            "--overwrite"
        )


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    packages = ["fedmac", "flwr", "torch", "numpy", "scipy", "cvxpy", "clarabel", "flwr-datasets", "pydantic"]
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


@contextmanager
def put_in_place(path: Path) -> Iterator[Path]:
    """Where to write a file's new content; it takes the old one's place in one step if all went well.

    Raises
    ------
    RecordError
        If it cannot be written; the old file stays.
    """
    part = path.with_name(path.name + PART)
    with writing(path):
        try:
            yield part
            part.replace(path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)  # what there is room for on a full disk may be needed for the rest
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a :class:`RecordError` that names the path."""
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path}: cannot be written: {error.strerror or error}") from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value
