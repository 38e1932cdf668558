"""A trial: a variant run with some values under each seed, and what it scores on the validation rows."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedmac.record import RoundRecord
from fedmac.scenario import Scenario
from fedmac.scenario_merge import merge, nest
from fedmac.studies.tune.search_space import Value, Values

State = Literal["done", "pruned", "diverged"]

Judge = Callable[[int, float], bool]
"""Called with a round and the metric after it under the first seed; whether the trial is to be pruned."""


@dataclass(frozen=True)
class Trial:
    """One combination of values and what came of it.

    Parameters
    ----------
    state : {"done", "pruned", "diverged"}
        Whether it came to its end under all seeds.
    values : dict
        The tuned keys' values.
    metric : tuple of float
        After the last round, under each seed; empty unless done.
    reason : str
        Why it ended early; empty if done.
    """

    state: State
    values: Values
    metric: tuple[float, ...] = ()
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """Mean over seeds of the metric after the last round."""
        return statistics.fmean(self.metric) if self.metric else None

    @property
    def std(self) -> float | None:
        """Standard deviation over seeds (n - 1 in the denominator; 0 for one seed)."""
        if not self.metric:
            return None
        return statistics.stdev(self.metric) if len(self.metric) > 1 else 0.0


def with_values(scenario: Scenario, values: Mapping[str, Value]) -> Scenario:
    """A variant with values put over its own.

    Raises
    ------
    ScenarioError
        If it cannot have them.
    """
    return Scenario.load(merge(scenario.content(), nest(values)))


def run_trial(
    scenario: Scenario, values: Values, *, seeds: int, metric: str, judge: Judge, folder: Path, workers: int
) -> Trial:
    """Run a variant with `values` under each seed, in a folder that is made for it and goes when it has ended.

    Parameters
    ----------
    scenario : Scenario
        The variant; it evaluates validation rows.
    values : dict
        Put over the variant's own.
    seeds : int
        Runs, with the scenario's seed, seed + 1, and so on.
    metric : {"validation_accuracy", "validation_loss", "train_objective"}
        What it scores.
    judge : callable
        Says after each evaluation under the first seed whether the trial is hopeless.
    folder : Path
        Made, and removed.
    workers : int
        Worker processes of a run.

    Raises
    ------
    EngineError
        If an engine failed.
    """
    changed = with_values(scenario, values)
    scores = []
    try:
        for number in range(seeds):
            watch = _Watch(metric, judge if number == 0 else None)
            _run_seed(changed, scenario.seed + number, folder / str(number), watch, workers)
            scores.append(watch.score)
    except _Ended as ended:
        return Trial(ended.state, values, reason=str(ended))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Trial("done", values, tuple(scores))


class _Ended(Exception):
    """A trial does not come to its end."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class _Watch:
    """Reads the metric off a run's rounds, and ends the run where it diverges or is not worth going on."""

    def __init__(self, metric: str, judge: Judge | None) -> None:
        self.metric = metric
        self.judge = judge
        self.score = float("nan")
        self.heard = 0
        self.failure = ""

    def __call__(self, record: RoundRecord) -> None:
        self.heard += record.get("participants", 0)
        unheard = [*record.get("failures", []), *record.get("not_asked", [])]
        self.failure = next((one["reason"] for one in unheard), self.failure)
        if self.metric not in record:
            return
        number = int(record["round"])
        if record["validation_loss"] is None or record[self.metric] is None:
            raise _Ended("diverged", f"the loss is not finite after round {number} (seed {record['seed']})")
        self.score = float(record[self.metric])
        if self.judge is not None and number and self.judge(number, self.score):
            raise _Ended("pruned", f"worse than the median of earlier trials after round {number}")


def _run_seed(scenario: Scenario, seed: int, folder: Path, watch: _Watch, workers: int) -> None:
    """Run a variant under one seed into a new folder."""
    from fedmac.engines import run_jobs
    from fedmac.engines.superlink import EngineError
    from fedmac.logs import quiet_flower
    from fedmac.session import plan
    from strategies.iterations import NobodyAnswers

    shutil.rmtree(folder, ignore_errors=True)
    unkept = {"engine.checkpoint_every": 0, "engine.checkpoint_arrivals": None}
    alone = Scenario.load(scenario, {"seed": seed, "seeds": 1, **unkept})
    try:
        with quiet_flower():
            run_jobs(alone, folder, plan(alone, folder), watch, workers=workers)
    except NobodyAnswers as nobody:
        # In the middle of an iteration, when steps far too large have made every device's vector infinite.
        raise _Ended("diverged", f"{nobody} (seed {seed})") from None
    except EngineError:
        if not watch.failure or watch.heard:
            raise
        # Every update of every round was refused, as a learning rate far too large makes them infinite.
        raise _Ended("diverged", f"no device's update could be used (seed {seed}): {watch.failure}") from None
