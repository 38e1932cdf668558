"""Run folders with figures that a test chooses, of scenarios that are real: what a comparison reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fedmac.record import folder_of
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import VARIANTS, small

Height = Callable[[int, int], float | None]
"""y of a seed in a round."""


def rising(slope: float, start: float = 0.1) -> Height:
    """A straight line; each seed a thousandth above the one before, so that there is a spread."""
    return lambda seed, number: start + slope * number + 0.001 * seed


def record(number: int, y: float | None, *, energy: float = 12.5, uses: int = 100, **more: Any) -> dict[str, Any]:
    """A round's line but for variant and seed."""
    if number == 0:
        return {"round": 0, "parameters": 650, "training_examples": 1437, "test_accuracy": y, "wall_s": 0.01}
    spent = {
        "exchange": number,
        "channel_uses": uses * number,
        "bits_per_device_mean": 0.0,
        "energy_j_per_device_mean": energy * number,
        "air_time_s": 1e-4 * number,
        "clock_s": 1e-3 * number,
        "wall_s": 0.01 + 0.02 * number,
        "devices": [0, 1, 2, 3],
        "heard": True,
    }
    return {"round": number, "test_accuracy": y, "train_loss": 2.0 / number} | spent | more


def lines(variant: str, height: Height, *, seeds: Sequence[int], rounds: int, **costs: Any) -> list[dict[str, Any]]:
    """The lines of ``rounds.jsonl``."""
    return [
        {"variant": variant, "seed": seed} | record(number, height(seed, number), **costs)
        for seed in seeds
        for number in range(rounds + 1)
    ]


def write_run(
    folder: Path,
    heights: Mapping[str, Height],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    rounds: int = 10,
    changes: Mapping[str, Any] | None = None,
    variants: Sequence[Mapping[str, Any]] = VARIANTS,
    **costs: Any,
) -> Path:
    """A run folder with the variants that `heights` names."""
    declared = [variant for variant in variants if variant["name"] in heights]
    top = {"rounds": rounds, "seed": seeds[0], "seeds": len(seeds), "variants": declared}
    scenario = Scenario.load(small(changes, **top))
    folder.mkdir(parents=True)
    (folder / "scenario.toml").write_text(tomli_w.dumps(scenario.content()), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"versions": {"fedmac": "0.1.0"}}), encoding="utf-8")
    for name, height in heights.items():
        write_rounds(folder_of(scenario, folder, name), lines(name, height, seeds=seeds, rounds=rounds, **costs))
    return folder


def write_rounds(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A ``rounds.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rounds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_sweep(
    folder: Path, grid: Mapping[str, Sequence[Any]], heights: Callable[[Mapping[str, Any]], Mapping[str, Height]]
) -> Path:
    """The folder of a sweep over `grid`, in which every run has ended."""
    from fedmac.record import model_path
    from fedmac.studies.sweep.folder import read_sweep

    folder.mkdir(parents=True)
    rows = [{"key": key, "values": list(values)} for key, values in grid.items()]
    plan = {"name": "small", "seed": 0, "seeds": 2, "only": [], "grid": rows}
    (folder / "sweep.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    for cell in read_sweep(folder).cells:
        of_cell = heights(cell.settings)
        whole = Scenario.load(
            small(cell.settings, rounds=10, seeds=2, variants=[v for v in VARIANTS if v["name"] in of_cell])
        )
        cell.folder.mkdir(parents=True)
        (cell.folder / "scenario.toml").write_text(tomli_w.dumps(whole.content()), encoding="utf-8")
        for seed in (0, 1):
            run = write_run(cell.run_folder(seed), of_cell, seeds=[seed], changes=cell.settings)
            for variant in Scenario.load(run / "scenario.toml").resolve():
                model_path(run / variant.name, variant, seed).touch()
    return folder
