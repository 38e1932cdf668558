"""When each device computed, received and sent: spans of a record, and which of them a picture has room for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedmac.report.over_seeds import thin

KINDS: Mapping[str, str] = {
    "compute": "computing",
    "receive": "receiving",
    "send": "sending",
    "other": "something else",
}
"""What a device was at, by its word in the record; words that are not here count as the last."""

SPAN = np.dtype([("device", np.int32), ("kind", np.int8), ("start", np.float64), ("end", np.float64)])
"""A span: the device's number, the place of its kind in :data:`KINDS`, seconds on the clock."""

MAX_LANES = 40  # devices of a timeline
MAX_TIMELINES = 12  # variants that have one
MAX_SPANS = 4_000  # of a timeline: a hundred a device, a few pixels each
MAX_ALL_SPANS = 24_000  # of all timelines together: about 0.6 MB of the page

Spans = NDArray[np.void]


@dataclass(frozen=True)
class Timeline:
    """What of a variant's spans is drawn.

    Attributes
    ----------
    spans : ndarray of SPAN, shape (n,)
        In the order of their start.
    lanes : ndarray of int
        The devices drawn, ascending; also those without a span.
    devices : int
        How many there are.
    until : float
        Where the picture ends (s). Spans that begin later are left out.
    end : float
        Where the last span ends (s).
    """

    spans: Spans
    lanes: NDArray[np.intp]
    devices: int
    until: float
    end: float

    def share(self, kind: str) -> float:
        """Share of the time of all lanes, as far as it is drawn, that went into a kind of :data:`KINDS`."""
        chosen = self.spans[self.spans["kind"] == list(KINDS).index(kind)]
        seconds = np.minimum(chosen["end"], self.until) - np.minimum(chosen["start"], self.until)
        return float(seconds.sum()) / (self.until * len(self.lanes)) if self.until > 0 else 0.0


def read_spans(value: object) -> Spans:
    """The key ``spans`` of a round's line, ``[[device, what, from, to], ...]``, as an array of :data:`SPAN`.

    Raises
    ------
    ValueError
        If it is of another form; the message shows the first span that is.
    """
    if not isinstance(value, list):
        raise ValueError(f"spans = {value!r:.60}: accepted: a list of [device, what, from, to]")
    kinds = {kind: place for place, kind in enumerate(KINDS)}
    spans = np.empty(len(value), dtype=SPAN)
    for place, span in enumerate(value):
        if not _is_span(span):
            raise ValueError(f"spans: {span!r:.60}: accepted: [device, what, from, to], device >= 0, from <= to (s)")
        device, what, start, end = span
        spans[place] = (device, kinds.get(what, kinds["other"]), start, end)
    return spans


def recorded_spans(rounds: pd.DataFrame) -> dict[str, Spans]:
    """All spans of each variant that has any, of its first seed; `rounds` as a report's record has them."""
    found: dict[str, Spans] = {}
    for name, values in rounds.groupby("variant", sort=False)["spans"]:
        arrays = [value for value in values if isinstance(value, np.ndarray) and value.size]
        if arrays:
            found[str(name)] = np.concatenate(arrays)
    return found


def timelines(found: Mapping[str, Spans], totals: Mapping[str, int]) -> dict[str, Timeline]:
    """What is drawn of the spans of each variant, of at most ``MAX_TIMELINES`` variants.

    Parameters
    ----------
    found
        As :func:`recorded_spans` returns them.
    totals
        Variant name to number of devices, so that devices that did nothing have their lane; may lack a variant.
    """
    chosen = list(found)[:MAX_TIMELINES]
    most = min(MAX_SPANS, MAX_ALL_SPANS // max(len(chosen), 1))
    return {name: _timeline(found[name], totals.get(name, 0), most) for name in chosen}


def _timeline(spans: Spans, devices: int, most: int) -> Timeline:
    devices = max(devices, int(spans["device"].max()) + 1)
    end = float(spans["end"].max())
    lanes = thin(devices, MAX_LANES)
    spans = spans[np.isin(spans["device"], lanes)]
    spans = spans[np.lexsort((spans["kind"], spans["device"], spans["start"]))]
    # The whole beginning says more than a part of the spans of the whole, in which gaps would look like waiting.
    until = float(spans["start"][most]) if len(spans) > most else end
    return Timeline(spans[:most], lanes, devices, until, end)


def _is_span(span: Any) -> bool:
    if not isinstance(span, list) or len(span) != 4:
        return False
    device, what, start, end = span
    whole = isinstance(device, int) and not isinstance(device, bool) and 0 <= device < 2**31
    times = all(isinstance(time, int | float) and not isinstance(time, bool) for time in (start, end))
    return whole and isinstance(what, str) and times and math.isfinite(start) and start <= end < math.inf
