"""The index of a served folder: a table of its runs, its sweeps with their cells folded, its comparisons."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import PurePosixPath
from string import Template
from urllib.parse import quote

from fedmac.report.live.runs import Cell, Job, ServedRun, ServedSweep, Snapshot
from fedmac.report.live.state import State, VariantProgress
from fedmac.report.page import asset
from fedmac.report.table import ABSENT, quantity, score

# Told by sign and word, never by colour alone.
SIGNS = {"running": "▶", "finished": "✓", "interrupted": "‖", "broken": "✗", "failed": "✗", "waiting": "·"}
MAX_FAILURES = 5  # of a sweep that are told with their reasons


def render_index(title: str, snapshot: Snapshot) -> str:
    """Return the index as an HTML document that asks ``/version`` every two seconds and renews itself.

    Parameters
    ----------
    title
        Name of the folder.
    snapshot
        What is in it.
    """
    sections = [_runs(snapshot.runs), *(_sweep(sweep, snapshot) for sweep in snapshot.sweeps), _comparisons(snapshot)]
    empty = "<p>No run is here yet: what <code>fedmac run --out</code> writes below this folder will appear.</p>"
    return Template(asset("live/index.html")).substitute(
        style=asset("page.css"),
        title=escape(title),
        facts=escape(_facts(snapshot)),
        sections="\n".join(filter(None, sections)) or empty,
        version=json.dumps(snapshot.version),
    )


def link_to(kind: str, key: str) -> str:
    """Return the URL path of a run, its version or a comparison: ``/run/a%20b/c``."""
    return f"/{kind}/{quote(key, errors='surrogateescape')}"


def _facts(snapshot: Snapshot) -> str:
    running = sum(run.state is State.running for run in snapshot.runs)
    running += sum(job.state == "running" for sweep in snapshot.sweeps for job in sweep.jobs)
    numbers = [(len(snapshot.runs), "run"), (len(snapshot.sweeps), "sweep"), (len(snapshot.comparisons), "comparison")]
    facts = [f"{number:,} {word}{'' if number == 1 else 's'}" for number, word in numbers if number]
    return " · ".join([*facts, f"{running} running" if running else "none running"])


def _runs(runs: Sequence[ServedRun]) -> str:
    if not runs:
        return ""
    heads = ("run", "state", "last written", "variant", "rounds", "accuracy", "energy per device")
    rows = "".join(_run(run) for run in runs)
    return f'<section id="runs"><h2>Runs</h2>{_table(heads, rows)}</section>'


def _run(run: ServedRun) -> str:
    """A run: a row for each variant, beside its name and state."""
    span = f' rowspan="{max(1, len(run.facts.variants))}"'
    name, place = run.facts.name, run.key or "."
    folder = (
        f'<br><span class="soft">{escape(place)}</span>' if PurePosixPath(place).name != name or "/" in place else ""
    )
    first = (
        f'<th scope="rowgroup"{span} role="rowheader">{_link("run", run.key, name)}{folder}</th>'
        f'<td role="cell"{span}>{_state(run.state)}</td>{_written(run.facts.written, span)}'
    )
    cells = [_variant(variant) for variant in run.facts.variants]
    if run.facts.error:
        cells = [f'<td role="cell" colspan="4" class="error">{escape(_line(run.facts.error))}</td>']
    rows = [first + cells[0], *cells[1:]]
    return '<tbody role="rowgroup">' + "".join(f'<tr role="row">{row}</tr>' for row in rows) + "</tbody>"


def _variant(variant: VariantProgress) -> str:
    seed = "" if variant.seed is None else f" (seed {variant.seed})"
    energy = ABSENT if variant.energy is None else f"{quantity(variant.energy)} {variant.unit}"
    kind = " on validation rows" if variant.held_out == "validation" and variant.accuracy is not None else ""
    return (
        f'<td role="cell" class="variant" data-label="variant">{escape(variant.name)}</td>'
        f'<td role="cell" data-label="rounds">{_done(variant.rounds, variant.planned, variant.name)}</td>'
        f'<td role="cell" data-label="accuracy">{_accuracy(variant.accuracy, variant.spread)}{kind}{seed}</td>'
        f'<td role="cell" data-label="energy per device">{energy}</td>'
    )


def _sweep(sweep: ServedSweep, snapshot: Snapshot) -> str:
    jobs, counts = sweep.jobs, Counter(job.state for job in sweep.jobs)
    ended = counts["finished"] + counts["failed"]
    told = ", ".join(f"{number:,} {state}" for state in SIGNS if (number := counts[state])) or "none"
    state, done = _state(sweep.state(snapshot.now)), _done(ended, len(jobs), "runs")
    pages = "".join(f"<p>{_link('comparison', key, f'Comparison in {key}')}</p>" for key in _own(sweep, snapshot))
    error = f'<p class="error">{escape(_line(sweep.error))}</p>' if sweep.error else ""
    heads = ("cell", "variant", "accuracy over finished seeds", "seeds")
    fold = link_to("cells", sweep.key)
    return (
        f'<section><h2>Sweep {escape(sweep.name)}</h2><p class="soft">{escape(sweep.key or ".")}</p>{error}'
        f"<p>{state} {done} runs: {told}.</p>"
        f"{_best(sweep.cells)}{pages}{_failures(sweep.cells)}"
        f'<details id="{fold}"><summary>{len(sweep.cells):,} cells</summary>'
        f"{_table(heads, ''.join(map(_cell, sweep.cells)))}</details></section>"
    )


def _cell(cell: Cell) -> str:
    """A cell: a row for each variant, beside its name, and a link for each seed."""
    means = _means(cell) or {ABSENT: (None, None)}
    span = f' rowspan="{len(means)}"'
    seeds = f'<ul class="jobs">{"".join(map(_job, cell.jobs))}</ul>'
    rows: list[str] = []
    for name, (mean, spread) in means.items():
        head = "" if rows else f'<th scope="rowgroup"{span} role="rowheader">{escape(cell.name)}</th>'
        tail = "" if rows else f'<td role="cell" data-label="seeds"{span}>{seeds}</td>'
        rows.append(
            f'<tr role="row">{head}<td role="cell" class="variant" data-label="variant">{escape(name)}</td>'
            f'<td role="cell" data-label="accuracy">{_accuracy(mean, spread)}</td>{tail}</tr>'
        )
    return f'<tbody role="rowgroup">{"".join(rows)}</tbody>'


def _job(job: Job) -> str:
    label = "run" if job.seed is None else str(job.seed)
    rounds = ""
    if job.run and job.state != "finished":
        rounds = f" {job.run.facts.rounds}/{job.run.facts.planned}"
    name = _link("run", job.run.key, label) if job.run else label
    return f'<li>{name} <span class="{job.state}">{SIGNS[job.state]} {job.state}{rounds}</span></li>'


def _failures(cells: Iterable[Cell]) -> str:
    """Why jobs failed: the first few, since one reason often fails them all."""
    failed = [(f"{cell.name}, seed {job.seed}", job.failure) for cell in cells for job in cell.jobs if job.failure]
    told = [f"{SIGNS['failed']} {where} failed: {_line(reason)}" for where, reason in failed[:MAX_FAILURES]]
    if len(failed) > MAX_FAILURES:
        told.append(f"{len(failed) - MAX_FAILURES:,} more failed; the reasons are in the sweep's folder.")
    return "".join(f'<p class="error">{escape(text)}</p>' for text in told)


def _best(cells: Iterable[Cell]) -> str:
    """The cell and variant of the highest mean so far."""
    scored = [(mean, cell.name, name) for cell in cells for name, (mean, _) in _means(cell).items() if mean is not None]
    if not scored:
        return ""
    mean, cell_name, name = max(scored, key=lambda one: one[0])
    return f"<p>Best so far: {escape(name)} at {escape(cell_name)}, accuracy {score(mean)}.</p>"


def _means(cell: Cell) -> dict[str, tuple[float | None, float | None]]:
    """By variant, the mean of the latest accuracies of the finished seeds, and their standard deviation."""
    values: dict[str, list[float]] = {}
    for job in cell.jobs:
        for variant in job.run.facts.variants if job.run else ():
            own = values.setdefault(variant.name, [])
            if job.state == "finished" and variant.accuracy is not None:
                own.append(variant.accuracy)
    return {
        name: (statistics.fmean(own) if own else None, statistics.stdev(own) if len(own) > 1 else None)
        for name, own in values.items()
    }


def _comparisons(snapshot: Snapshot) -> str:
    """Comparisons outside sweeps."""
    shown = {key for sweep in snapshot.sweeps for key in _own(sweep, snapshot)}
    keys = [key for key in snapshot.comparisons if key not in shown]
    items = "".join(f"<li>{_link('comparison', key, key or '.')}</li>" for key in keys)
    return f"<section><h2>Comparisons</h2><ul>{items}</ul></section>" if items else ""


def _own(sweep: ServedSweep, snapshot: Snapshot) -> list[str]:
    """The comparisons in a sweep's folder."""
    folder = PurePosixPath(sweep.key)
    return [key for key in snapshot.comparisons if PurePosixPath(key).is_relative_to(folder)]


def _table(heads: Sequence[str], rows: str) -> str:
    row = "".join(f'<th scope="col" role="columnheader">{head}</th>' for head in heads)
    # The roles keep it a table for a screen reader where the narrow layout lays its parts out as blocks.
    return f'<table role="table"><thead role="rowgroup"><tr role="row">{row}</tr></thead>{rows}</table>'


def _link(kind: str, key: str, text: str) -> str:
    path = link_to(kind, key)
    return f'<a id="{path}" href="{path}">{escape(text)}</a>'


def _state(state: State) -> str:
    return f'<span class="state {state.value}">{SIGNS[state.value]} {state.value}</span>'


def _done(done: int, planned: int, of: str) -> str:
    bar = f'<progress value="{done}" max="{max(1, planned)}" aria-label="{escape(of, quote=True)}"></progress>'
    return f"{bar}{done:,} of {planned:,}"


def _accuracy(value: float | None, spread: float | None) -> str:
    if value is None:
        return ABSENT
    return score(value) if spread is None else f"{score(value)} ± {score(spread)}"


def _written(seconds: float, span: str) -> str:
    if not seconds:
        return f'<td role="cell"{span}>{ABSENT}</td>'
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return f'<td role="cell" data-label="last written"{span}><time datetime="{moment}">{moment}</time></td>'


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
