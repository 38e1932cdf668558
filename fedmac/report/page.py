"""The page: sections around the table and figures, and plotly.js inlined once so that it opens offline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from fedmac.report.air_figures import (
    MAX_MAP_DEVICES,
    MAX_MAP_ROUNDS,
    error_figure,
    failure_reasons,
    gain_figures,
    power_figures,
    silence_figure,
)
from fedmac.report.figures import X_AXES, accuracy_figure, loss_figure
from fedmac.report.folder import Record, Source
from fedmac.report.table import energy_unit, verdict_sentences, verdict_table

MAX_REASONS = 20  # rows of the table of failures
_THINNED = f"At most {MAX_MAP_ROUNDS} rounds and {MAX_MAP_DEVICES} devices are drawn, evenly spaced."


def render_page(record: Record) -> str:
    """Return the report of a record as one HTML document that needs no other file and makes no request."""
    sections = [
        _verdict(record),
        *_learning(record),
        *_air(record),
        _devices(record),
        _setting(record.sources),
    ]
    template = Template(files("fedmac.report").joinpath("template.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(record.name),
        facts=escape(_facts(record)),
        notices="".join(f'<p class="notice" role="note">{escape(notice)}</p>' for notice in record.notices),
        sections="\n".join(section for section in sections if section),
        plotly=get_plotlyjs(),
    )


def figure_section(identifier: str, heading: str, sentence: str, views: Mapping[str, go.Figure]) -> str:
    """Return a section with one plot, the sentence that explains it, and a choice between its views.

    Views without a trace are left out; without any view left the section is empty.
    """
    views = {label: figure for label, figure in views.items() if len(figure.data)}
    if not views:
        return ""
    heading = escape(heading)
    return (
        f'<section><h2>{heading}</h2><figure class="plot" id="{identifier}">{_choice(identifier, views)}'
        f'<div class="canvas" role="img" aria-label="{heading}"></div>'
        f"<figcaption>{escape(sentence)}</figcaption>"
        f'<script type="application/json">{_script_json([_plain(view) for view in views.values()])}</script>'
        "</figure></section>"
    )


def _choice(identifier: str, views: Mapping[str, go.Figure]) -> str:
    if len(views) == 1:
        return ""
    options = "".join(
        f'<label><input type="radio" name="view-{identifier}" value="{index}"{"" if index else " checked"}>'
        f"<span>{escape(label)}</span></label>"
        for index, label in enumerate(views)
    )
    return f'<fieldset class="choice"><legend class="hidden">Show</legend>{options}</fieldset>'


def _plain(figure: go.Figure) -> dict[str, Any]:
    view: dict[str, Any] = figure.to_dict()  # arrays become base64, a third of their size as text
    view["layout"].pop("template", None)  # the page brings its own colours, light and dark
    return view


def _script_json(value: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _facts(record: Record) -> str:
    facts = [_counted(len(record.variants), "variant")]
    for key, word in (("devices", "device"), ("parameters", "parameter")):
        values = {variant.get(key) for variant in record.variants}
        if len(values) == 1 and isinstance(value := values.pop(), int):
            facts.append(_counted(value, word))
    return " · ".join(facts)


def _counted(value: int, word: str) -> str:
    return f"{value:,} {word}" if value == 1 else f"{value:,} {word}s"


def _verdict(record: Record) -> str:
    if not record.variants:
        return "<section><h2>Verdict</h2><p>The record holds no variant yet.</p></section>"
    sentences = "".join(f"<p>{escape(text)}</p>" for text in verdict_sentences(record.variants) if text)
    return f"<section><h2>Verdict</h2>{sentences}{verdict_table(record.variants)}</section>"


def _learning(record: Record) -> list[str]:
    unit = energy_unit(record.variants)
    band = "Line: mean over seeds; band: one standard deviation."
    return [
        figure_section(
            what,
            f"Test {what}",
            f"{meaning} {band} Choose the axis: equal cost is the fair comparison, not equal rounds.",
            {label: draw(record.rounds, x, energy_unit=unit) for x, label in X_AXES.items()},
        )
        for what, meaning, draw in (
            ("accuracy", "Share of test examples classified rightly.", accuracy_figure),
            ("loss", "Mean loss over the test examples.", loss_figure),
        )
    ]


def _air(record: Record) -> list[str]:
    return [
        figure_section(
            "error",
            "Error of the received mean",
            "Squared distance between the received mean update and the true one: solid as measured, dotted as"
            " theory predicts; mean over seeds. Where they agree, the air does what the formulas say.",
            {"error": error_figure(record.rounds)},
        ),
        figure_section(
            "power",
            "Transmit power",
            "Power of each device as a share of its limit, first seed. Dark devices hold back or stay silent,"
            f" bright ones send at their limit. {_THINNED}",
            power_figures(record.rounds),
        ),
        figure_section(
            "gains",
            "Channel gains",
            f"Magnitude of each device's channel in dB, first seed: dark devices are in a fade. {_THINNED}",
            gain_figures(record.rounds),
        ),
    ]


def _devices(record: Record) -> str:
    figure = figure_section(
        "silence",
        "Devices not heard",
        "Solid: devices that sent nothing (power control or a missing update); dotted: devices that failed."
        " Mean over seeds. The weights of the others are renormalised.",
        {"silence": silence_figure(record.rounds)},
    )
    if not figure and not (record.rounds["round"] > 0).any():
        return ""
    if not figure:
        return "<section><h2>Devices not heard</h2><p>No device was silent and none failed.</p></section>"
    return figure + _reasons(failure_reasons(record.rounds))


def _reasons(reasons: Sequence[tuple[str, str, int]]) -> str:
    if not reasons:
        return ""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(reason[:300])}</td><td>{times:,}</td></tr>"
        for name, reason, times in reasons[:MAX_REASONS]
    )
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("variant", "reason", "times"))
    more = (
        f"<p>{len(reasons) - MAX_REASONS:,} more reasons are in the record.</p>" if len(reasons) > MAX_REASONS else ""
    )
    return (
        "<section><h3>Why devices failed</h3>"
        + _scrolling("Failures", f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
        + f"{more}</section>"
    )


def _setting(sources: Sequence[Source]) -> str:
    parts = []
    for source in sources:
        scenario = escape(source.scenario or "There is no scenario.toml in this folder.")
        parts.append(f"<details><summary>Scenario of {escape(source.name)}</summary><pre>{scenario}</pre></details>")
        if source.environment:
            rows = "".join(
                f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>'
                for key, value in _flat(source.environment)
            )
            parts.append(
                f"<details><summary>Versions and machine of {escape(source.name)}</summary>"
                + _scrolling("Versions", f"<table>{rows}</table>")
                + "</details>"
            )
    return f"<section><h2>What was run</h2>{''.join(parts)}</section>"


def _scrolling(label: str, table: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>'


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", str(item)))
    return rows
