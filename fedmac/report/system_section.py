"""The section about a system of workers: who did what when, what became of the updates, how far replicas are apart."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fedmac.report.curve_section import curve_section
from fedmac.report.folder import Record
from fedmac.report.plot import figure_part
from fedmac.report.spans import MAX_LANES, MAX_TIMELINES, Timeline, recorded_spans, timelines
from fedmac.report.system_figures import (
    MAX_DEVICES,
    staleness_figure,
    staleness_table,
    updates_figure,
    utilisation_figures,
    utilisation_tables,
)
from fedmac.report.table import MAX_NAMED, number, small
from fedmac.report.timeline_figure import timeline_figure

CONSENSUS = (
    "Distance of the devices' replicas from their mean, root mean square over the devices, in the model's own unit"
)


def system_section(record: Record) -> str:
    """Return timeline, utilisation, staleness, fate of updates and consensus distance, of those that were recorded."""
    parts = [
        _timeline_part(record),
        _utilisation_part(record),
        _staleness_part(record),
        _updates_part(record),
        _consensus_part(record),
    ]
    return f"<section><h2>Workers and their updates</h2>{''.join(parts)}</section>" if any(parts) else ""


def _consensus_part(record: Record) -> str:
    """With how fast the graphs mix that there are: the gap of a graph drawn by the seed is the first seed's."""
    first = record.rounds.dropna(subset=["spectral_gap"]).groupby("variant", sort=False)["spectral_gap"].first()
    named = [f"{name} {gap:.3g}" for name, gap in first.items()]
    more = f" and {len(named) - MAX_NAMED} more" if len(named) > MAX_NAMED else ""
    mixing = f". Spectral gap of the mixing matrix: {', '.join(named[:MAX_NAMED])}{more}" if named else ""
    meaning = CONSENSUS + mixing
    return curve_section(record, "consensus-distance", "consensus_distance", meaning, written=small, put=figure_part)


def _timeline_part(record: Record) -> str:
    totals = {str(v["name"]): int(n) for v in record.variants if (n := number(v, "devices")) is not None}
    found = recorded_spans(record.rounds)
    drawn = timelines(found, totals)
    return figure_part(
        "timeline",
        "Who did what when",
        "A lane is a device, of the first seed: above what it received, below what it sent (until the message had"
        " arrived), behind both what it computed; where there is no bar it waited, hung or was gone. A span is drawn"
        f" once it is over.{_unheard_of(drawn)} Drag to zoom in.{_left_out(drawn, len(found) - len(drawn))}",
        {name: timeline_figure(timeline) for name, timeline in drawn.items()},
        summary=" ".join(_in_words(name, timeline) for name, timeline in drawn.items()),
    )


def _unheard_of(drawn: Mapping[str, Timeline]) -> str:
    """Say of which variants the record tells no receiving: it took no time, or the record is of an older version."""
    without = [name for name, timeline in drawn.items() if not timeline.share("receive")]
    more = f" and {len(without) - MAX_NAMED} more" if len(without) > MAX_NAMED else ""
    return f" No receiving was recorded of {', '.join(without[:MAX_NAMED])}{more}." if without else ""


def _left_out(drawn: Mapping[str, Timeline], missing: int) -> str:
    """Say what of the spans is not drawn."""
    said = []
    if any(len(timeline.lanes) < timeline.devices for timeline in drawn.values()):
        said.append(f"{MAX_LANES} devices are drawn, evenly spaced.")
    cut = [f"{name} {t.until:.4g} s of {t.end:.4g} s" for name, t in drawn.items() if t.until < t.end]
    if cut:
        more = f" and {len(cut) - MAX_NAMED} more" if len(cut) > MAX_NAMED else ""
        said.append(f"The beginning is drawn: {', '.join(cut[:MAX_NAMED])}{more}.")
    if missing:
        said.append(f"{MAX_TIMELINES} variants are drawn, {missing} are not.")
    if said:
        said.append("All spans are in the run folder.")
    return "".join(f" {sentence}" for sentence in said)


def _in_words(name: str, timeline: Timeline) -> str:
    shares = {kind: timeline.share(kind) for kind in ("compute", "receive", "send")}
    words = {"compute": "computing", "receive": "receiving", "send": "sending"}
    said = ", ".join(f"{words[kind]} {share:.0%} of the time" for kind, share in shares.items() if share)
    return f"{name}, {len(timeline.lanes)} of {timeline.devices} devices, first {timeline.until:.4g} s: {said}."


def _utilisation_part(record: Record) -> str:
    tables = utilisation_tables(record.rounds)
    most = max(map(len, tables.values()), default=0)
    thinned = f" {MAX_DEVICES} devices of {most:,} are drawn, evenly spaced; all are in the run folder."
    return figure_part(
        "utilisation",
        "Utilisation",
        "Share of the time it was connected that each device computed, over the whole run of the first seed."
        + thinned * (most > MAX_DEVICES),
        utilisation_figures(tables),
        summary=" ".join(_range_in_words(name, values) for name, values in tables.items()),
    )


def _range_in_words(name: str, values: NDArray[np.float64]) -> str:
    return f"{name}: mean {values.mean():.0%}, from {values.min():.0%} to {values.max():.0%}."


def _staleness_part(record: Record) -> str:
    tables = staleness_table(record.rounds)
    said = [
        f"{name}: mean {np.arange(len(counts)) @ counts / counts.sum():.3g}, largest {np.flatnonzero(counts)[-1]}."
        for name, counts in tables.items()
    ]
    return figure_part(
        "staleness",
        "Staleness of the updates",
        "How many times the server's model had moved between a worker's getting it and its update's arrival, as shares"
        " of all updates of all rounds and seeds, rejected ones too. " + " ".join(said),
        {"staleness": staleness_figure(tables)},
        summary=" ".join(said),
    )


def _updates_part(record: Record) -> str:
    return figure_part(
        "updates",
        "What became of the updates",
        "Updates of each round that moved the model (solid), were too stale (dashed), or came after their round"
        " (dotted), mean over seeds. Their energy is charged in any case.",
        {"updates": updates_figure(record.rounds)},
    )
