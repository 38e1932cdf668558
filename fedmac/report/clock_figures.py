"""Where time went: on the clock (devices computing, air, the model's way down, waiting), and on this machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from fedmac.report.figures import PALETTE, base_figure, plain

SIMULATED = {
    "compute_s": "devices computing",
    "air_time_s": "on air",
    "download_s": "waiting for the model",
    "waiting_s": "messages and waiting",
}
MACHINE = {
    "wall_train_s": "training",
    "wall_uplink_s": "uplink",
    "wall_evaluate_s": "evaluation",
    "rest": "everything else",
}
PATTERNS = ("", "/", ".", "x")  # phases are told apart without colour too
ROUNDING = 1e-9
MAX_NAME = 24  # characters of a variant's name beside its bar; the whole name is in the hover text


def clock_table(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return how long each variant took after its last round, mean over seeds (s).

    Returns
    -------
    DataFrame
        A row per variant (index: its name) and the columns of ``SIMULATED`` and ``MACHINE``, as far as the
        record has them; ``waiting_s`` is what ``clock_s`` has beside the parts before it, ``rest`` is ``wall_s`` less
        the phases measured.
    """
    costs = [*SIMULATED, "clock_s", *MACHINE, "wall_s"]
    there = [key for key in costs if key in rounds.columns]
    last = rounds.sort_values("round").groupby(["variant", "seed"], sort=False)[there].last()
    means = last.groupby("variant", sort=False).mean()
    means = means.reindex(rounds["variant"].unique())
    table = pd.DataFrame(index=means.index)
    for key in SIMULATED:
        if _told(means, key):
            table[key] = means[key]
    if _told(means, "clock_s"):
        waiting = means["clock_s"] - table.fillna(0.0).sum(axis=1)
        # The clock of exchanges is the sum of its parts, but for rounding.
        waiting = waiting.where(waiting > ROUNDING * means["clock_s"], 0.0)
        if waiting.any():
            table["waiting_s"] = waiting
    phases = [key for key in MACHINE if _told(means, key)]
    if phases and _told(means, "wall_s"):
        table[phases] = means[phases]
        table["rest"] = (means["wall_s"] - means[phases].sum(axis=1)).clip(lower=0.0)
    return table


def clock_figures(table: pd.DataFrame) -> dict[str, go.Figure]:
    """Draw the clock and the machine's time as stacked bars, a bar per variant."""
    return {
        "clock": _bars(table, SIMULATED, "clock (s)"),
        "this machine": _bars(table, MACHINE, "wall time (s)"),
    }


def _told(means: pd.DataFrame, key: str) -> bool:
    return key in means.columns and bool(means[key].fillna(0.0).any())


def _bars(table: pd.DataFrame, phases: Mapping[str, str], title: str) -> go.Figure:
    figure = base_figure(title)
    names = [str(name) for name in table.index]
    for index, (key, label) in enumerate(phases.items()):
        if key in table.columns:
            figure.add_trace(
                go.Bar(
                    x=table[key].fillna(0.0).to_numpy(np.float64),  # plotly stacks nothing on a part that is missing
                    y=list(range(len(names))),
                    orientation="h",
                    name=label,
                    marker={
                        "color": PALETTE[index],
                        "pattern": {"shape": PATTERNS[index], "fillmode": "overlay", "solidity": 0.2},
                    },
                    customdata=[plain(name) for name in names],
                    hovertemplate=f"%{{customdata}}: {label} %{{x:.4g}} s<extra></extra>",
                )
            )
    figure.update_layout(barmode="stack", height=190 + 34 * len(names), bargap=0.35, showlegend=True)
    figure.update_layout(legend_traceorder="normal")  # the order of the parts
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[plain(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…") for name in names],
        autorange="reversed",  # first variant on top, as in the table
        showgrid=False,
    )
    figure.update_xaxes(rangemode="tozero")
    return figure
