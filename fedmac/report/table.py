"""The verdict: one row per variant, what each column means, and whether the comparison is at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from fedmac.report.over_seeds import half_width, welch_p

Variant = Mapping[str, Any]
ABSENT = "\N{EN DASH}"
MAX_NAMED = 8  # variants in a sentence
UNITS = {"physical": "J", "normalised": "normalised"}


@dataclass(frozen=True)
class Column:
    """A column of the verdict table: its key in the summary, heading, one sentence, and how a value reads.

    `spread` says that the value has a confidence interval, `best` which value of a score is.
    """

    key: str
    heading: str
    note: str
    text: Callable[[float], str]
    spread: bool = False
    best: str = "highest"


def count(value: float) -> str:
    """Write a count with thousands separators: ``157,000``; parts of one are rounded away."""
    return f"{value:,.0f}"


def score(value: float) -> str:
    """Write a score to three decimals: ``0.893``."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"


def small(value: float) -> str:
    """Write a figure that may be close to zero to three digits: ``0.312``, ``4.41e-06``."""
    return f"{value:.3g}"


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
    Column("test_loss", "test loss", "Mean loss of the last model over the test examples.", score, True, "lowest"),
    Column(
        "train_objective",
        "training objective",
        "Mean over the devices of the objective on their own rows, at the last model.",
        small,
        True,
    ),
    Column("objective_gap", "objective gap", "Training objective less the optimum that was given.", small, True),
    Column("train_gradient_norm", "gradient norm", "Norm of the devices' mean gradient there.", small, True),
    Column("rounds", "rounds", "Rounds of training done.", count),
    Column("channel_uses", "channel uses", "Uses of the shared channel over all rounds.", count),
    Column(
        "energy_j_per_device_mean",
        "energy per device, mean",
        "Energy over all rounds, averaged over the devices: of sending; on a simulated clock of computing, waiting and"
        " receiving too.",
        quantity,
    ),
    Column(
        "energy_j_per_device_max",
        "energy per device, max",
        "Energy of the device that spent most.",
        quantity,
    ),
    Column("bits_per_device_mean", "bits per device", "Bits on control channel or digital link, mean.", quantity),
    Column("air_time_s", "air time (s)", "Simulated seconds for which the channel was occupied.", quantity),
    Column(
        "clock_s",
        "clock (s)",
        "Air time plus, for each exchange, the seconds its slowest device computed; of systems of workers the time on"
        " their clock, which is simulated on the local engine.",
        quantity,
    ),
    Column(
        "privacy_epsilon",
        "privacy loss ε",
        "Of (ε, δ) differential privacy over all rounds, of the device of which most is known; the largest over seeds.",
        small,
    ),
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


def leading_score(variants: Sequence[Variant]) -> Column:
    """Return the score that variants are ranked by.

    Test accuracy; validation accuracy where no test was made; test loss where a model has no accuracy.
    """
    scores = (column for column in COLUMNS[:3] if any(number(variant, column.key) is not None for variant in variants))
    return next(scores, COLUMNS[0])


def leader_of(variants: Sequence[Variant]) -> Variant | None:
    """Return the variant of the best finite score, the first of equals; None if none has one."""
    column = leading_score(variants)
    scored = [(value, variant) for variant in variants if _finite(value := number(variant, column.key))]
    choose = min if column.best == "lowest" else max
    return choose(scored, key=lambda pair: pair[0] or 0.0)[1] if scored else None


def verdict_table(variants: Sequence[Variant]) -> str:
    """Return the table, with its columns' notes, as HTML; columns that no variant fills are left out."""
    columns = [column for column in COLUMNS if _filled(variants, column)]
    shared = energy_unit(variants)
    heads = "".join(f'<th scope="col">{escape(_heading(column, shared))}</th>' for column in columns)
    body = "".join(_row(variant, columns, shared is None) for variant in variants)
    notes = "".join(_note(column.heading, column.note) for column in columns)
    if any(column.key.startswith("energy") for column in columns):
        notes += _note("unit of energy", _unit_note(variants))
    if any(_several_seeds(variant) for variant in variants):
        notes += _note("±", "Half width of the 95 % confidence interval of the mean over seeds (Student's t).")
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdict table"><table class="verdict">'
        f'<thead><tr><th scope="col">variant</th><th scope="col">seeds</th>{heads}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><dl class="notes">{notes}</dl>'
    )


def verdict_sentences(variants: Sequence[Variant]) -> list[str]:
    """Say in words who leads, who cannot be told apart from the leader, and whether the costs were equal."""
    score_column, leader = leading_score(variants), leader_of(variants)
    scored = [variant for variant in variants if _finite(number(variant, score_column.key))]
    if leader is None or len(scored) < 2:
        return []
    sentence = (
        f"{score_column.best.capitalize()} {score_column.heading}: {leader['name']}, {cell(leader, score_column)}."
    )
    others = [variant for variant in scored if variant is not leader]
    close = [str(variant["name"]) for variant in others if _same(leader, variant, score_column.key)]
    if close:
        sentence += f" Not told apart from it at 95 % confidence (Welch's t): {_listed(close)}."
    if not all(_several_seeds(variant) for variant in scored):
        sentence += " One seed does not tell a small difference from chance: run with several (--seeds 5)."
    costs = [cost_sentence(variants, key, name) for key, name in compared(variants)]
    return [sentence, " ".join(cost for cost in costs if cost)]


COMPARED = (("channel_uses", "channel uses"), ("energy_j_per_device_mean", "mean energy per device"))
ON_CLOCK = (("clock_s", "seconds on the clock"), COMPARED[1])
EQUAL = 0.02  # costs that differ by no more are equal: about the grain in which a budget is spent


def compared(variants: Sequence[Variant]) -> tuple[tuple[str, str], ...]:
    """Return the costs that are compared, key and name: seconds in place of channel uses where no variant has any."""
    air = any(number(variant, "channel_uses") for variant in variants)
    return ON_CLOCK if not air and any(number(variant, "clock_s") for variant in variants) else COMPARED


def costs_equal(variants: Sequence[Variant], key: str) -> bool | None:
    """Return whether all variants spent the same within 2 %; None where that cannot be said."""
    spent = [value for variant in variants if _finite(value := number(variant, key)) and value is not None]
    if len(spent) < len(variants) or (key.startswith("energy") and energy_unit(variants) is None):
        return None
    return max(spent) - min(spent) <= EQUAL * max(spent)


def cost_sentence(variants: Sequence[Variant], key: str, name: str) -> str:
    """Say between which figures a cost lies; empty where a variant does not have it."""
    spent = [value for variant in variants if _finite(value := number(variant, key)) and value is not None]
    if len(spent) < len(variants):
        return ""
    equal = costs_equal(variants, key)
    if equal is None:
        return "Energies are in different units and do not compare."
    if equal:
        return f"At equal {name}: {quantity(max(spent))}."
    return f"Not at equal {name}: from {quantity(min(spent))} to {quantity(max(spent))}."


def _listed(names: Sequence[str]) -> str:
    """Write at most ``MAX_NAMED`` names; the table has all."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _same(first: Variant, second: Variant, key: str) -> bool:
    """Whether Welch's t test finds no difference at 5 %; one seed each allows no test."""
    if not (_several_seeds(first) and _several_seeds(second)):
        return False
    mean, std, other, other_std = (
        number(variant, column) or 0.0 for variant in (first, second) for column in (key, f"{key}_std")
    )
    return welch_p(mean, std, _seeds(first), other, other_std, _seeds(second)) > 0.05


def _seeds(variant: Variant) -> int:
    seeds = variant.get("seeds")
    return len(seeds) if isinstance(seeds, list) else 1


def _several_seeds(variant: Variant) -> bool:
    return _seeds(variant) > 1


def _filled(variants: Sequence[Variant], column: Column) -> bool:
    values = [number(variant, column.key) for variant in variants]
    # A column of the channel says nothing where nothing was sent on it, nor a link's where no bit was.
    if column.key in ("channel_uses", "air_time_s") or column.key.startswith("bits"):
        return any(values)
    return any(value is not None for value in values)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _heading(column: Column, unit: str | None) -> str:
    return f"{column.heading} ({unit})" if unit and column.key.startswith("energy") else column.heading


def _row(variant: Variant, columns: Sequence[Column], show_unit: bool) -> str:
    seeds = variant.get("seeds")
    cells = [str(len(seeds)) if isinstance(seeds, list) else ABSENT]
    for column in columns:
        unit = UNITS.get(str(variant.get("units")), "") if column.key.startswith("energy") and show_unit else ""
        # A figure may be put over two lines before its sign ±, nowhere else.
        cells.append(f"{cell(variant, column)} {unit}".strip().replace("± ", "±\N{NO-BREAK SPACE}"))
    return (
        f'<tr><th scope="row">{escape(str(variant["name"]))}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
    )


def cell(variant: Variant, column: Column) -> str:
    """Return a variant's figure in a column as text, with its 95 % confidence where it has several seeds."""
    value = number(variant, column.key)
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    deviation = number(variant, f"{column.key}_std") if column.spread else None
    if deviation is None or not math.isfinite(deviation) or not _several_seeds(variant):
        return column.text(value)
    return f"{column.text(value)} ± {column.text(float(half_width(deviation, _seeds(variant))))}"


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
