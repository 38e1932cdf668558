"""A plot on the page: its heading, the choice between its views, the sentences under it, and its data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.utils import PlotlyJSONEncoder


def figure_section(
    identifier: str, heading: str, sentence: str, views: Mapping[str, go.Figure], *, summary: str = "", below: str = ""
) -> str:
    """Return a section of one plot, see :func:`figure_part`; empty without any view to show."""
    part = figure_part(identifier, heading, sentence, views, summary=summary, below=below, level=2)
    return f"<section>{part}</section>" if part else ""


def figure_part(
    identifier: str,
    heading: str,
    sentence: str,
    views: Mapping[str, go.Figure],
    *,
    summary: str = "",
    below: str = "",
    level: int = 3,
) -> str:
    """Return a plot under its heading, the sentence that explains it, and a choice between its views.

    Parameters
    ----------
    identifier
        The plot's ``id`` on the page.
    heading
        What the plot is called.
    sentence
        Says what it shows and how to read it.
    views
        Label to figure. Views without a trace are left out; without any view left there is nothing.
    summary
        The plot in words, such as its last values, for who cannot see it.
    below
        HTML to put under the sentence, such as the values as a table.
    level
        Of the heading: 2 opens a section, 3 stands in one.

    Returns
    -------
    str
        HTML.
    """
    views = {label: figure for label, figure in views.items() if len(figure.data)}
    if not views:
        return ""
    heading = escape(heading)
    label = f"{heading}. {escape(summary)}" if summary else heading
    return (
        f'<h{level}>{heading}</h{level}><figure class="plot" id="{identifier}">{_choice(identifier, heading, views)}'
        f'<div class="canvas" role="img" aria-label="{label}"></div>'
        f"<figcaption>{escape(sentence)}</figcaption>"
        f'<script type="application/json">{script_json(_plain(views.values()))}</script>'
        f"</figure>{below}"
    )


def script_json(value: object) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, cls=PlotlyJSONEncoder, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _choice(identifier: str, heading: str, views: Mapping[str, go.Figure]) -> str:
    if len(views) == 1:
        return ""
    options = "".join(
        f'<label><input type="radio" name="view-{identifier}" value="{index}"{"" if index else " checked"}>'
        f"<span>{escape(label)}</span></label>"
        for index, label in enumerate(views)
    )
    return f'<fieldset class="choice"><legend class="hidden">Show of {heading}</legend>{options}</fieldset>'


def _plain(views: Iterable[go.Figure]) -> list[dict[str, Any]]:
    """Return figures as the page's script reads them; an array that repeats is a reference to its first place."""
    seen: dict[str, list[int | str]] = {}
    plain = []
    for number, figure in enumerate(views):
        view: dict[str, Any] = figure.to_dict()  # arrays become base64, a third of their size as text
        view["layout"].pop("template", None)  # the page brings its own colours, light and dark
        for index, trace in enumerate(view["data"]):
            for key, value in trace.items():
                if isinstance(value, dict) and "bdata" in value:
                    first = seen.setdefault(json.dumps(value, sort_keys=True), [number, index, key])
                    if first != [number, index, key]:
                        trace[key] = {"same": first}
        plain.append(view)
    return plain
