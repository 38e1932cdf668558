"""Comparisons with made-up figures, for the tests of what is drawn of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmac.budget import Budget
from fedmac.studies.compare.comparison import Comparison, Curve, Estimate, Pair, Pareto, Series, Source, Target

LABELS = {
    "round": "round",
    "energy": "energy per device (normalised)",
    "channel_uses": "channel uses",
    "test_accuracy": "test accuracy",
    "test_loss": "test loss",
    "objective_gap": "objective gap",
}
AXES = {"energy": 50.0, "round": 1.0, "channel_uses": 785.0}


def series(
    name: str,
    height: float = 0.9,
    *,
    settings: Mapping[str, Any] | None = None,
    variant: str | None = None,
    seeds: int = 5,
    unequal: Sequence[str] = (),
    reached: int | None = None,
) -> Series:
    """A series that learns up to `height`; with one seed it has no band and no intervals."""
    rounds = np.linspace(0, 100, 101)
    mean = height - (height - 0.1) * np.exp(-rounds / 15)
    band = np.full(101, 0.01) if seeds > 1 else None
    half = 0.004 if seeds > 1 else None
    reached = seeds if reached is None else reached
    return Series(
        name=name,
        settings=settings or {},
        variant=variant or name,
        folder=Path("runs/x"),
        seeds=tuple(range(seeds)),
        budget=Budget(78500, 5000.0, 4000),
        unequal=tuple(unequal),
        curves={axis: Curve(rounds * scale, mean, band, seeds) for axis, scale in AXES.items()},
        final=Estimate(float(mean[-1]), half, seeds),
        costs={axis: Estimate(100 * scale, half, seeds) for axis, scale in AXES.items()},
        target=Target(
            Estimate(2000.0 + 1e4 * (0.95 - height), 100.0 if reached > 1 else None, reached) if reached else None,
            reached,
            seeds,
            height,
        ),
        is_baseline=False,
        area=Estimate(0.8 * height, half, seeds),
    )


def gaps(name: str, mean: Sequence[float], half_width: float = 0.0) -> Series:
    """A series whose objective gap after each round is given, with the same half width everywhere."""
    values, rounds = np.array(mean, dtype=np.float64), np.arange(len(mean), dtype=np.float64)
    band = np.full(len(values), half_width)
    return dataclasses.replace(
        series(name),
        curves={axis: Curve(rounds * scale, values, band, 5) for axis, scale in AXES.items()},
        final=Estimate(float(values[-1]), half_width, 5),
    )


def comparison(drawn: Sequence[Series], **changes: Any) -> Comparison:
    """A comparison of series against the first of them, on a target of 0.88."""
    drawn = [dataclasses.replace(one, is_baseline=one is drawn[0]) for one in drawn]
    base, *others = drawn
    pairs = [_pair(one, base) for one in others]
    made = Comparison(
        x="energy",
        y="test_accuracy",
        baseline=base.name,
        series=tuple(drawn),
        pairs=tuple(pairs),
        target=("test_accuracy", 0.88),
        pareto=None,
        notices=("a <notice> & more",),
        equal=not any(one.unequal for one in drawn),
        labels=LABELS,
        axes=tuple(AXES),
        sources=(Source("quick", Path("runs/quick"), 'name = "a <scenario>"\n', {"versions": {"torch": "2.13.0"}}),),
    )
    return dataclasses.replace(made, **changes)


def _pair(one: Series, base: Series) -> Pair:
    gap = one.final.mean - base.final.mean
    if len(one.seeds) < 2:
        return Pair(one.name, base.name, Estimate(gap, None, 1), None, None, None, f"{one.name}: one seed, no test.")
    p = 0.2 if abs(gap) < 0.005 else 0.001
    claim = "no difference can be claimed at 5 %." if p > 0.05 else "a difference at 5 %."
    text = f"{one.name} differs from {base.name} by {gap:.4f} ± 0.0050 (5 seeds; paired t p = {p}): {claim}"
    return Pair(one.name, base.name, Estimate(gap, 0.005, len(one.seeds)), p, 0.0625, p, text)


def front(drawn: Sequence[Series], columns: Sequence[str]) -> Pareto:
    """Made-up points in the columns given, of which every second is on the front."""
    points = pd.DataFrame({"name": [one.name for one in drawn]})
    for place, column in enumerate(columns):
        points[column] = [100.0 - 3 * place * index + index for index in range(len(drawn))]
    points["on_front"] = [index % 2 == 0 for index in range(len(drawn))]
    return Pareto(tuple(columns), ("low",) * len(columns), points)


def grid(first: Sequence[Any], second: Sequence[Any] = (), variants: Sequence[str] = ("rlc",)) -> list[Series]:
    """The series of a sweep over one key or two."""
    found = []
    for a in first:
        for b in second or [None]:
            for place, variant in enumerate(variants):
                settings = {"channel.snr_db": a} | ({} if b is None else {"uplink.ratio": b})
                cell = ",".join(f"{key}={value}" for key, value in settings.items())
                height = 0.5 + 0.02 * len(found) % 0.4 + 0.01 * place
                found.append(series(f"{cell} / {variant}", height, settings=settings, variant=variant))
    return found
