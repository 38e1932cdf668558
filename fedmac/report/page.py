"""The page: the template filled with sections, and plotly.js inlined once so that it opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from fedmac.report.cell_section import cell_section
from fedmac.report.device_section import device_section
from fedmac.report.folder import Record
from fedmac.report.plot import figure_section, script_json
from fedmac.report.run_sections import (
    air_sections,
    clock_section,
    learning_sections,
    objective_section,
    verdict_section,
)
from fedmac.report.setting import setting_section
from fedmac.report.system_section import system_section

__all__ = ["asset", "document", "figure_section", "render_page"]


def render_page(record: Record, live: str | None = None, version: str | None = None) -> str:
    """Return the report of a record as one HTML document that needs no other file.

    It makes no request, except to `live` if that is given; see :func:`document`.
    """
    sections = [
        verdict_section(record),
        *learning_sections(record),
        objective_section(record),
        *air_sections(record),
        cell_section(record),
        device_section(record),
        system_section(record),
        clock_section(record),
        setting_section(record),
    ]
    return document(record.name, _facts(record), record.notices, sections, live=live, version=version)


def document(
    title: str,
    facts: str,
    notices: Sequence[str],
    sections: Sequence[str],
    live: str | None = None,
    version: str | None = None,
) -> str:
    """Fill the page's template: one HTML document with its style, its script and plotly.js in it.

    Parameters
    ----------
    title
        Heading and title of the page.
    facts
        A line under the heading.
    notices
        What a reader must know first; each in a box of its own.
    sections
        HTML, as :func:`figure_section` returns it; empty ones are left out.
    live
        Path of a URL on the page's own server that answers with JSON ``{"version": "..."}``. It is asked every
        two seconds, and the page loads again when the version has changed; the views chosen and the place
        scrolled to are kept. Without it the page makes no request at all.
    version
        The version that this page shows; if not given, the first answer is taken for it.

    Returns
    -------
    str
        HTML. All but `sections` is escaped here.
    """
    return Template(asset("template.html")).substitute(
        style=asset("page.css"),
        title=escape(title),
        facts=escape(facts),
        notices="".join(f'<p class="notice" role="note">{escape(notice)}</p>' for notice in notices),
        sections="\n".join(section for section in sections if section),
        connect="; connect-src 'self'" if live else "",
        live=script_json({"path": live, "version": version}),
        plotly=asset("plotly-cartesian.min.js"),
        script=asset("page.js"),
    )


@cache
def asset(name: str) -> str:
    """Return the text of a file of this folder that pages are made of: style, script, template."""
    return files("fedmac.report").joinpath(name).read_text(encoding="utf-8")


def _facts(record: Record) -> str:
    facts = [_counted(len(record.variants), "variant")]
    for key, word in (("devices", "device"), ("parameters", "parameter")):
        values = {variant.get(key) for variant in record.variants}
        if len(values) == 1 and isinstance(value := values.pop(), int):
            facts.append(_counted(value, word))
    return " · ".join(facts)


def _counted(value: int, word: str) -> str:
    return f"{value:,} {word}" if value == 1 else f"{value:,} {word}s"
