"""A comparison in words: who leads, what can be claimed, and whether it was fair."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedmac.axes import best_direction, falls_to_zero, label
from fedmac.studies.compare.findings import Comparison
from fedmac.studies.compare.statistics import LEVEL, Estimate, Pair

MAX_NAMES = 8  # listed in a sentence


def facts(comparison: Comparison) -> str:
    """One line: how many series and seeds, the target, the baseline."""
    counts = sorted({len(one.seeds) for one in comparison.series})
    seeds = "–".join(str(count) for count in {counts[0]: None, counts[-1]: None})  # noqa: RUF001 (a range)
    words = [f"{len(comparison.series)} series", f"{seeds} {'seed' if counts[-1] == 1 else 'seeds'}"]
    words.append(f"baseline {comparison.baseline}")
    if comparison.target is not None:
        key, value = comparison.target
        words.append(f"target {called(comparison, key)} {value:g}")
    return " · ".join(words)


def verdict(comparison: Comparison) -> list[str]:
    """Who leads on the final y, what can be claimed against the baseline, and whether budgets were equal."""
    return [sentence for sentence in (_leader(comparison), *_claims(comparison), _fairness(comparison)) if sentence]


def called(comparison: Comparison, key: str) -> str:
    """An axis or a figure in words, with its unit."""
    return comparison.labels.get(key) or label(key)


def figure_words(key: str, found: Estimate) -> str:
    """A figure over seeds as it reads; one that falls towards zero keeps three digits, however small."""
    return found.precise() if falls_to_zero(key) else str(found)


def listed(names: Sequence[str]) -> str:
    """Names in a row (they may hold commas); of many the first few, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return "; ".join(names[:MAX_NAMES]) + more


def _leader(comparison: Comparison) -> str:
    known = [one for one in comparison.series if math.isfinite(one.final.mean)]
    y = called(comparison, comparison.y)
    if not known:
        return f"No series has a finite {y} at its end."
    high = best_direction(comparison.y) == "high"
    best = (max if high else min)(known, key=lambda one: one.final.mean)
    seeds = f"{best.final.n} {'seed' if best.final.n == 1 else 'seeds'}"
    which = "Highest" if high else "Lowest"
    ties = [one.name for one in known if one is not best and math.isclose(one.final.mean, best.final.mean)]
    tied = f" Equal to it: {listed(ties)}." if ties else ""
    return f"{which} final {y}: {best.name}, {figure_words(comparison.y, best.final)} ({seeds}).{tied}"


def _claims(comparison: Comparison) -> list[str]:
    """The pairs sorted into higher, lower and not told apart by the paired test."""
    tested = [pair for pair in comparison.pairs if pair.difference.n > 1]
    if not tested:
        return []
    higher = [pair.name for pair in tested if _claimed(pair) and pair.difference.mean > 0]
    lower = [pair.name for pair in tested if _claimed(pair) and pair.difference.mean < 0]
    untested = [pair.name for pair in tested if pair.holm_p is None and pair.difference.mean != 0]
    open_ = [pair.name for pair in tested if not _claimed(pair) and pair.name not in untested]
    than, test = _baseline(comparison), "by the paired t test at 5 % (Holm)"
    parts = (
        (f"Higher than {than}, {test}", higher),
        (f"Lower than {than}, {test}", lower),
        (f"Cannot be told apart from {than}, {test}", open_),
        (f"Differ from {than} by the same under every seed, so that the t test is not defined", untested),
    )
    return [f"{sentence}: {listed(names)}." for sentence, names in parts if names]


def _baseline(comparison: Comparison) -> str:
    return f"{comparison.baseline} of the same cell" if _own_baselines(comparison) else comparison.baseline


def _own_baselines(comparison: Comparison) -> bool:
    """Whether each cell of a sweep has its own baseline."""
    return sum(one.is_baseline for one in comparison.series) > 1


def _claimed(pair: Pair) -> bool:
    return pair.holm_p is not None and pair.holm_p < LEVEL


def _fairness(comparison: Comparison) -> str:
    unequal = [f"{one.name} ({', '.join(one.unequal)})" for one in comparison.series if one.unequal]
    if unequal:
        return f"Unequal budget, so not a fair comparison: {listed(unequal)}."
    if comparison.equal:
        where = "Within each cell budgets" if _own_baselines(comparison) else "Budgets"
        return f"{where} (energy, channel uses, data) are equal within 2 %."
    return "Budgets differ by more than 2 % and were compared all the same, as asked for (--unequal)."
