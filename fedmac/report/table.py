"""The verdict: one row per variant, what each column means, and whether the comparison is at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Variant = Mapping[str, Any]
ABSENT = "\N{EN DASH}"
UNITS = {"physical": "J", "normalised": "normalised"}


@dataclass(frozen=True)
class Column:
    """A column of the verdict table: its key in the summary, heading, one sentence, and how a value reads."""

    key: str
    heading: str
    note: str
    text: Callable[[float], str]
    spread: bool = False


def count(value: float) -> str:
    """Write a count with thousands separators: ``157,000``; parts of one are rounded away."""
    return f"{value:,.0f}"


def score(value: float) -> str:
    """Write a score to three decimals: ``0.893``."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"


def quantity(value: float) -> str:
    """Write a physical quantity to four digits: ``1.234e-06``, ``10,000``."""
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


COLUMNS = (
    Column(
        "test_accuracy",
        "test accuracy",
        "Share of test examples classified rightly by the last model.",
        score,
        True,
    ),
    Column(
        "validation_accuracy",
        "validation accuracy",
        "The same on held-out training examples, on which learning rates are chosen.",
        score,
        True,
    ),
    Column("test_loss", "test loss", "Mean loss of the last model over the test examples.", score, True),
    Column("rounds", "rounds", "Rounds of training done.", count),
    Column("channel_uses", "channel uses", "Uses of the shared channel over all rounds.", count),
    Column(
        "energy_j_per_device_mean",
        "energy per device, mean",
        "Transmit energy over all rounds, averaged over the devices.",
        quantity,
    ),
    Column(
        "energy_j_per_device_max",
        "energy per device, max",
        "Transmit energy of the device that spent most.",
        quantity,
    ),
    Column("air_time_s", "air time (s)", "Simulated seconds for which the channel was occupied.", quantity),
    Column("wall_s", "wall time (s)", "Seconds the simulation itself took on this machine.", quantity),
)


def energy_unit(variants: Sequence[Variant]) -> str | None:
    """Return the unit of energy all variants share, ``J`` or ``normalised``, or None if there is none."""
    units = {UNITS.get(str(variant.get("units"))) for variant in variants}
    return units.pop() if len(units) == 1 else None


def number(variant: Variant, key: str) -> float | None:
    """Return a variant's figure as a float, or None where it is absent, null or no number."""
    value = variant.get(key)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def verdict_table(variants: Sequence[Variant]) -> str:
    """Return the table, with its columns' notes, as HTML; columns that no variant fills are left out."""
    columns = [column for column in COLUMNS if any(number(variant, column.key) is not None for variant in variants)]
    shared = energy_unit(variants)
    heads = "".join(f'<th scope="col">{escape(_heading(column, shared))}</th>' for column in columns)
    body = "".join(_row(variant, columns, shared is None) for variant in variants)
    notes = "".join(_note(column.heading, column.note) for column in columns)
    if any(column.key.startswith("energy") for column in columns):
        notes += _note("unit of energy", _unit_note(variants))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdict table"><table class="verdict">'
        f'<thead><tr><th scope="col">variant</th><th scope="col">seeds</th>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><dl class="notes">{notes}</dl>'
    )


def verdict_sentences(variants: Sequence[Variant]) -> list[str]:
    """Say in words who leads, who cannot be told apart from the leader, and whether the costs were equal."""
    scored = [(value, variant) for variant in variants if _finite(value := number(variant, "test_accuracy"))]
    if len(scored) < 2:
        return []
    top, leader = max(scored, key=lambda pair: pair[0] or 0.0)
    assert top is not None
    sentence = f"Highest test accuracy: {leader['name']}, {_cell(leader, COLUMNS[0])}."
    close = [v["name"] for value, v in scored if v is not leader and top - (value or 0.0) <= _spread(leader, v)]
    if close:
        sentence += f" Within one standard deviation of it: {', '.join(close)}."
    elif all(_spread(leader, variant) == 0.0 for _, variant in scored):
        sentence += " One seed does not tell a small difference from chance: run with several."
    costs = [_cost_sentence(variants, key, name) for key, name in _COMPARED]
    return [sentence, " ".join(cost for cost in costs if cost)]


_COMPARED = (("channel_uses", "channel uses"), ("energy_j_per_device_mean", "mean energy per device"))


def _cost_sentence(variants: Sequence[Variant], key: str, name: str) -> str:
    spent = [value for variant in variants if _finite(value := number(variant, key)) and value is not None]
    if len(spent) < len(variants):
        return ""
    if key.startswith("energy") and energy_unit(variants) is None:
        return "Energies are in different units and do not compare."
    low, high = min(spent), max(spent)
    # One per cent: less than one round of a hundred, the grain in which a budget is spent.
    if high - low <= 0.01 * high:
        return f"At equal {name}: {quantity(high)}."
    return f"Not at equal {name}: from {quantity(low)} to {quantity(high)}."


def _spread(first: Variant, second: Variant) -> float:
    values = (number(first, "test_accuracy_std"), number(second, "test_accuracy_std"))
    return max((value for value in values if value is not None and math.isfinite(value)), default=0.0)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _heading(column: Column, unit: str | None) -> str:
    return f"{column.heading} ({unit})" if unit and column.key.startswith("energy") else column.heading


def _row(variant: Variant, columns: Sequence[Column], show_unit: bool) -> str:
    seeds = variant.get("seeds")
    cells = [str(len(seeds)) if isinstance(seeds, list) else ABSENT]
    for column in columns:
        unit = UNITS.get(str(variant.get("units")), "") if column.key.startswith("energy") and show_unit else ""
        cells.append(f"{_cell(variant, column)} {unit}".strip())
    return (
        f'<tr><th scope="row">{escape(str(variant["name"]))}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )


def _cell(variant: Variant, column: Column) -> str:
    value = number(variant, column.key)
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    spread = number(variant, f"{column.key}_std") if column.spread else None
    seeds = variant.get("seeds")
    several = not isinstance(seeds, list) or len(seeds) > 1
    if not several or spread is None or not math.isfinite(spread):
        return column.text(value)
    return f"{column.text(value)} ± {column.text(spread)}"


def _note(term: str, text: str) -> str:
    return f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>"


def _unit_note(variants: Sequence[Variant]) -> str:
    units = {str(variant.get("units")) for variant in variants}
    notes = []
    if "physical" in units:
        notes.append("J: joules, in the scenario's physical units.")
    if "normalised" in units:
        notes.append("Normalised: 1 is the noise energy of one channel use.")
    return " ".join(notes) or "The run did not record it."
