"""Runs of scenarios/scaling.py up to the target loss, kept on disk as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling_cells import SYSTEMS, Cell
from scaling_learning import Learning
from scaling_peers import run_peers
from scaling_server import run_server

from fedmac.scenario import Scenario
from strategies.names import STRATEGIES
from strategies.peers.peer import Vector

UPDATES = 64
"""From one look at the loss to the next, where a round has no more."""
LOOSE = ("gossip", "elastic-averaging")
"""Systems in which replicas differ."""
COSTS = ("time_s", "joules", "radio_joules", "rows", "bits", "utilisation")
"""What a run takes to the target; None if it was not reached."""


@dataclass
class Watch:
    """Looks at each round's model until its loss is at the target, or is no number any more.

    Attributes
    ----------
    learning : Learning
        Knows the losses.
    rows : {"validation", "test"}
        On which rows.
    target : float
        Loss to be reached.
    every : int
        Rounds from one look to the next.
    rounds : int
        Rounds so far.
    last : float
        Loss after the last.
    """

    learning: Learning
    rows: str
    target: float
    every: int
    rounds: int = field(default=0, init=False)
    last: float = field(default=math.inf, init=False)

    def __call__(self, number: int, x: Vector) -> bool:
        self.rounds = number
        if number % self.every:
            return False
        self.last = self.learning.loss(x, self.rows)
        return self.reached or math.isinf(self.last)

    @property
    def reached(self) -> bool:
        """Whether the last loss was at the target or below it."""
        return self.last <= self.target


class NotRun(LookupError):
    """A run is not there, and nothing is to be run."""


class Runs:
    """Runs one system in one cell at one rate under one seed.

    Parameters
    ----------
    source : Path
        The scenario.
    target : float
        Loss to be reached.
    out : Path
        Folder of the study; each cell has a file ``runs.jsonl`` in its folder, with a line for each run.
    only_known : bool, default False
        Run nothing that is not there.
    """

    def __init__(self, source: Path, target: float, out: Path, *, only_known: bool = False) -> None:
        self.source, self.target, self.out, self.only_known = source, target, out, only_known
        self._base = base_of(source)
        self._learnings: dict[tuple[str, int, int], Learning] = {}

    def figures(self, cell: Cell, system: str, rate: float, seed: int, rows: str = "test") -> dict[str, Any]:
        """What the run took to the target: costs are None if it was not reached.

        Raises
        ------
        NotRun
            If it is not there, and nothing is to be run.
        """
        kept, name = Kept(self.out / cell.folder / "runs.jsonl"), f"{system}, {rows} rows, rate {rate:g}, seed {seed}"
        if self.only_known and name not in kept.known:
            raise NotRun(f"{kept.path}: {name}: not there")
        told: dict[str, Any] = kept.get(name, lambda: self._run(cell, system, rate, seed, rows))
        return told

    def _run(self, cell: Cell, system: str, rate: float, seed: int, rows: str) -> dict[str, Any]:
        scenario = scenario_of(self._base, cell, system, rate)
        learning = self._learning(cell, seed, scenario)
        learning.rate = rate
        watch = Watch(learning, rows, self.target, every=max(1, UPDATES // cell.workers))
        run = run_peers if STRATEGIES[scenario.strategy.name].peers else run_server
        used = run(scenario, learning, watch)
        told: dict[str, Any] = dict.fromkeys(COSTS) | {"rounds": watch.rounds, "last_loss": watch.last}
        if watch.reached:
            told |= {
                "time_s": used["clock_s"],
                "joules": used["energy_j_per_device_mean"] * cell.workers,
                "radio_joules": used["radio_j_per_device_mean"] * cell.workers,
                "rows": watch.rounds * cell.workers * cell.batch,  # also those of updates that came late
                "bits": (used["bits_per_device_mean"] + used["bits_down_per_device_mean"]) * cell.workers,
                "utilisation": used["utilisation_mean"],
            }
            told |= {name: used[name] for name in ("staleness", "rejected", "consensus_distance") if name in used}
        return told

    def _learning(self, cell: Cell, seed: int, scenario: Scenario) -> Learning:
        key = (cell.scaling, cell.workers, seed)
        if key not in self._learnings:
            self._learnings[key] = Learning(scenario, seed)
        return self._learnings[key]


def base_of(source: Path) -> Scenario:
    """The scenario without its variants."""
    return Scenario.load({key: value for key, value in Scenario.load(source).content().items() if key != "variants"})


def scenario_of(base: Scenario, cell: Cell, system: str, rate: float) -> Scenario:
    """One system in one cell, as a scenario that `fedmac run` takes too."""
    content, settings = base.content(), cell.settings(base)
    content |= {"name": system, "seeds": 1, "rounds": most_rounds(cell.workers, system)}
    content |= {"strategy": SYSTEMS[system](cell.workers), "devices": settings["devices"]}
    content["network"] = settings["network"]
    content["data"] |= settings["data"]
    content["training"] |= settings["training"] | {"learning_rate": rate}
    return Scenario.load(content)


def most_rounds(workers: int, system: str) -> int:
    """Rounds after which a run is given up: the more workers, the fewer it takes, down to those of full batches.

    Replicas that step by themselves take longer: what one has learnt reaches the others in some rounds.
    """
    return (80 + 1600 // workers) * (4 if system in LOOSE else 1)


class Kept:
    """Figures of runs that are done, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.known: dict[str, Any] = dict(map(json.loads, lines))

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """What is known by this key, or else what `make` gives."""
        if key not in self.known:
            self.known[key] = made = make()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, made]) + "\n")
        return self.known[key]
