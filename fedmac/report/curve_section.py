"""A learning curve on the page: a figure of the record over rounds and over each cost, its words and its numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from fedmac.axes import label
from fedmac.report.figures import MAX_POINTS, axes_of, curve_figure
from fedmac.report.final_values import final_values, final_values_table, final_values_text
from fedmac.report.folder import Record
from fedmac.report.plot import figure_section
from fedmac.report.table import energy_unit, score
from fedmac.report.value_axis import log_note


def curve_section(
    record: Record,
    identifier: str,
    column: str,
    meaning: str,
    *,
    written: Callable[[float], str] = score,
    put: Callable[..., str] = figure_section,
) -> str:
    """Return the curves of a column of the record over rounds and each cost; empty where no variant has any.

    Parameters
    ----------
    record
        The runs.
    identifier
        The plot's ``id`` on the page.
    column
        Key of the record, such as ``test_accuracy``.
    meaning
        What it is, in words; the beginning of the caption.
    written
        How a value reads.
    put
        :func:`fedmac.report.plot.figure_section`, or ``figure_part`` within a section.
    """
    rounds, unit = record.rounds, energy_unit(record.variants)
    name = label(column)
    axes = axes_of(rounds)
    values = final_values(rounds, column)
    several = any(math.isfinite(value.half_width) for value in values)
    line = " (line: mean over seeds; band: its 95 % confidence, Student's t)" if several else " (one seed: no band)"
    read = " Choose the axis: equal cost is the fair comparison, not equal rounds." if len(axes) > 1 else ""
    views = {axis: curve_figure(rounds, column, x, energy_unit=unit) for x, axis in axes.items()}
    return put(
        identifier,
        name.capitalize(),
        f"{meaning}{line}.{read}{log_note(views.values())}{thinned_points(rounds)}",
        views,
        summary=final_values_text(values, name, written),
        below=final_values_table(values, name, written),
    )


def thinned_points(rounds: pd.DataFrame) -> str:
    """What a caption says where not every round is drawn; else nothing."""
    most = rounds["round"].nunique()
    return f" {MAX_POINTS} of {most:,} rounds are drawn; all are in the run folder." if most > MAX_POINTS else ""
