"""Run folders with made-up figures, as a run writes them, for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

COSTS = (
    "channel_uses",
    "bits_per_device_mean",
    "energy_j_per_device_mean",
    "energy_j_per_device_max",
    "air_time_s",
    "compute_s",
    "clock_s",
    "wall_s",
)

# A name that breaks a page which forgets to escape: HTML, a script's end, quotes, and plotly's own markup.
NASTY = "a<b> & \"c\" </script><i>'d'</i> %{y}"


def run_rows(
    variant: str,
    *,
    seeds: Sequence[int],
    rounds: int,
    devices: int,
    fading: bool = True,
    silent: bool = False,
) -> list[dict[str, Any]]:
    """Return the lines of ``rounds.jsonl`` of one variant, round 0 (before training) included."""
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        generator = np.random.default_rng([seed, len(variant)])
        best = 0.85 + 0.05 * generator.random()
        for number in range(rounds + 1):
            metrics = {
                "variant": variant,
                "seed": seed,
                "round": number,
                "test_accuracy": best - (best - 0.1) * float(np.exp(-number / 15)) + 0.005 * generator.normal(),
                "test_loss": 0.4 + 2.0 * float(np.exp(-number / 15)),
            }
            start = {"parameters": 7850, "training_examples": 100 * devices}
            air = start if number == 0 else _air(generator, number, devices, fading, silent)
            rows.append(metrics | air)
    return rows


def _air(generator: np.random.Generator, number: int, devices: int, fading: bool, silent: bool) -> dict[str, Any]:
    predicted = 0.1 + 1.0 / number
    row: dict[str, Any] = {
        "train_loss": 0.5 + 2.0 / number,
        "exchange": number,
        "heard": True,
        "participants": devices,
        "devices": list(range(devices)),
        "weights": [1.0 / devices] * devices,
        "energies": [50.0] * devices,
        "silent": [0] if silent else [],
        "failures": [{"device": 1, "reason": f"NaN <in> & out of {NASTY}"}] if silent and number % 7 == 3 else [],
        "channel_uses": 785 * number,
        "energy_j_per_device_mean": 50.0 * number,
        "energy_j_per_device_max": 60.0 * number,
        "bits_per_device_mean": 64.0 * number,
        "air_time_s": 7.85e-4 * number,
        "compute_s": 2e-3 * number,
        "clock_s": 2.785e-3 * number,
        "wall_train_s": 0.005 * number,
        "wall_uplink_s": 0.008 * number,
        "wall_evaluate_s": 0.003 * number,
        "wall_s": 0.02 * number,
        "mse_measured": predicted * float(generator.uniform(0.8, 1.2)) if fading else None,
        "mse_predicted": predicted if fading else None,
        "gains": None,
    }
    if fading:
        gains = generator.rayleigh(scale=0.7, size=devices)
        amplitudes = np.minimum(1.0, 0.5 / gains)
        row |= {
            "gains": gains.tolist(),
            "amplitudes": amplitudes.tolist(),
            "power_limit": 1.0,
            "receive_scale": 0.5,
            "update_norms": [1.0] * devices,
            "energies": (60.0 * amplitudes**2).tolist(),
        }
    return row


def summary_of(rows: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return the entry of ``summary.json`` for the lines of one variant."""
    last = [row for row in rows if row["round"] == max(row["round"] for row in rows)]
    accuracies, losses = ([row[key] for row in last] for key in ("test_accuracy", "test_loss"))
    return {
        "name": last[0]["variant"],
        "rounds": last[0]["round"],
        "seeds": sorted({row["seed"] for row in rows}),
        "test_accuracy": float(np.mean(accuracies)),
        "test_accuracy_std": float(np.std(accuracies, ddof=1)) if len(last) > 1 else None,
        "test_loss": float(np.mean(losses)),
        "test_loss_std": float(np.std(losses, ddof=1)) if len(last) > 1 else None,
        **{key: last[0].get(key, 0.0) for key in COSTS},
        "units": "normalised",
        "devices": last[0].get("participants", 25),
        "parameters": 7850,
        **changes,
    }


def write_run(
    folder: Path, lines: Sequence[list[dict[str, Any]]], /, *, name: str = "synthetic", **changes: Any
) -> Path:
    """Write a run folder: one ``rounds.jsonl``, or one in a subfolder for each of several variants."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(lines):
        home = folder if len(lines) == 1 else folder / f"variant-{index}"
        home.mkdir(exist_ok=True)
        (home / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    summary = {
        "name": name,
        "fedmac": "0.1.0",
        "engine": "local",
        "interrupted": False,
        **changes,
    }
    if "variants" not in summary:
        summary["variants"] = [summary_of(rows) for rows in lines if rows]
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "scenario.toml").write_text('name = "a <scenario>"\nseed = 0\n', encoding="utf-8")
    environment = {
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "machine": {"cpus": 2, "system": "Linux"},
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return folder
