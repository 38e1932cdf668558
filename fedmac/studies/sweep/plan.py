"""What a sweep is going to cost: cells, rounds, channel uses, energy, and time."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fedmac.budget import Budget, budget_of
from fedmac.build_devices import build_data, build_model
from fedmac.record import ROUNDS, folder_of, read_rounds
from fedmac.scenario import Scenario, Variant
from fedmac.studies.processes import run_in_processes
from fedmac.studies.sweep.folder import Cell, Sweep, variant_is_done
from fedmac.studies.sweep.job import Job

_TRIAL_ROUNDS = 3
_TRIAL_SECONDS = 5.0
_LONGEST_TRIAL = 20.0  # with the start of the process


@dataclass(frozen=True)
class Share:
    """What one variant may spend in the runs of a sweep.

    Parameters
    ----------
    variant : str
        Its name.
    budgets : list of Budget
        What a run of it may spend, in each cell.
    units : set of str
        Those of its channel, "physical" or "normalised", in all cells.
    """

    variant: str
    budgets: list[Budget]
    units: set[str]


@dataclass(frozen=True)
class Estimate:
    """How long what is left of a sweep may take.

    Parameters
    ----------
    seconds : float or None
        None if nothing is known.
    basis : str
        What the estimate rests on, or why there is none.
    """

    seconds: float | None
    basis: str


def rounds_of(sweep: Sweep, cell: Cell) -> int:
    """Rounds of one run of a cell, its variants together."""
    return sum(variant.scenario.rounds for variant in sweep.variants(cell))


def shares(sweep: Sweep) -> list[Share]:
    """What each variant may spend, from :func:`fedmac.budget.budget_of`."""
    sizes: dict[str, int] = {}
    found: dict[str, Share] = {}
    for cell in sweep.cells:
        for variant in sweep.variants(cell):
            scenario = variant.scenario
            share = found.setdefault(variant.name, Share(variant.name, [], set()))
            share.budgets.append(budget_of(scenario, _parameters(scenario, sizes)))
            share.units.add(scenario.channel.units)
    return list(found.values())


def _parameters(scenario: Scenario, sizes: dict[str, int]) -> int:
    """Length of an update; models and data met before are not built again."""
    key = repr((scenario.data, scenario.model, scenario.training.dtype))
    if key not in sizes:
        model = build_model(scenario, build_data(scenario, scenario.seed), scenario.seed)
        sizes[key] = sum(p.numel() for p in model.state_dict().values() if p.is_floating_point())
    return sizes[key]


def estimate(sweep: Sweep, at_once: int, *, trial: Job | None) -> Estimate:
    """The time that the runs which are not done may take.

    Parameters
    ----------
    sweep : Sweep
        What runs; what its folder holds already is not run again.
    at_once : int
        Processes that run side by side.
    trial : Job, optional
        A short run of the first cell, see :func:`trial_job`; without it, only finished runs can tell.
    """
    left = [(cell, seed) for cell, seed in sweep.jobs if sweep.state(cell, seed).status != "done"]
    if not any(rounds_of(sweep, cell) for cell, _ in left):
        return Estimate(0.0, "all jobs are done" if not left else "no rounds to train")
    seconds, basis = _from_finished_runs(sweep)
    start = 0.0
    if not seconds and trial is not None:
        seconds, start = _from_trial(sweep.variants(sweep.cells[0]), trial)
        basis = "from a trial of the first rounds"
        if not seconds:
            return Estimate(None, f"a trial has not come to its first round within {_TRIAL_SECONDS:.0f} s, or failed")
    if not seconds:
        return Estimate(None, "no run is done yet")
    usual = sum(seconds.values()) / len(seconds)
    of_jobs = sorted(
        start + sum(v.scenario.rounds * seconds.get(v.name, usual) for v in sweep.variants(cell)) for cell, _ in left
    )
    waves = math.ceil(len(left) / at_once)
    return Estimate(max(sum(of_jobs) / len(left) * waves, of_jobs[-1]), basis)


def _from_finished_runs(sweep: Sweep) -> tuple[dict[str, float], str]:
    """Seconds a round of each variant of which a run is done."""
    rates: dict[str, list[float]] = {}
    for cell, seed in sweep.jobs:
        if not cell.run_folder(seed).is_dir():
            continue
        scenario, folder = cell.run_scenario(seed), cell.run_folder(seed)
        for variant in (v for v in scenario.resolve() if variant_is_done(scenario, folder, v)):
            rounds = read_rounds(folder_of(scenario, folder, variant.name) / ROUNDS)
            if rounds and rounds[-1]["round"] > 0:
                rates.setdefault(variant.name, []).append(rounds[-1]["wall_s"] / rounds[-1]["round"])
    done = sum(map(len, rates.values()))
    mean = {name: sum(values) / len(values) for name, values in rates.items()}
    return mean, f"from {done} finished run{'s' if done > 1 else ''}"


def trial_job(sweep: Sweep, folder: Path, workers: int) -> Job:
    """The first rounds of the first cell, in a folder that is thrown away."""
    cell = sweep.cells[0]
    rounds = min([_TRIAL_ROUNDS, *(v.scenario.rounds for v in sweep.variants(cell))])
    changes = {"rounds": rounds, "engine.workers": workers}
    scenario = Scenario.load(cell.run_scenario(sweep.seeds[0]), changes)
    return Job(
        "trial", scenario.content(), folder / "run", tuple(sweep.only), folder / "log", scenario.training.threads
    )


def estimate_by_trial(sweep: Sweep, at_once: int, workers: int) -> Estimate:
    """:func:`estimate`, with a trial if no run is done yet; nothing is left of it."""
    if sweep.cells[0].scenario.engine.kind == "flower":
        return estimate(sweep, at_once, trial=None)
    with tempfile.TemporaryDirectory(prefix="fedmac-trial-") as folder:
        return estimate(sweep, at_once, trial=trial_job(sweep, Path(folder), workers))


class _Enough(Exception):
    """The trial has taken its time."""


def _from_trial(variants: Sequence[Variant], trial: Job) -> tuple[dict[str, float], float]:
    """Seconds a round of each variant that the trial got to, and seconds a run takes beside its rounds."""
    scenario = Scenario.load(trial.content)
    files = {v.name: folder_of(scenario, trial.folder, v.name) / ROUNDS for v in variants}
    begun = time.monotonic()
    first: list[float] = []
    over: list[float] = []

    def watch() -> None:
        now = time.monotonic()
        if not first and any(path.exists() for path in files.values()):
            first.append(now)
        if now - begun > _LONGEST_TRIAL or (first and now - first[0] > _TRIAL_SECONDS):
            raise _Enough

    with suppress(_Enough):
        run_in_processes([trial.task], 1, ended=lambda _, __: over.append(time.monotonic()), poll=watch)
    records = {name: read_rounds(path) if path.exists() else [] for name, path in files.items()}
    rates = {name: _seconds_a_round([r["wall_s"] for r in rounds]) for name, rounds in records.items()}
    spent = sum(rounds[-1]["wall_s"] for rounds in records.values() if rounds)
    beside = max(0.0, over[0] - first[0] - spent) if over and first else 0.0
    return {name: rate for name, rate in rates.items() if rate is not None}, beside


def _seconds_a_round(walls: Sequence[float]) -> float | None:
    """From the seconds at the end of each round, 0 the first; the first round also warms up and counts only alone."""
    if len(walls) < 2:
        return None
    return (walls[-1] - walls[1]) / (len(walls) - 2) if len(walls) > 2 else walls[1] - walls[0]
