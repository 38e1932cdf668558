"""The section about the cell: where devices are, how strong their channels are, who was heard, and what it took."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fedmac.report.cell_figures import MAX_POINTS, distance_figure, gain_figure, map_figure
from fedmac.report.folder import Record
from fedmac.report.over_seeds import finite
from fedmac.report.placement import gains_db, noise_level_db, placement_tables
from fedmac.report.plot import figure_part
from fedmac.report.table import energy_unit

MAX_NAMED = 6  # variants in a summary


def cell_section(record: Record) -> str:
    """Return map, gains, and who was heard and what it spent over distance; empty without a record of places."""
    tables = placement_tables(record.rounds)
    if not tables:
        return ""
    parts = (_map(record, tables), _gains(record, tables), _heard(tables), _energy(record, tables))
    return f"<section><h2>The cell</h2>{''.join(parts)}</section>"


def _map(record: Record, tables: dict[str, pd.DataFrame]) -> str:
    known = finite(pd.concat([table["mean_gain_db"] for table in tables.values()]))
    colours = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    first = next(iter(tables.values()))
    return figure_part(
        "cell-map",
        "Map",
        "Where devices are when the run begins, seen from above, first seed; where they walk, later rounds find them"
        " elsewhere. Colour: mean gain of the channel at the start. Size: share of the rounds in which the device was"
        " heard; hollow ones never were.",
        {name: map_figure(table, colours, energy_unit(record.variants)) for name, table in tables.items()},
        summary=_map_in_words(first),
    )


def _gains(record: Record, tables: dict[str, pd.DataFrame]) -> str:
    """Variants that had the same gains share a view."""
    views: dict[bytes, tuple[list[str], go.Figure]] = {}
    said = []
    for name, table in tables.items():
        devices, gains = gains_db(record.rounds, name)
        if not len(gains):
            continue
        key = np.sort(gains).tobytes()
        if key not in views:
            level = noise_level_db(record.rounds, name)
            views[key] = ([], gain_figure(table, devices, gains, level))
            low, middle, high = np.quantile(gains, (0.05, 0.5, 0.95))
            said.append(f"{name}: median {middle:.1f} dB, nine in ten from {low:.1f} to {high:.1f} dB")
        views[key][0].append(name)
    return figure_part(
        "cell-gains",
        "Gains",
        "Share of the channel gains, fading included, at or below a level: every device in every round it took part in,"
        " first seed. Line of sight is as it was at the start. Left of the dashed line a device at its power limit"
        " arrives weaker than the noise of the whole band.",
        {", ".join(names): figure for names, figure in views.values()},
        summary="; ".join(said[:MAX_NAMED]) + "." if said else "",
    )


def _heard(tables: dict[str, pd.DataFrame]) -> str:
    known = {name: table for name, table in tables.items() if np.isfinite(table["heard"]).any()}
    if not known:
        return ""
    return figure_part(
        "cell-heard",
        "Who was heard",
        "Share of the rounds in which a device was heard, over its distance at the start. A point is a device, a line"
        f" the mean over rings of a tenth of the devices each.{_thinned(tables)}",
        {"heard": distance_figure(known, "heard", "share of rounds heard", "heard in %{y:.1%}")},
        summary="; ".join(f"{name}: {_near_and_far(table, 'heard', '{:.0%}')}" for name, table in _some(known)) + ".",
    )


def _energy(record: Record, tables: dict[str, pd.DataFrame]) -> str:
    known = {name: table for name, table in tables.items() if table["energy"].gt(0).any()}
    if not known:
        return ""
    unit = energy_unit(record.variants)
    title = f"energy ({unit})" if unit else "energy"
    spent = finite(pd.concat([table["energy"] for table in known.values()]))
    spent = spent[spent > 0]
    logarithmic = bool(spent.max() > 100 * spent.min())
    axis = " The axis is logarithmic; devices that spent nothing are not on it." if logarithmic else ""
    hover = f"energy %{{y:.3g}} {unit or ''}".rstrip()
    return figure_part(
        "cell-energy",
        "Energy",
        f"What a device spent in all rounds, over its distance at the start; points and lines as above."
        f"{axis}{_thinned(tables)}",
        {"energy": distance_figure(known, "energy", title, hover, logarithmic=logarithmic)},
        summary="; ".join(f"{name}: {_near_and_far(table, 'energy', '{:.3g}')}" for name, table in _some(known)) + ".",
    )


def _some(tables: dict[str, pd.DataFrame]) -> list[tuple[str, pd.DataFrame]]:
    return list(tables.items())[:MAX_NAMED]


def _thinned(tables: dict[str, pd.DataFrame]) -> str:
    most = max(map(len, tables.values()))
    return f" Points are drawn for {MAX_POINTS} devices of {most:,}." if most > MAX_POINTS else ""


def _map_in_words(table: pd.DataFrame) -> str:
    gains, distances = finite(table["mean_gain_db"]), table["distance_m"]
    said = f"{len(table):,} devices from {distances.min():.0f} to {distances.max():.0f} m"
    if len(gains):
        said += f", mean gains from {gains.min():.0f} to {gains.max():.0f} dB"
    if table["line_of_sight"].notna().any():
        said += f", {int(table['line_of_sight'].sum()):,} with line of sight"
    return f"{said}."


def _near_and_far(table: pd.DataFrame, column: str, form: str) -> str:
    """Write the mean over the nearest and over the farthest half of the devices."""
    ordered = table.sort_values("distance_m", kind="stable")[column]
    near, far = ordered.iloc[: (len(ordered) + 1) // 2].mean(), ordered.iloc[len(ordered) // 2 :].mean()
    return f"{form.format(near)} in the nearer half, {form.format(far)} in the farther"
