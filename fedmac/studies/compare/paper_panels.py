"""What a paper's figure can be made of: curves in one plot or in panels, final values on a line or on a map."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from fedmac.report.value_axis import Limits
from fedmac.studies.compare.drawn_curves import Axes as DrawnOn
from fedmac.studies.compare.drawn_curves import axes_for, final_axes
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.selection import (
    MAX_BEST,
    UNEQUAL,
    Swept,
    as_numbers,
    best_and_baseline,
    marked,
    short,
    value_text,
    wide,
)
from fedmac.studies.compare.words import called

# Okabe & Ito's, black first: told apart with every common colour vision. Yellow is too pale for white paper.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (2, 2)),
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
LEGEND_INSIDE = 6  # more lines than this have their legend under the plot
CHARACTER = 0.068  # width of one in 8 pt, inches
ROW = 0.145  # height of a legend's row, inches
FULL_HEIGHT = 9.0  # of a printed page, inches

Handle = Line2D | ErrorbarContainer


class Entry(NamedTuple):
    """A line of the legend."""

    handle: Handle
    label: str


def one_plot(figure: Figure, comparison: Comparison, width: float, linear: bool) -> None:
    """Draw the curves of all series, or of the best and the baseline if they are too many."""
    shown = best_and_baseline(comparison)
    axes = figure.subplots()
    drawn_on = axes_for(comparison, shown, comparison.x, linear=linear)
    entries = _curves(axes, dict(enumerate(shown)), drawn_on)
    _name_axes(axes, comparison)
    if len(shown) < len(comparison.series):
        note = f"{len(shown)} of {len(comparison.series)} series: the best" + (
            " and the baseline" * (len(shown) > MAX_BEST)
        )
        axes.set_title(note, fontsize=6.5, loc="left", color="#444444")
    _finish(figure, axes, entries, width, 2.3 if width < 5 else 3.0)


def curve_panels(figure: Figure, comparison: Comparison, grid: Swept, width: float, linear: bool) -> None:
    """Draw a panel of curves for each value of the first key; its lines are the second key's values and variants."""
    first = next(iter(grid.keys))
    values = [value_text(value) for value in grid.keys[first]]
    stacked = width < 5
    panels = figure.subplots(
        len(values) if stacked else 1, 1 if stacked else len(values), sharex=True, sharey=True, squeeze=False
    ).flat
    entries: dict[str, Entry] = {}
    labels, drawn_on = _labels(grid), axes_for(comparison, comparison.series, comparison.x, linear=linear)
    room = int((width - 0.5) / (1 if stacked else len(values)) / CHARACTER)
    for axes, value in zip(panels, values, strict=True):
        for entry in _curves(axes, _panel_series(grid, value), drawn_on, labels):
            entries.setdefault(entry.label, entry)
        axes.set_title(_text(textwrap.fill(f"{short(first, grid.keys)} = {value}", room)))
        _name_axes(axes, comparison)
        axes.label_outer()
    _finish(figure, None, list(entries.values()), width, 0.5 + 1.35 * len(values) if stacked else 2.2)


def _labels(grid: Swept) -> dict[int, str]:
    """What the lines of all panels are called, by the number of their style."""
    _, second = grid.keys
    labels = []
    for name, cells in grid.lines.items():
        for other in map(value_text, grid.keys[second]):
            own = f"{short(second, grid.keys)} = {other}" + (f", {name}" if len(grid.lines) > 1 else "")
            line = {place: one for place, one in cells.items() if place[1] == other}
            labels.append(own + _unequal_cells(line))
    return dict(enumerate(labels))


def _panel_series(grid: Swept, value: str) -> dict[int, Series]:
    """A panel's series by the number of their style, which is the same in all panels."""
    _, second = grid.keys
    styles = [(name, value_text(other)) for name in grid.lines for other in grid.keys[second]]
    cells = {number: grid.lines[name].get((value, other)) for number, (name, other) in enumerate(styles)}
    return {number: one for number, one in cells.items() if one is not None}


def heat_maps(figure: Figure, comparison: Comparison, grid: Swept, width: float) -> None:
    """Draw a map of the final y over the two keys for each variant, on one scale."""
    first, second = grid.keys
    rows, columns = ([value_text(value) for value in values] for values in grid.keys.values())
    maps = {name: _matrix(cells, rows, columns) for name, cells in grid.lines.items()}
    finite = np.concatenate([z[np.isfinite(z)] for z in maps.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    across = min(len(maps), (1 if len(maps) <= 2 else 2) if width < 5 else 3)
    down = math.ceil(len(maps) / across)
    places = list(figure.subplots(down, across, squeeze=False).flat)
    for place, (axes, (name, z)) in enumerate(zip(places, maps.items(), strict=False)):
        image = axes.imshow(z, cmap="cividis", vmin=low, vmax=high, aspect="auto", origin="lower")
        axes.grid(False)
        axes.set_title(_text(f"{name}{_unequal_cells(grid.lines[name])}"))
        lowest = place + across >= len(maps)  # nothing is drawn under it
        axes.set_xticks(range(len(columns)), map(_text, columns) if lowest else [""] * len(columns))
        axes.set_yticks(range(len(rows)), map(_text, rows) if place % across == 0 else [""] * len(rows))
        axes.set_xlabel(_text(short(second, grid.keys)) if lowest else "")
        axes.set_ylabel(_text(short(first, grid.keys)) if place % across == 0 else "")
        if len(columns) * across <= 4.3 * width - 4:  # a value in 6 pt is about 0.23 in wide
            _write_values(axes, z, (low + high) / 2)
    for empty in places[len(maps) :]:
        empty.set_axis_off()
    figure.colorbar(image, ax=places, label=_text(f"final {called(comparison, comparison.y)}"))
    figure.set_size_inches(width, min(FULL_HEIGHT, 0.6 + down * (0.5 + 0.25 * max(4, len(rows)))))


def _matrix(cells: Mapping[tuple[str, ...], Series], rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    missing = math.nan
    return np.array([[cells[r, c].final.mean if (r, c) in cells else missing for c in columns] for r in rows])


def _write_values(axes: Axes, z: np.ndarray, middle: float) -> None:
    for (row, column), value in np.ndenumerate(z):
        if math.isfinite(value):
            ink = "white" if value < middle else "black"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=6, color=ink)


def final_against_key(figure: Figure, comparison: Comparison, grid: Swept, width: float, linear: bool) -> None:
    """Draw the final y, with its 95 % interval, against the one key that is swept; a line for each variant."""
    ((key, values),) = grid.keys.items()
    numbers = as_numbers(values)
    places = dict(zip(map(value_text, values), numbers or [float(n) for n in range(len(values))], strict=True))
    axes = figure.subplots()
    drawn_on = final_axes(comparison, linear=linear)
    _scale_values(axes, drawn_on.limits)
    entries = []
    for number, (name, cells) in enumerate(grid.lines.items()):
        points = [(places[place], one.final) for (place,), one in cells.items()]
        points.sort(key=lambda point: point[0])
        bars = np.array([drawn_on.bar(final) for _, final in points]).T
        drawn = axes.errorbar(
            [x for x, _ in points], [final.mean for _, final in points], yerr=bars if bars.any() else None,
            **style(number), marker=MARKERS[number % len(MARKERS)], markersize=3, capsize=2, elinewidth=0.8,
        )  # fmt: skip
        entries.append(Entry(drawn, name + _unequal_cells(cells)))
    if numbers is None:
        axes.set_xticks(list(places.values()), [_text(place) for place in places])
    elif wide(numbers):
        axes.set_xscale("log")
    axes.set_xlabel(_text(key))
    axes.set_ylabel(_text(f"final {called(comparison, comparison.y)}"))
    entries += _target_line(axes, drawn_on.target)
    _finish(figure, axes, entries, width, 2.3 if width < 5 else 3.0)


def style(number: int) -> dict[str, Any]:
    """The line with this number: its colour and dash, a different pair for each of the first 49."""
    shift = number // len(COLOURS)
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[(number + shift) % len(DASHES)]}


def _unequal_cells(cells: Mapping[tuple[str, ...], Series]) -> str:
    return f" {UNEQUAL}" if any(one.unequal for one in cells.values()) else ""


def _curves(
    axes: Axes,
    series: Mapping[int, Series],
    drawn_on: DrawnOn,
    labels: Mapping[int, str] | None = None,
) -> list[Entry]:
    """Draw series by the number of their style; a series that has no such axis is left out."""
    entries = []
    if drawn_on.log_x:
        axes.set_xscale("log")
    _scale_values(axes, drawn_on.limits)
    for number, one in series.items():
        curve = drawn_on.curve(one)
        if curve is None:
            continue
        look = style(number)
        edges = drawn_on.band(curve)
        if edges is not None:
            axes.fill_between(curve.x, *edges, color=look["color"], alpha=0.18, linewidth=0)
        every = max(1, len(curve.x) // 7)
        (line,) = axes.plot(
            curve.x, curve.mean, **look, marker=MARKERS[number % len(MARKERS)], markersize=3, markerfacecolor="white",
            markeredgewidth=0.8, markevery=(number * every // max(1, len(series)) % every, every),
        )  # fmt: skip
        entries.append(Entry(line, labels[number] if labels else marked(one)))
    return entries + _target_line(axes, drawn_on.target)


def _scale_values(axes: Axes, limits: Limits | None) -> None:
    if limits is not None:
        axes.set_yscale("log")
        axes.set_ylim(*limits)


def _target_line(axes: Axes, value: float | None) -> list[Entry]:
    if value is None:
        return []
    line = axes.axhline(value, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
    return [Entry(line, f"target {value:g}")]


def _name_axes(axes: Axes, comparison: Comparison) -> None:
    axes.set_xlabel(_text(called(comparison, comparison.x)))
    axes.set_ylabel(_text(called(comparison, comparison.y)))


def _finish(figure: Figure, axes: Axes | None, entries: Sequence[Entry], width: float, height: float) -> None:
    """Give the figure its size and its legend: inside the plot if it is small, else under it."""
    figure.set_size_inches(width, height)
    handles = [entry.handle for entry in entries]
    labels = [_text(entry.label) for entry in entries]
    widest = max((_width(figure, label) for label in labels), default=0.0)
    if axes is not None and len(entries) <= LEGEND_INSIDE and widest < 0.33 * width:
        axes.legend(handles, labels, loc="best")
        return
    beside = 0.5  # of a line's sample and the gaps around, inches
    columns = max(1, min(len(entries), int((width - 0.2) // (widest + beside))))
    if columns == 1:
        characters = max(20, int(len(max(labels, key=len)) * (width - 0.2 - beside) / max(widest, 1e-9)))
        labels = [textwrap.fill(label, characters) for label in labels]
    rows = max(math.ceil(len(entries) / columns), sum(label.count("\n") + 1 for label in labels) if columns == 1 else 0)
    figure.set_size_inches(width, min(FULL_HEIGHT, height + ROW * rows))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)  # type: ignore[call-overload]


def _width(figure: Figure, label: str) -> float:
    """How wide a label of the legend is, inches."""
    text = Text(0, 0, label, fontsize=7, figure=figure)
    return text.get_window_extent(dpi=figure.dpi).width / figure.dpi


def _text(text: str) -> str:
    """Text as matplotlib shows it literally: a dollar sign would begin mathematics, and `_` hides a line."""
    text = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text
