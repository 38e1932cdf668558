"""What was run: the command that repeats it, scenario, seeds, versions, machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedmac.report.folder import Record, Source
from fedmac.report.table import Variant


def setting_section(record: Record) -> str:
    """Return what was run, folder by folder, as HTML."""
    parts = []
    for source in record.sources:
        parts.append(_repeat(source, _own_variants(record, source)))
        scenario = escape(source.scenario or "There is no scenario.toml in this folder.")
        parts.append(f"<details><summary>Scenario of {escape(source.name)}</summary><pre>{scenario}</pre></details>")
        if source.environment:
            parts.append(
                f"<details><summary>Versions and machine of {escape(source.name)}</summary>"
                f'<div class="scroll" tabindex="0" role="region" aria-label="Versions">{_rows(source.environment)}'
                "</div></details>"
            )
    return f"<section><h2>What was run</h2>{''.join(parts)}</section>"


def repeat_command(variants: Sequence[Variant]) -> str:
    """Return the command that runs the resolved scenario again under the same seeds.

    The seeds are named only where all variants that have run share them.
    """
    lists = [seeds for variant in variants if isinstance(seeds := variant.get("seeds"), list) and seeds]
    if not lists or any(seeds != lists[0] for seeds in lists):
        return "fedmac run scenario.toml"
    return f"fedmac run scenario.toml --seed {min(lists[0])} --seeds {len(lists[0])}"


def _own_variants(record: Record, source: Source) -> list[Variant]:
    """Return a source's variants: of several, their names begin with its label, in the order of the sources."""
    if len(record.sources) == 1:
        return list(record.variants)
    prefix = f"{source.name} / "
    return [variant for variant in record.variants if str(variant["name"]).startswith(prefix)]


def _repeat(source: Source, variants: Sequence[Variant]) -> str:
    seeds = sorted({seed for variant in variants for seed in variant.get("seeds") or ()})
    told = f" (seeds: {', '.join(map(str, seeds[:20]))}{', …' if len(seeds) > 20 else ''})" if seeds else ""
    return (
        f"<p>To run {escape(source.name)}{escape(told)} again, from its folder:</p>"
        f'<pre class="command" tabindex="0">{escape(repeat_command(variants))} --out ANOTHER-FOLDER</pre>'
    )


def _rows(environment: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in _flat(environment)
    )
    return f"<table>{rows}</table>"


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{key}.")
        elif key == "command" and isinstance(item, list):
            rows.append((f"{prefix}{key}", shlex.join(map(str, item))))
        else:
            rows.append((f"{prefix}{key}", str(item)))
    return rows
