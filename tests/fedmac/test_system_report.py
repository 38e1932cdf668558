"""What a report says of systems of workers beside the timeline: their updates, their clock, and no channel."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmac.report import write_report
from fedmac.report.cards import verdict_cards
from fedmac.report.clock_figures import clock_table
from fedmac.report.folder import read_run
from fedmac.report.system_figures import (
    MAX_STALENESS,
    staleness_figure,
    staleness_table,
    updates_figure,
    utilisation_figures,
    utilisation_tables,
)
from fedmac.report.table import verdict_sentences, verdict_table
from fedmac.runs import run
from fedmac.scenario import Scenario
from tests.fedmac.clock.small_systems import changed
from tests.fedmac.report_pages import body, decoded, views
from tests.fedmac.synthetic_runs import run_rows, summary_of, write_run
from tests.fedmac.synthetic_systems import system_rows, system_summary


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two systems; the first one's replicas are apart."""
    rows = [system_rows(name, rounds=6, devices=5, consensus=name == "gossip") for name in ("gossip", "asynchronous")]
    return write_report(write_run(tmp_path_factory.mktemp("run"), rows, variants=[system_summary(r) for r in rows]))


def test_the_section_has_all_that_the_record_tells(page: Path) -> None:
    html = body(page)
    section = html[html.index("<h2>Workers and their updates</h2>") : html.index("<h2>Where time went</h2>")]
    assert re.findall("<h3>(.*?)</h3>", section) == [
        "Who did what when", "Utilisation", "Staleness of the updates", "What became of the updates",
        "Consensus distance",
    ]  # fmt: skip
    # 10^-1 to 10^-6: a log axis; and only of the variant that has replicas.
    (trace,) = views(html, "consensus-distance")[0]["data"]
    assert trace["name"] == "gossip"
    assert views(html, "consensus-distance")[0]["layout"]["yaxis"]["type"] == "log"
    np.testing.assert_allclose(decoded(trace["y"]), 10.0 ** -np.arange(1, 7), rtol=1e-6)  # float32
    assert all(text.endswith(".") for text in re.findall("<figcaption>(.*?)</figcaption>", section))
    assert "Spectral gap of the mixing matrix: gossip 0.146 (" in section
    assert "gossip: mean 1.4, largest 3." in section, "(4 x 1 + 1 x 3) / 5"


HISTOGRAM = st.lists(st.integers(0, 9), min_size=1, max_size=3 * MAX_STALENESS)


@settings(max_examples=50, deadline=None)
@given(histograms=st.lists(HISTOGRAM, min_size=1, max_size=4))
def test_shares_of_staleness_add_up_to_one_whatever_is_put_together(histograms: list[list[int]]) -> None:
    rounds = pd.DataFrame({"variant": "v", "staleness": [np.array(one, dtype=float) for one in histograms]})
    tables = staleness_table(rounds)
    total = sum(map(sum, histograms))
    assert sum(table.sum() for table in tables.values()) == total
    for trace in staleness_figure(tables).data:
        assert np.sum(trace.y) == pytest.approx(1.0, rel=1e-12)
        assert len(trace.y) <= MAX_STALENESS + 1
        first = sum(one[0] for one in histograms)
        assert trace.y[0] * total == pytest.approx(first, rel=1e-12)


def test_updates_have_a_line_for_each_fate_that_happened(tmp_path: Path) -> None:
    rows = system_rows("v", rounds=4, devices=5)
    run = read_run(write_run(tmp_path, [rows], variants=[]))
    accepted, rejected = updates_figure(run.rounds).data
    assert (list(accepted.y), list(rejected.y)) == ([4.0] * 4, [1.0] * 4)
    assert (accepted.line.dash, rejected.line.dash) == ("solid", "dash")
    assert [accepted.showlegend, rejected.showlegend] == [True, False], "the legend names the variant once"


def test_utilisation_is_that_of_the_last_round_and_many_devices_are_thinned(tmp_path: Path) -> None:
    rows = system_rows("v", rounds=3, devices=150)
    rows[-1]["utilisation"][0] = 0.25
    tables = utilisation_tables(read_run(write_run(tmp_path, [rows], variants=[])).rounds)
    assert tables["v"][0] == 0.25
    (trace,) = utilisation_figures(tables)["v"].data
    assert len(trace.x) == 100
    assert (trace.x[0], trace.x[-1]) == ("0", "149")


def test_the_table_shows_the_clock_and_joules_and_no_channel(page: Path) -> None:
    html = body(page)
    heads = re.findall(r'<th scope="col">(.*?)</th>', html[: html.index("</table>")])
    assert "clock (s)" in heads
    assert "energy per device, mean (J)" in heads
    assert not {"channel uses", "air time (s)"} & set(heads)
    assert "Seconds" not in heads
    assert "simulated on the local engine" in html


def test_cards_and_sentences_compare_systems_by_clock_and_energy(tmp_path: Path) -> None:
    rows = [system_rows(name, rounds=4, devices=3) for name in ("a", "b")]
    slow = system_summary(rows[1], clock_s=8.0, test_accuracy=0.1)
    run = read_run(write_run(tmp_path, rows, variants=[system_summary(rows[0]), slow]))
    html = verdict_cards(run)
    cards = dict(re.findall(r'<dt>(.*?)</dt><dd class="figure">(.*?)</dd>', html))
    assert cards["clock"] == "4 s"
    assert "the busiest device computed 2.4 s of it" in html
    assert cards["energy per device"] == "8 J"
    assert "channel uses" not in cards
    assert "highest over lowest: seconds on the clock 2" in html
    costs = verdict_sentences(run.variants)[1]
    assert costs == "Not at equal seconds on the clock: from 4 to 8. At equal mean energy per device: 8."


def test_the_clock_of_a_system_is_computing_and_the_rest_of_its_time(page: Path) -> None:
    table = clock_table(read_run(page.parent).rounds)
    np.testing.assert_allclose(table[["compute_s", "waiting_s"]], [[3.6, 2.4]] * 2)
    assert [t["name"] for t in views(body(page), "clock")[0]["data"]] == ["devices computing", "messages and waiting"]


def test_curves_are_drawn_over_the_clock(page: Path) -> None:
    titles = [view["layout"]["xaxis"]["title"]["text"] for view in views(body(page), "accuracy")]
    assert titles == ["round", "bits per device", "energy per device (J)", "clock (s)", "wall time (s)"]


def test_cards_tell_privacy_loss_and_attackers(tmp_path: Path) -> None:
    rows = [run_rows(name, seeds=[0], rounds=2, devices=25) for name in ("attacked", "spared")]
    attacked = {"attackers": 5, "attack": "sign-flip", "privacy_epsilon": 3.2104, "privacy_delta": 1e-5}
    leads, trails = {"test_accuracy": 0.9}, {"test_accuracy": 0.8}
    first = [summary_of(rows[0], **attacked, **leads), summary_of(rows[1], **trails)]
    run = read_run(write_run(tmp_path / "attacked", rows, variants=first))
    html = verdict_cards(run)
    cards = dict(re.findall(r'<dt>(.*?)</dt><dd class="figure">(.*?)</dd>', html))
    assert (cards["attackers"], cards["privacy loss ε"]) == ("5 of 25", "3.21")
    assert "at δ = 1e-05" in html
    assert "<dd>sign-flip</dd>" in html
    assert "privacy loss ε" in verdict_table(run.variants)
    second = [summary_of(rows[0], **attacked, **trails), summary_of(rows[1], privacy_epsilon=None, **leads)]
    html = verdict_cards(read_run(write_run(tmp_path / "spared", rows, variants=second)))
    cards = dict(re.findall(r'<dt>(.*?)</dt><dd class="figure">(.*?)</dd>', html))
    assert (cards["attackers"], cards["privacy loss ε"]) == ("0 of 25", "no bound")
    assert "<dd>up to 5 in other variants</dd>" in html


def test_a_run_without_privacy_and_attackers_has_no_card_of_them(tmp_path: Path) -> None:
    html = verdict_cards(read_run(write_run(tmp_path, [run_rows("v", seeds=[0], rounds=2, devices=3)])))
    assert "ε" not in html
    assert "attackers" not in html


def test_a_run_that_has_not_ended_takes_attackers_and_privacy_from_scenario_and_rounds(tmp_path: Path) -> None:
    rows = [run_rows(name, seeds=range(2), rounds=2, devices=3) for name in ("a", "b")]
    for row in rows[0]:
        row["privacy_epsilon"] = 0.5 * row["round"] + row["seed"]
    folder = write_run(tmp_path, rows)
    (folder / "summary.json").unlink()
    (folder / "scenario.toml").write_text(
        '[attackers]\ndevices = [1, 2]\nkind = "gaussian"\n[privacy]\ndelta = 1e-5\n'
        '[[variants]]\nname = "b"\nattackers = { count = 0 }\n'
    )
    a, b = read_run(folder).variants
    assert (a["attackers"], a["attack"], a["privacy_delta"], a["privacy_epsilon"]) == (2, "gaussian", 1e-5, 2.0)
    assert "privacy_epsilon" not in b


def test_the_report_of_a_run_draws_its_spans_and_its_clock(tmp_path: Path) -> None:
    finished = run(Scenario.load(changed({"devices.spans": True, "rounds": 2})), out=tmp_path / "run")
    html = body(tmp_path / "run" / "report.html")
    drawn = sum(len(decoded(trace["base"])) for trace in views(html, "timeline")[0]["data"])
    assert drawn == sum(map(len, finished.rounds["spans"].dropna()))
    assert '<th scope="col">clock (s)</th>' in html
    assert '<th scope="col">channel uses</th>' not in html
    assert len(decoded(views(html, "utilisation")[0]["data"][0]["y"])) == 4
