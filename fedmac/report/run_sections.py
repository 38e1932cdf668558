"""The sections of a run's report: verdict, learning, air, clock. Each figure says what it shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from fedmac.report.air_figures import (
    MAX_MAP_DEVICES,
    MAX_MAP_ROUNDS,
    error_figure,
    gain_figures,
    power_figures,
    silence_figure,
    unheard_reasons,
)
from fedmac.report.cards import error_ratio, verdict_cards
from fedmac.report.clock_figures import SIMULATED, clock_figures, clock_table
from fedmac.report.curve_section import curve_section, thinned_points
from fedmac.report.folder import OBJECTIVE, Record
from fedmac.report.over_seeds import finite
from fedmac.report.plot import figure_part, figure_section
from fedmac.report.table import number, quantity, small, verdict_sentences, verdict_table

MAX_REASONS = 20  # rows of the table of failures
MEANINGS = {
    "accuracy": "Share of {split} examples that the model classifies rightly",
    "loss": "Mean loss of the model over the {split} examples",
    "train_objective": "Mean over the devices of the objective on their own rows, at the model after the round",
    "objective_gap": "Training objective less the optimum that was given",
    "train_gradient_norm": "Norm of the devices' mean gradient at the model after the round",
}


def verdict_section(record: Record) -> str:
    """Return cards, sentences and table."""
    if not record.variants:
        return "<section><h2>Verdict</h2><p>The record holds no variant yet.</p></section>"
    sentences = "".join(f"<p>{escape(text)}</p>" for text in verdict_sentences(record.variants) if text)
    return (
        f"<section><h2>Verdict</h2>{verdict_cards(record)}{sentences}"
        f"<h3>All figures after the last round</h3>{verdict_table(record.variants)}</section>"
    )


def learning_sections(record: Record) -> list[str]:
    """Return a plot each of accuracy and loss (of the test, else of validation) and of the training loss."""
    rounds = record.rounds
    tested = any(len(finite(rounds[score])) for score in ("test_accuracy", "test_loss"))
    split = "test" if tested else "validation"
    sections = [
        curve_section(record, what, f"{split}_{what}", MEANINGS[what].format(split=split))
        for what in ("accuracy", "loss")
    ]
    training = "Mean loss over the devices' own rows while they train, before each step they take"
    return [*sections, curve_section(record, "training-loss", "train_loss", training)]


def objective_section(record: Record) -> str:
    """Return a plot each of training objective, objective gap and gradient norm, of those that were recorded."""
    parts = [
        curve_section(record, key.replace("_", "-"), key, MEANINGS[key], written=small, put=figure_part)
        for key in OBJECTIVE
    ]
    return f"<section><h2>Objective</h2>{''.join(parts)}</section>" if any(parts) else ""


def air_sections(record: Record) -> list[str]:
    """Return the error of what was received, transmit power, channel gains and devices not heard."""
    rounds = record.rounds
    return [
        figure_section(
            "error",
            "Error of the received mean",
            "Squared distance between the mean update that was received and the ideal one, mean over seeds: solid as"
            f" measured, dotted as theory predicts. Where the two agree, the air does what its formulas say."
            f"{thinned_points(rounds)}",
            {"error": error_figure(rounds)},
            summary=_error_in_words(record),
        ),
        _map(
            record,
            "power",
            "Transmit power",
            "Power of each device in each round as a share of its limit, first seed. Dark devices hold back or are"
            " silent, bright ones send at their limit.",
            power_figures(rounds),
            "of the limit",
        ),
        _map(
            record,
            "gains",
            "Channel gains",
            "Magnitude of each device's channel in each round, in dB, first seed. Dark cells are fades.",
            gain_figures(rounds),
            "dB",
        ),
        _silence(record),
    ]


def clock_section(record: Record) -> str:
    """Return where time went, simulated and real."""
    table = clock_table(record.rounds)
    return figure_section(
        "clock",
        "Where time went",
        "Time after the last round, mean over seeds: on the clock the devices compute (each exchange waits for the"
        " slowest, and for the model before that where its way down takes time) and then send; of systems of workers"
        " it is what the busiest device computed, and the rest of the time. This machine trained them, computed the"
        " uplink and evaluated the model. A bar is a variant, its parts add up.",
        clock_figures(table) if len(table.columns) else {},
        summary=_clock_in_words(table),
    )


def _map(
    record: Record, identifier: str, heading: str, meaning: str, figures: Mapping[str, go.Figure], unit: str
) -> str:
    """Return heat maps. What never varies is said, not drawn; where rounds or devices are left out, that is said."""
    levels = {name: float(np.nanmax(f.data[0].z)) for name, f in figures.items() if _constant(f.data[0].z)}
    drawn = {name: figure for name, figure in figures.items() if name not in levels}
    same = [f"{name} ({level:.3g} {unit})" for name, level in levels.items()]
    flat = f"The same for every device in every round: {', '.join(same)}." if same else ""
    if flat and not drawn:
        return f"<section><h2>{heading}</h2><p>{escape(flat)}</p></section>"
    trained = record.rounds[record.rounds["round"] > 0].groupby("variant")["round"].nunique()
    maps = [(figure.data[0], int(trained[name])) for name, figure in drawn.items()]
    thinned = any(len(heat.x) < rounds or len(heat.y) == MAX_MAP_DEVICES for heat, rounds in maps)
    kept = f" At most {MAX_MAP_ROUNDS} rounds and {MAX_MAP_DEVICES} devices are drawn; all are in the run folder."
    return figure_section(
        identifier,
        heading,
        meaning + kept * thinned,
        drawn,
        summary=f"A heat map, rounds across and devices down, for {', '.join(drawn)}. {flat}",
        below=f"<p>{escape(flat)}</p>" if flat else "",
    )


def _constant(values: NDArray[np.float32]) -> bool:
    """Whether values differ by no more than their rounding; missing ones do not count."""
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    return highest - lowest <= 1e-5 * max(1.0, abs(highest))


def _silence(record: Record) -> str:
    rounds = record.rounds
    selection = _selection_in_words(record)
    figure = figure_section(
        "silence",
        "Devices not heard",
        "Solid: devices that power control kept silent in a round, or whose packets did not arrive; dotted: devices"
        " that failed; dashed: devices that the server did not ask, which is no failure; mean over seeds. The weights"
        f" of the others are scaled up to a sum of one. {selection}".rstrip(),
        {"silence": silence_figure(rounds)},
        below=_reasons(unheard_reasons(rounds)),
    )
    if figure or not (rounds["participants"].notna() & (rounds["round"] > 0)).any():
        return figure  # before training, and where nobody shares a channel, there is nothing to say
    nothing = f"No device was silent and none failed. {selection}"
    return f"<section><h2>Devices not heard</h2><p>{escape(nothing.strip())}</p></section>"


def _selection_in_words(record: Record) -> str:
    """Say of which variants the server selects who may send, and how many; empty without any."""
    rounds = record.rounds
    planned = set(
        rounds.loc[rounds["not_asked"].map(lambda devices: isinstance(devices, list)).astype(bool), "variant"]
    )
    variants: dict[int, list[str]] = {}
    for variant in record.variants:
        if (most := number(variant, "select")) is not None and str(variant["name"]) in planned:
            variants.setdefault(int(most), []).append(str(variant["name"]))
    return " ".join(
        f"With link.select = {most} the server asks at most {most} device{'s' * (most > 1)} in a round, those with the"
        f" most benefit per joule: {', '.join(names)}."
        for most, names in sorted(variants.items())
    )


def _reasons(reasons: Sequence[tuple[str, str, int]]) -> str:
    if not reasons:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(reason[:300])}</td><td>{times:,}</td></tr>"
        for name, reason, times in reasons[:MAX_REASONS]
    )
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("variant", "reason", "times"))
    hidden = len(reasons) - MAX_REASONS
    more = f"<p>{hidden:,} more reasons are in the record.</p>" if hidden > 0 else ""
    return (
        '<h3>Why devices were not heard</h3><div class="scroll" tabindex="0" role="region" aria-label="Reasons">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _error_in_words(record: Record) -> str:
    ratios = [(str(v["name"]), error_ratio(record, str(v["name"]))) for v in record.variants]
    said = [f"{name} {ratio:.3g}" for name, ratio in ratios if ratio is not None]
    return f"Measured over predicted: {', '.join(said)}." if said else ""


def _clock_in_words(table: pd.DataFrame) -> str:
    parts = [key for key in SIMULATED if key in table.columns]
    if len(parts) < 2:
        return ""
    said = [
        f"{name} " + ", ".join(f"{SIMULATED[key]} {quantity(row[key])} s" for key in parts if math.isfinite(row[key]))
        for name, row in table.head(12).iterrows()
    ]
    return f"{'; '.join(said)}."
