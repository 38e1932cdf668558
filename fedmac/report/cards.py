"""The verdict at a glance: the leader's figures as large numbers, each with what it is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from fedmac.report.folder import Record
from fedmac.report.over_seeds import numbers
from fedmac.report.table import (
    Variant,
    cell,
    compared,
    costs_equal,
    count,
    energy_unit,
    leader_of,
    leading_score,
    number,
    quantity,
    small,
)

Card = tuple[str, str, str]
"""What it is, the figure, and a note."""


def verdict_cards(record: Record) -> str:
    """Return the figures of the variant that leads, and whether the costs were equal, as HTML.

    Empty if no variant has a score.
    """
    leader = leader_of(record.variants)
    if leader is None:
        return ""
    cards = [_score(record.variants, leader), *_costs(leader), *_air(record, leader)]
    cards += [*_privacy(leader), *_attackers(record.variants, leader)]
    if len(record.variants) > 1:
        cards.append(_equal(record.variants))
    several = len(record.variants) > 1
    name = escape(str(leader["name"]))
    items = "".join(
        f'<div><dt>{escape(what)}</dt><dd class="figure">{_large(figure)}</dd><dd>{escape(note)}</dd></div>'
        for what, figure, note in cards
    )
    lead = f'<p class="lead">Figures of the leader, <strong>{name}</strong>:</p>' if several else ""
    return f'{lead}<dl class="cards">{items}</dl>'


def error_ratio(record: Record, name: str) -> float | None:
    """Return measured over predicted squared error of the received mean, both summed over rounds and seeds."""
    rows = record.rounds[record.rounds["variant"] == name]
    measured, predicted = numbers(rows["mse_measured"]), numbers(rows["mse_predicted"])
    both = np.isfinite(measured) & np.isfinite(predicted)
    total = float(predicted[both].sum())
    return float(measured[both].sum()) / total if total > 0 else None


def mean_heard(record: Record, name: str) -> float | None:
    """Return how many devices were heard in a round, mean over rounds and seeds; None before training."""
    rows = record.rounds[(record.rounds["variant"] == name) & (record.rounds["round"] > 0)]
    sent = numbers(rows["participants"])
    silent = np.array([len(ids) if isinstance(ids, list) else 0 for ids in rows["silent"]], dtype=np.float64)
    heard = (sent - silent) * (numbers(rows["heard"]) != 0)
    known = heard[np.isfinite(heard)]
    return float(known.mean()) if len(known) else None


def mean_not_asked(record: Record, name: str) -> float:
    """Return how many devices the server did not ask in a round, mean over rounds and seeds."""
    rows = record.rounds[(record.rounds["variant"] == name) & (record.rounds["round"] > 0)]
    counts = [len(devices) if isinstance(devices, list) else 0 for devices in rows["not_asked"]]
    return float(np.mean(counts)) if counts else 0.0


def _large(figure: str) -> str:
    """Return a figure as HTML, with what follows ± small beside it."""
    value, sign, width = escape(figure).partition(" ± ")
    return f"{value} <small>± {width}</small>" if sign else value


def _score(variants: Sequence[Variant], leader: Variant) -> Card:
    column = leading_score(variants)
    seeds = leader.get("seeds")
    several = isinstance(seeds, list) and len(seeds) > 1
    note = f"mean of {len(seeds)} seeds ± 95 % confidence" if isinstance(seeds, list) and several else "one seed"
    what = f"{column.best} {column.heading}" if len(variants) > 1 else column.heading
    return what, cell(leader, column), note


def _costs(leader: Variant) -> list[Card]:
    cards = []
    rounds, uses = number(leader, "rounds"), number(leader, "channel_uses")
    if uses:
        cards.append(("channel uses", count(uses), f"in {count(rounds)} rounds" if rounds is not None else ""))
    energy, largest = number(leader, "energy_j_per_device_mean"), number(leader, "energy_j_per_device_max")
    if energy is not None:
        unit = energy_unit([leader])
        figure = f"{quantity(energy)} J" if unit == "J" else quantity(energy)
        note = "mean, normalised" if unit == "normalised" else "mean"
        most = f"; largest {quantity(largest)}" if largest is not None else ""
        cards.append(("energy per device", figure, note + most))
    clock, air, computing = (number(leader, key) for key in ("clock_s", "air_time_s", "compute_s"))
    if clock and not air:
        note = f"the busiest device computed {quantity(computing)} s of it" if computing else "in real time"
        cards.append(("clock", f"{quantity(clock)} s", note))
    elif clock is not None and air is not None and computing is not None:
        cards.append(("clock", f"{quantity(clock)} s", f"on air {quantity(air)} s, computing {quantity(computing)} s"))
    elif air is not None:
        cards.append(("air time", f"{quantity(air)} s", "channel occupied"))
    return cards


def _air(record: Record, leader: Variant) -> list[Card]:
    cards = []
    heard, devices = mean_heard(record, str(leader["name"])), number(leader, "devices")
    if heard is not None:
        of = f" of {count(devices)}" if devices is not None else ""
        not_asked = mean_not_asked(record, str(leader["name"]))
        more = f"; {not_asked:.3g} not asked" if not_asked else ""
        cards.append(("devices heard", f"{heard:.3g}{of}", f"in a round, on average{more}"))
    ratio = error_ratio(record, str(leader["name"]))
    if ratio is not None:
        cards.append(
            ("error against theory", f"{ratio:.2f}", "squared error of the received mean, measured over predicted")
        )
    return cards


def _privacy(leader: Variant) -> list[Card]:
    if "privacy_epsilon" not in leader:
        return []
    delta = number(leader, "privacy_delta")
    note = "of the device of which most is known" + (f", at δ = {small(delta)}" if delta is not None else "")
    epsilon = number(leader, "privacy_epsilon")
    if epsilon is None:
        return [("privacy loss ε", "no bound", "nothing hides a device's update")]
    return [("privacy loss ε", small(epsilon), note)]


def _attackers(variants: Sequence[Variant], leader: Variant) -> list[Card]:
    """Return the card of the devices that work against the others; a leader without any may have been spared them."""
    most = max((number(variant, "attackers") or 0.0 for variant in variants), default=0.0)
    if not most:
        return []
    own, devices = number(leader, "attackers") or 0.0, number(leader, "devices")
    note = str(leader.get("attack") or "") if own else ""
    if own < most:
        note += f"{'; ' * bool(note)}up to {count(most)} in other variants"
    of = f" of {count(devices)}" if devices is not None else ""
    return [("attackers", f"{count(own)}{of}", note)]


def _equal(variants: Sequence[Variant]) -> Card:
    costs = compared(variants)
    answers = {name: costs_equal(variants, key) for key, name in costs}
    if all(answers.values()):
        return "equal cost", "yes", f"same {' and '.join(name for _, name in costs)}, within 2 %"
    apart = [_apart(variants, key, name) for key, name in costs if answers[name] is False]
    if apart:
        return "equal cost", "no", f"highest over lowest: {', '.join(apart)}"
    return "equal cost", "not known", "a variant's cost is missing or in another unit"


def _apart(variants: Sequence[Variant], key: str, name: str) -> str:
    spent = [value for variant in variants if (value := number(variant, key)) is not None]
    return f"{name} {max(spent) / min(spent):.3g}" if min(spent) > 0 else f"{name}, one spends none"
