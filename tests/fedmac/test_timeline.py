"""The timeline of a system's devices: what of the spans is drawn, and that what is drawn is what was recorded."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmac.report import write_report
from fedmac.report.folder import read_run
from fedmac.report.spans import KINDS, MAX_LANES, MAX_SPANS, MAX_TIMELINES, read_spans, recorded_spans, timelines
from fedmac.report.timeline_figure import timeline_figure
from tests.fedmac.report_pages import body, decoded, views
from tests.fedmac.synthetic_runs import run_rows, write_run
from tests.fedmac.synthetic_systems import system_rows, system_summary

TIMES = st.floats(0, 1e6)
SPANS = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(["compute", "send", "receive", "x"]), TIMES, TIMES).map(
        lambda span: [span[0], span[1], min(span[2:]), max(span[2:])]
    ),
    min_size=1,
    max_size=60,
)


@given(spans=SPANS)
def test_spans_read_back_as_they_were_recorded(spans: list[list[Any]]) -> None:
    kinds = list(KINDS)
    for (device, what, start, end), read in zip(spans, read_spans(spans), strict=True):
        assert (read["device"], read["start"], read["end"]) == (device, start, end)
        assert kinds[read["kind"]] == (what if what in KINDS else "other")


@pytest.mark.parametrize(
    "span",
    [
        [0, "send", 1.0], [-1, "send", 0.0, 1.0], [0, 3, 0.0, 1.0], [0, "send", 2.0, 1.0], [True, "send", 0.0, 1.0],
        [2**40, "send", 0.0, 1.0], [0, "send", 0.0, None], [0, "send", 0.0, float("inf")], [0, "send", float("nan"), 1],
        "send", None,
    ],
)  # fmt: skip
def test_what_is_no_span_is_refused_with_file_and_line(tmp_path: Path, span: object) -> None:
    rows = system_rows("v", rounds=1, devices=2)
    rows[1]["spans"].append(span)
    with pytest.raises(ValueError, match=r"rounds\.jsonl:2: spans: .*accepted: \[device, what, from, to\]"):
        read_run(write_run(tmp_path, [rows], variants=[]))


def test_spans_that_are_no_list_are_refused() -> None:
    with pytest.raises(ValueError, match=r"spans = 'soon': accepted: a list"):
        read_spans("soon")


@settings(deadline=None)
@given(spans=SPANS, most=st.integers(1, 20), devices=st.integers(0, 80))
def test_nothing_that_begins_before_the_end_of_the_picture_is_left_out(
    spans: list[list[Any]], most: int, devices: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmac.report.spans.MAX_SPANS", most)
        timeline = timelines({"v": read_spans(spans)}, {"v": devices})["v"]
    shown = set(timeline.lanes.tolist())
    assert len(shown) == min(MAX_LANES, timeline.devices)
    before = [span for span in spans if span[0] in shown and span[2] < timeline.until]
    assert len(before) <= len(timeline.spans) <= most
    assert (timeline.spans["start"] <= timeline.until).all()
    assert timeline.devices == max(devices, 1 + max(span[0] for span in spans))


def test_devices_that_did_nothing_have_their_lane() -> None:
    timeline = timelines({"v": read_spans([[1, "compute", 0.0, 1.0]])}, {"v": 4})["v"]
    assert timeline.lanes.tolist() == [0, 1, 2, 3]
    assert list(timeline_figure(timeline).layout.yaxis.categoryarray) == [0, 1, 2, 3]


def test_shares_of_the_time_are_those_of_the_spans() -> None:
    spans = [[0, "compute", 0.0, 3.0], [1, "compute", 1.0, 2.0], [1, "send", 2.0, 4.0]]
    timeline = timelines({"v": read_spans(spans)}, {})["v"]
    assert [timeline.share(kind) for kind in ("compute", "receive", "send")] == [4 / 8, 0.0, 2 / 8]


def test_bars_begin_and_end_where_the_spans_do(tmp_path: Path) -> None:
    rows = system_rows("v", rounds=2, devices=3)
    run = read_run(write_run(tmp_path, [rows], variants=[system_summary(rows)]))
    figure = timeline_figure(timelines(recorded_spans(run.rounds), {"v": 3})["v"])
    assert [trace.name for trace in figure.data] == ["computing", "receiving", "sending"]
    recorded = {
        label: sorted((d, a, b) for row in rows[1:] for d, what, a, b in row["spans"] if what == kind)
        for kind, label in KINDS.items()
    }
    for trace in figure.data:
        drawn = sorted(zip(trace.y, trace.base, trace.base + trace.x, strict=True))
        np.testing.assert_allclose(drawn, recorded[trace.name], rtol=1e-6)  # lengths are float32


def test_bars_of_what_a_device_does_at_once_do_not_hide_each_other() -> None:
    spans = [[0, what, 1.0, 2.0] for what in KINDS]
    figure = timeline_figure(timelines({"v": read_spans(spans)}, {})["v"])
    places = {trace.name: (trace.offset, trace.offset + trace.width) for trace in figure.data}
    assert all(-0.5 < top < bottom < 0.5 for top, bottom in places.values()), "each stays in its lane"
    behind, *before = places.values()
    before.sort()
    assert all(above[1] <= below[0] for above, below in pairwise(before))
    assert figure.data[0].name == "computing", "drawn first, and so behind"
    # "other" is of no record that we write: without it the middle of the computing bar is free.
    receiving, sending = places["receiving"], places["sending"]
    assert sending[0] - receiving[1] >= 0.25 * (behind[1] - behind[0])


def caption(html: str) -> str:
    """What stands under the timeline of a report."""
    found = re.search(r'id="timeline".*?<figcaption>(.*?)</figcaption>', html, re.S)
    assert found is not None
    return found[1]


def test_the_caption_names_whose_receiving_was_not_recorded(tmp_path: Path) -> None:
    told, untold = (system_rows(name, rounds=2, devices=2) for name in ("told", "untold"))
    for row in untold[1:]:
        row["spans"] = [span for span in row["spans"] if span[1] != "receive"]
    whole = caption(body(write_report(write_run(tmp_path / "whole", [told], variants=[]))))
    assert "where there is no bar it waited, hung or was gone." in whole
    assert "No receiving" not in whole
    older = caption(body(write_report(write_run(tmp_path / "older", [told, untold], variants=[]))))
    assert "No receiving was recorded of untold." in older


def test_only_the_first_seed_is_drawn(tmp_path: Path) -> None:
    rows = [*system_rows("v", rounds=2, devices=2), *system_rows("v", rounds=2, devices=9, seed=1)]
    run = read_run(write_run(tmp_path, [rows], variants=[]))
    assert timelines(recorded_spans(run.rounds), {})["v"].devices == 2


def test_a_run_without_spans_has_no_timeline_and_one_without_workers_no_section(tmp_path: Path) -> None:
    workers = system_rows("v", rounds=2, devices=2, spans=False)
    html = body(write_report(write_run(tmp_path / "workers", [workers], variants=[])))
    assert "<h2>Workers and their updates</h2>" in html
    assert 'id="timeline"' not in html
    plain = body(write_report(write_run(tmp_path / "plain", [run_rows("v", seeds=[0], rounds=2, devices=2)])))
    assert "<h2>Workers and their updates</h2>" not in plain


def test_a_long_run_of_many_devices_and_variants_makes_a_page_under_three_megabytes(tmp_path: Path) -> None:
    variants = [system_rows(f"v{n}", rounds=25, devices=64) for n in range(MAX_TIMELINES + 2)]
    page = write_report(write_run(tmp_path, variants, variants=[system_summary(rows) for rows in variants]))
    assert page.stat().st_size < 3e6
    html = body(page)
    shown = views(html, "timeline")
    assert len(shown) == MAX_TIMELINES
    assert all(sum(len(decoded(trace["base"])) for trace in view["data"]) <= MAX_SPANS for view in shown)
    assert f"{MAX_LANES} devices are drawn, evenly spaced." in caption(html)
    assert re.search(r"The beginning is drawn: v0 \d+\.?\d* s of 24\.9 s", caption(html))
    assert f"{MAX_TIMELINES} variants are drawn, 2 are not. All spans are in the run folder." in caption(html)
