"""Lines of made-up runs of systems of workers, as a run on the simulated clock writes them."""

from __future__ import annotations

from typing import Any

import numpy as np


def system_rows(
    variant: str, *, rounds: int, devices: int, seed: int = 0, spans: bool = True, consensus: bool = False
) -> list[dict[str, Any]]:
    """Return the lines of ``rounds.jsonl`` of one variant, round 0 included.

    Each device gets the model for 0.1 s, computes for 0.5 s and sends for 0.2 s in every round of a second; device 0
    computes for 0.6 s, and its update is too stale.
    """
    rows = [_row(variant, seed, number, devices) for number in range(rounds + 1)]
    if consensus:
        rows[0]["spectral_gap"] = 0.146
    for row in rows[1:]:
        start = row["round"] - 1.0
        if spans:
            row["spans"] = [span for device in range(devices) for span in _spans(device, start)]
        if consensus:
            row["consensus_distance"] = 10.0 ** -row["round"]
    return rows


def _row(variant: str, seed: int, number: int, devices: int) -> dict[str, Any]:
    score = {"test_accuracy": 0.9 - 0.8 * float(np.exp(-number / 5)), "test_loss": 0.4 + 2 * float(np.exp(-number / 5))}
    row: dict[str, Any] = {"variant": variant, "seed": seed, "round": number} | score
    if number == 0:
        return row | {"parameters": 650, "training_examples": 100 * devices}
    return row | {
        "accepted": devices - 1, "rejected": 1, "late": 0, "empty": False, "failures": [], "model_version": number,
        "staleness": [0, devices - 1, 0, 1], "clock_s": 1.0 * number, "compute_s": 0.6 * number,
        "energy_j_per_device_mean": 2.0 * number, "energy_j_per_device_max": 3.0 * number,
        "bits_per_device_mean": 20_800.0 * number, "utilisation": [0.6] + [0.5] * (devices - 1),
        "wall_evaluate_s": 0.01 * number, "wall_s": 0.1 * number,
    }  # fmt: skip


def _spans(device: int, start: float) -> list[list[Any]]:
    done = start + (0.7 if device == 0 else 0.6)
    return [
        [device, "receive", start, start + 0.1],
        [device, "compute", start + 0.1, done],
        [device, "send", done, done + 0.2],
    ]


def system_summary(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return the entry of ``summary.json`` for the lines of one variant and seed."""
    last = rows[-1]
    return {
        "name": last["variant"], "rounds": last["round"], "seeds": [last["seed"]], "units": "physical",
        "clock": "simulated", "devices": len(last["utilisation"]), "parameters": 650,
        "test_accuracy": last["test_accuracy"], "test_accuracy_std": 0.0, "test_loss": last["test_loss"],
        "test_loss_std": 0.0, "channel_uses": 0, "air_time_s": 0.0, "clock_s": last["clock_s"],
        "compute_s": last["compute_s"], "wall_s": last["wall_s"],
        "energy_j_per_device_mean": last["energy_j_per_device_mean"],
        "energy_j_per_device_max": last["energy_j_per_device_max"],
        "bits_per_device_mean": last["bits_per_device_mean"],
    } | changes  # fmt: skip
