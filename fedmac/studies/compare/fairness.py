"""Whether a comparison is fair: the same data and model, and equal budgets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fedmac.budget import Budget
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError, shown

TOLERANCE = 0.02
"""Budgets that differ by no more, relative to the baseline's, count as equal."""

_QUANTITIES = {"energy": "energy", "channel_uses": "channel uses", "examples": "examples"}
_NOT_SET = "not set"


def unequal_budgets(budget: Budget, baseline: Budget, *, energy: bool = True) -> tuple[str, ...]:
    """What differs by more than 2 %: ``("energy +31 %", "channel uses −50 %")``; empty if nothing does.

    Parameters
    ----------
    budget, baseline : Budget
        The first is measured against the second. What one of them does not know is not compared.
    energy : bool
        Whether energies are in the same units.
    """
    texts = []
    for field, words in _QUANTITIES.items():
        own, reference = getattr(budget, field), getattr(baseline, field)
        if own is None or reference is None or (field == "energy" and not energy):
            continue
        if not _equal(own, reference):
            texts.append(f"{words} {_change(own, reference)}")
    return tuple(texts)


def require_same_task(sources: Mapping[str, Sequence[Scenario]], swept: Collection[str] = ()) -> None:
    """Refuse folders whose ``[data]`` or ``[model]`` differ: their figures answer different questions.

    Variants of one folder may differ, for their scenario says so; of two folders, each key must have the same set of
    values in both. Seeds do not matter.

    Parameters
    ----------
    sources : mapping of str to sequence of Scenario
        Name of a folder to the scenarios of its variants.
    swept : collection of str
        Dotted keys that a sweep varies on purpose.

    Raises
    ------
    ScenarioError
        Naming each key that differs, and both values.
    """
    tasks = {name: [_task(scenario) for scenario in scenarios] for name, scenarios in sources.items() if scenarios}
    names = list(tasks)
    keys = dict.fromkeys(key for each in tasks.values() for task in each for key in task)
    lines = []
    for key in (key for key in keys if key not in swept):
        values = {name: _values(tasks[name], key) for name in names}
        other = next((name for name in names if values[name] != values[names[0]]), None)
        if other is not None:
            lines.append(f"{key} = {_listed(values[names[0]])} in {names[0]}, {_listed(values[other])} in {other}")
    if lines:
        accepted = "runs of the same data and model (or one scenario whose variants declare the difference)"
        raise ScenarioError("\n".join(lines) + f"; accepted: {accepted}")


def _equal(own: float, reference: float) -> bool:
    # A hair of leeway, so that exactly 2 % is equal whatever the rounding.
    return abs(own - reference) <= TOLERANCE * abs(reference) * (1 + 1e-9)


def _change(own: float, reference: float) -> str:
    if reference == 0:
        return f"{own:,.4g} against none"
    if own >= 3 * reference:  # beyond that a factor is easier to read than a percentage
        return f"{own / reference:,.3g} times"
    percent = 100 * (own - reference) / reference
    sign = "+" if percent > 0 else "\N{MINUS SIGN}"
    size = f"{abs(percent):.1f}".removesuffix(".0") if abs(percent) < 10 else f"{abs(percent):,.0f}"
    return f"{sign}{size} %"


def _task(scenario: Scenario) -> dict[str, Any]:
    content = scenario.content()
    return {f"{table}.{key}": value for table in ("data", "model") for key, value in content.get(table, {}).items()}


def _values(tasks: Sequence[Mapping[str, Any]], key: str) -> frozenset[str]:
    return frozenset(shown(task[key]) if key in task else _NOT_SET for task in tasks)


def _listed(values: frozenset[str]) -> str:
    return " or ".join(sorted(values))
