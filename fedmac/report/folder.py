"""Read run folders back: what was run, what each round recorded, and what is missing."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmac.record import COSTS
from fedmac.report.spans import read_spans

KEYS = ("variant", "seed", "round")
OBJECTIVE = ("train_objective", "objective_gap", "train_gradient_norm")
SCORES = ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss", *OBJECTIVE)
SYSTEM = ("accepted", "rejected", "late", "consensus_distance", "spectral_gap")
METRICS = (*SCORES, "train_loss", "participants", "exchange", "heard", *SYSTEM)
ERRORS = ("mse_measured", "mse_predicted")
PER_DEVICE = ("devices", "weights", "gains", "amplitudes", "energies", "power_limit", "placement", "utilisation")
EVENTS = ("silent", "failures", "not_asked")
NUMBERS = ("seed", "round", *METRICS, *COSTS, "download_s", *ERRORS, "noise_power", "privacy_epsilon")
COLUMNS = (*KEYS, *NUMBERS[2:], *PER_DEVICE, *EVENTS, "staleness", "spans")


SETTINGS = {
    "units": ("channel", "units"),
    "devices": ("data", "devices"),
    "select": ("link", "select"),
    "privacy_delta": ("privacy", "delta"),
    "attackers": ("attackers", "count"),
    "named": ("attackers", "devices"),
    "attack": ("attackers", "kind"),
}
"""What a summary says of a variant beside its figures, by table and key of the scenario."""


@dataclass(frozen=True)
class Source:
    """Where a part of the report comes from: a run folder's name, scenario text and environment.

    Of several runs joined, the name is the one before the slash in the names of its variants.
    """

    path: Path
    name: str
    scenario: str
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class Record:
    """One run folder, or several joined, as the report reads them.

    Attributes
    ----------
    name
        Title of the report.
    variants
        One summary per variant, as in ``summary.json``; made from the rounds for a variant the summary lacks.
    rounds
        One row per variant, seed and round with the columns of ``rounds.jsonl``. Per-device lists (``gains``,
        ``amplitudes`` …) and ``spans`` (:data:`fedmac.report.spans.SPAN`) are kept for a variant's first seed only:
        draws of different seeds do not average.
    sources
        The folders read.
    notices
        What a reader must know before trusting the figures (interrupted, no rounds …).
    """

    name: str
    variants: tuple[Mapping[str, Any], ...]
    rounds: pd.DataFrame
    sources: tuple[Source, ...]
    notices: tuple[str, ...]


def read_run(folder: Path) -> Record:
    """Read one run folder; files that an unfinished run has not written yet become notices.

    Raises
    ------
    ValueError
        `folder` holds no run, or a file in it cannot be understood (the message names file and line).
    """
    files = _round_files(folder)
    if not files and not (folder / "summary.json").is_file() and not (folder / "scenario.toml").is_file():
        raise ValueError(
            f"run folder: got {str(folder)!r}, expected a folder with summary.json, scenario.toml or rounds.jsonl in it"
        )
    summary = _read_object(folder / "summary.json")
    name = str(summary.get("name") or folder.resolve().name)
    notices: list[str] = []
    rows: list[dict[str, Any]] = []
    for file in files:
        rows += _read_rounds(file, name if file.parent == folder else file.parent.name, notices)
    rounds = _frame(rows, folder)
    if not summary:
        notices.append("There is no summary.json: the run has not ended, and the table is made from its rounds.")
    elif summary.get("interrupted"):
        notices.append("The run was interrupted: figures hold for the rounds that were done.")
    scenario = folder / "scenario.toml"
    text = scenario.read_text(encoding="utf-8", errors="replace") if scenario.is_file() else ""
    variants = _variants(summary, rounds, text)
    rounds = _in_order(rounds, [variant["name"] for variant in variants])
    unlisted = [variant["name"] for variant in variants[len(summary.get("variants") or ()) :]]
    if summary and unlisted:
        notices.append(f"Not in summary.json, so summarised from their rounds: {', '.join(unlisted)}.")
    notices += _missing_rounds(variants, rounds)
    source = Source(folder, name, text, _read_object(folder / "environment.json"))
    return Record(name, variants, rounds, (source,), tuple(notices))


def join_runs(records: Sequence[Record]) -> Record:
    """Join runs into one record whose variants are named ``run / variant``; a single run stays as it is.

    Runs of the same name are told apart by their folders' names, then by their full paths.
    """
    if len(records) == 1:
        return records[0]
    labels = _labels(records)
    frames, variants, notices = [], [], []
    for label, record in zip(labels, records, strict=True):
        frames.append(record.rounds.assign(variant=label + " / " + record.rounds["variant"].astype(str)))
        variants += [{**variant, "name": f"{label} / {variant['name']}"} for variant in record.variants]
        notices += [f"{label}: {notice}" for notice in record.notices]
    filled = [frame for frame in frames if len(frame)]
    rounds = pd.concat(filled, ignore_index=True) if filled else frames[0]
    sources = tuple(
        replace(source, name=label) for label, record in zip(labels, records, strict=True) for source in record.sources
    )
    return Record(", ".join(labels), tuple(variants), rounds, sources, tuple(notices))


def _labels(records: Sequence[Record]) -> list[str]:
    labels = [record.name for record in records]
    for better in (lambda path: path.resolve().name, lambda path: str(path.resolve())):
        counts = Counter(labels)
        labels = [
            better(record.sources[0].path) if counts[label] > 1 else label
            for label, record in zip(labels, records, strict=True)
        ]
    if len(set(labels)) < len(labels):
        raise ValueError(f"folders: got {labels}, expected each run folder once")
    return labels


def _round_files(folder: Path) -> list[Path]:
    single = folder / "rounds.jsonl"
    return [single] if single.is_file() else sorted(folder.glob("*/rounds.jsonl"))


def _read_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: got text that is no JSON ({error}), expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: got a JSON {type(value).__name__}, expected an object")
    return value


def _read_rounds(file: Path, variant: str, notices: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the lines of a record; a cut last line is what a kill or a full disk leaves, and only noted."""
    first_seed: dict[str, Any] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    notices.append(f"The last line of {file.name} of {variant} is cut short; it was left out.")
                    return
                raise ValueError(f"{file}:{number}: got a line that is no JSON, expected an object") from error
            if not isinstance(row, dict) or "round" not in row:
                raise ValueError(f"{file}:{number}: got {row!r:.80}, expected an object with the key 'round'")
            row = {"variant": variant, "seed": 0, **row}
            row["variant"] = str(row["variant"])
            keep = row["seed"] == first_seed.setdefault(row["variant"], row["seed"])
            for key in PER_DEVICE:
                value = row.get(key) if keep else None
                row[key] = np.asarray(value, dtype=np.float64) if isinstance(value, list) else value
            if isinstance(counts := row.get("staleness"), list):
                row["staleness"] = np.asarray(counts, dtype=np.float64)
            if (spans := row.get("spans")) is not None:
                try:
                    row["spans"] = read_spans(spans) if keep else None
                except ValueError as error:
                    raise ValueError(f"{file}:{number}: {error}") from None
            yield {key: row.get(key) for key in COLUMNS}


def _frame(rows: list[dict[str, Any]], folder: Path) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    for column in NUMBERS:
        try:
            frame[column] = pd.to_numeric(frame[column]).astype(float)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder}: {column} of rounds.jsonl: {error}, expected numbers or null") from error
    # A resumed run may repeat the round it stopped in: the later line counts.
    return frame.drop_duplicates(list(KEYS), keep="last").sort_values(list(KEYS), kind="stable", ignore_index=True)


def _variants(summary: Mapping[str, Any], rounds: pd.DataFrame, scenario: str) -> tuple[Mapping[str, Any], ...]:
    listed = [dict(variant) for variant in summary.get("variants") or ()]
    known = {str(variant.get("name")) for variant in listed}
    for variant in listed:
        variant["name"] = str(variant.get("name"))
    for name, rows in rounds.groupby("variant", sort=False):
        if str(name) not in known:
            listed.append(summarise(str(name), rows) | _settings(scenario, str(name)))
    return tuple(listed)


def _settings(scenario: str, name: str) -> dict[str, Any]:
    """Return what a summary also says of a variant, from the scenario: units, devices, senders, privacy, attackers."""
    try:
        content = tomllib.loads(scenario)
    except tomllib.TOMLDecodeError:
        return {}
    own: Mapping[str, Any] = next(
        (variant for variant in content.get("variants", ()) if variant.get("name") == name), {}
    )
    found = {key: (own.get(table) or {}).get(field) for key, (table, field) in SETTINGS.items()}
    shared = {key: (content.get(table) or {}).get(field) for key, (table, field) in SETTINGS.items()}
    settings = {
        key: value for key in SETTINGS if (value := shared[key] if found[key] is None else found[key]) is not None
    }
    named = settings.pop("named", None)
    return settings | ({"attackers": len(named)} if isinstance(named, list) else {})


def _in_order(rounds: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Put the rounds into the summary's order of variants, which is the scenario's."""
    place = {name: index for index, name in enumerate(names)}
    return rounds.sort_values("variant", kind="stable", key=lambda column: column.map(place), ignore_index=True)


def summarise(name: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Summarise a variant from its rounds: the last values of each seed, their mean and std over seeds."""
    last = rows.sort_values("round").groupby("seed")[[*METRICS, *COSTS, "privacy_epsilon"]].last()
    row: dict[str, Any] = {
        "name": name,
        "rounds": int(rows["round"].max()),
        "seeds": [int(seed) for seed in last.index],
    }
    for key in SCORES:
        if last[key].notna().any():
            row[key] = float(last[key].mean())
            row[f"{key}_std"] = float(last[key].std()) if len(last) > 1 else None
    if last["privacy_epsilon"].notna().any():
        row["privacy_epsilon"] = float(last["privacy_epsilon"].max())
    return row | {key: float(last[key].mean()) for key in COSTS if last[key].notna().any()}


def _missing_rounds(variants: Sequence[Mapping[str, Any]], rounds: pd.DataFrame) -> list[str]:
    trained = set(rounds.loc[rounds["round"] > 0, "variant"])
    missing = [variant["name"] for variant in variants if variant["name"] not in trained]
    if not trained:
        return ["No round was recorded: there is nothing to draw yet."]
    return [f"No round was recorded for: {', '.join(missing)}."] if missing else []
