"""The figure for a paper: at the width of its column, in the fonts and lines that print well."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedmac.record import put_in_place
from fedmac.studies.compare.findings import Comparison
from fedmac.studies.compare.paper_panels import curve_panels, final_against_key, heat_maps, one_plot
from fedmac.studies.compare.selection import MAX_LINES, Swept, swept

WIDTHS = {"single": 3.5, "double": 7.16}
"""Widths of a column and of a page, inches (IEEE; most others lie close)."""

FORMATS = ("svg", "png", "pdf")
MAX_PANELS = 4
MAX_PANEL_LINES = 8

STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same figure on every machine
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to tell the dashes apart
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "fedmac",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def paper_figure(comparison: Comparison, width: str = "single", y_range: tuple[float, float] | None = None) -> Figure:
    """Draw a comparison for print.

    Curves of y against x, mean and 95 % band. A sweep over two keys becomes a panel for each value of the first
    key, or heat maps of the final y (one per variant) where panels or lines would be too many; a sweep over one key
    with more than 12 series becomes its final y against that key. Of more than 12 series without such a grid the
    best 10 and the baseline are drawn, and the figure says so.

    Parameters
    ----------
    comparison : Comparison
        What to draw.
    width : {"single", "double"}
        3.5 in (a column) or 7.16 in (both).
    y_range : (low, high), optional
        What to show of y where it is an axis (not a heat map); all of it by default. From zero or below the axis is
        linear, whatever the curves span.

    Returns
    -------
    matplotlib.figure.Figure
        Exactly that wide; no text below 6 pt. Lines differ in colour (Okabe and Ito's, and black), dash and
        marker, so that they are told apart in grey too. The global state of matplotlib stays as it was.

    Raises
    ------
    KeyError
        `width` is none of :data:`WIDTHS`.
    """
    with _printed():
        return _draw(comparison, WIDTHS[width], y_range)


def write_paper_figure(
    comparison: Comparison, folder: Path, width: str = "single", y_range: tuple[float, float] | None = None
) -> list[Path]:
    """Write ``figure.svg``, ``figure.png`` (300 dpi) and ``figure.pdf`` into `folder`; see :func:`paper_figure`.

    The files depend on nothing but the comparison: no dates, no random names. Text is outlines in the SVG, which
    so looks the same without the font; it is TrueType (type 42) in the PDF, as journals ask.

    Raises
    ------
    RecordError
        If a file cannot be written; each is put in place in one step.
    """
    paths = []
    with _printed():
        figure = _draw(comparison, WIDTHS[width], y_range)
        for kind in FORMATS:
            path = folder / f"figure.{kind}"
            with put_in_place(path) as part:
                part.write_bytes(_encoded(figure, kind))
            paths.append(path)
    return paths


@contextmanager
def _printed() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own matplotlibrc must not change the figure
        mpl.rcParams.update(STYLE)
        yield


def _draw(comparison: Comparison, width: float, y_range: tuple[float, float] | None) -> Figure:
    figure = Figure()
    FigureCanvasAgg(figure)
    grid = swept(comparison.series)
    lines = len(grid.lines) if grid else 0
    linear = y_range is not None and y_range[0] <= 0  # a log axis does not reach there
    if grid and len(grid.keys) == 2 and _panels_fit(grid):
        curve_panels(figure, comparison, grid, width, linear)
    elif grid and len(grid.keys) == 2 and lines <= MAX_LINES:
        heat_maps(figure, comparison, grid, width)
        return figure
    elif grid and len(grid.keys) == 1 and len(comparison.series) > MAX_LINES and lines <= MAX_LINES:
        final_against_key(figure, comparison, grid, width, linear)
    else:
        one_plot(figure, comparison, width, linear)
    if y_range is not None:
        for axes in figure.axes:
            axes.set_ylim(*y_range)
    return figure


def _panels_fit(grid: Swept) -> bool:
    first, second = map(len, grid.keys.values())
    return first <= MAX_PANELS and second * len(grid.lines) <= MAX_PANEL_LINES


def _encoded(figure: Figure, kind: str) -> bytes:
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=300, metadata=undated)
    return buffer.getvalue()
