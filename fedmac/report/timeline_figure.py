"""Who computed, received, sent and waited when: a timeline with a lane for each device (a Gantt chart)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from fedmac.report.figures import PALETTE, base_figure
from fedmac.report.spans import KINDS, Timeline

COLOURS: Mapping[str, str] = dict(zip(KINDS, (PALETTE[0], PALETTE[2], PALETTE[1], PALETTE[4]), strict=True))
PLACES: Mapping[str, tuple[float, float]] = {
    "compute": (-0.42, 0.42),
    "receive": (-0.42, -0.12),
    "send": (0.12, 0.42),
    "other": (-0.12, 0.12),
}
"""From where to where a bar goes, in lanes below the middle of its own: receiving above, sending below, computing
behind both. What goes on at once is seen, and kinds are told apart without colour too."""

LANE_HEIGHT = 18  # pixels


def timeline_figure(timeline: Timeline) -> go.Figure:
    """Draw a timeline: a lane for each device, time across, a bar for each span."""
    figure = base_figure("clock (s)")
    for place, (kind, label) in enumerate(KINDS.items()):
        spans = timeline.spans[timeline.spans["kind"] == place]
        if not len(spans):
            continue
        top, bottom = PLACES[kind]
        figure.add_trace(
            go.Bar(
                base=spans["start"].copy(),  # a field of a structured array is not contiguous
                # float32 has digits to spare for a length, not for a short span late on the clock.
                x=(spans["end"] - spans["start"]).astype(np.float32),
                y=spans["device"].copy(),
                offset=top,
                width=bottom - top,
                orientation="h",
                name=label,
                marker={"color": COLOURS[kind], "line": {"width": 0}},
                customdata=spans["end"].astype(np.float32),
                hovertemplate=f"device %{{y}}: {label} from %{{base:.5~g}} to %{{customdata:.5~g}} s<extra></extra>",
            )
        )
    lanes = len(timeline.lanes)
    figure.update_layout(barmode="overlay", height=150 + LANE_HEIGHT * max(lanes, 3), showlegend=True)
    figure.update_xaxes(range=[0.0, timeline.until])
    figure.update_yaxes(
        title_text="device",
        type="category",
        categoryorder="array",
        categoryarray=timeline.lanes.tolist(),
        range=[lanes - 0.5, -0.5],  # the first on top; lanes without a span stay
        showgrid=False,
    )
    return figure
