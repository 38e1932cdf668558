"""The page of a comparison: what it says, what it draws, and that any name is safe on it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
import pytest

from fedmac.report.value_axis import LOG_NOTE
from fedmac.studies.compare.curves import MOST_POINTS, Curve
from fedmac.studies.compare.figures import axis_views, grid_views, group_views, pareto_figure
from fedmac.studies.compare.findings import Comparison, Series
from fedmac.studies.compare.page import comparison_page
from fedmac.studies.compare.rows import cost_figure, difference_figure
from fedmac.studies.compare.selection import best_and_baseline, short, swept, value_text
from fedmac.studies.compare.statistics import Estimate
from fedmac.studies.compare.words import facts, verdict
from tests.fedmac.report_pages import PLOTLY
from tests.fedmac.synthetic_comparisons import AXES, comparison, front, gaps, grid, series
from tests.fedmac.synthetic_runs import NASTY

FOUR = [series("ideal", 0.9), series("rlc", 0.85), series("mask", 0.8, reached=0), series("uncoded", 0.898, reached=3)]


def page(drawn: Comparison) -> str:
    """The page without plotly.js."""
    return comparison_page(drawn).replace(PLOTLY, "")


def sections(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def legend(figure: object) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend is not False]  # type: ignore[attr-defined]


def high(one: Series, mean: float) -> Series:
    """The series with another final value."""
    return dataclasses.replace(one, final=Estimate(mean, 0.004, 5))


def test_the_page_has_every_part_and_a_sentence_on_each_plot() -> None:
    html = page(comparison(FOUR, pareto=front(FOUR, ["energy", "test_accuracy"])))
    assert sections(html) == [
        "Verdict",
        "Test accuracy over its cost",
        "Cost to reach test accuracy 0.88",
        "Differences from the baseline",
        "Pareto front",
        "What was run",
    ]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, re.S)
    assert len(captions) == html.count('<figure class="plot"') == 4
    assert all(len(caption) > 40 for caption in captions)


def test_the_verdict_says_who_leads_what_can_be_claimed_and_whether_it_was_fair() -> None:
    assert verdict(comparison(FOUR)) == [
        "Highest final test accuracy: ideal, 0.8990 ± 0.0040 (5 seeds).",
        "Lower than ideal, by the paired t test at 5 % (Holm): rlc; mask.",
        "Cannot be told apart from ideal, by the paired t test at 5 % (Holm): uncoded.",
        "Budgets (energy, channel uses, data) are equal within 2 %.",
    ]
    loss = verdict(comparison(FOUR, y="test_loss"))
    assert loss[0].startswith("Lowest final test loss: mask, ")
    tied = verdict(comparison([FOUR[0], dataclasses.replace(FOUR[0], name="twin")]))
    assert tied[0].endswith("Equal to it: twin.")


def test_a_verdict_on_one_seed_claims_nothing() -> None:
    said = verdict(comparison([series("a", 0.9, seeds=1), series("b", 0.8, seeds=1)]))
    assert said == ["Highest final test accuracy: a, 0.899 (1 seed).", said[-1]]


def test_where_each_cell_has_its_baseline_the_verdict_says_so() -> None:
    drawn = comparison(grid([0, 10], (), ["rlc", "ideal"]))
    own = [dataclasses.replace(one, is_baseline=one.variant == "rlc") for one in drawn.series]
    pairs = tuple(pair for pair in drawn.pairs if pair.name.endswith("ideal"))
    said = verdict(dataclasses.replace(drawn, series=tuple(own), pairs=pairs, baseline="rlc"))
    assert said[1].startswith("Higher than rlc of the same cell, by the paired t test")
    assert said[-1].startswith("Within each cell budgets (energy, channel uses, data) are equal")


def test_a_difference_without_spread_is_not_called_no_difference() -> None:
    drawn = comparison(FOUR[:2])
    steady = dataclasses.replace(drawn.pairs[0], difference=Estimate(-0.05, 0.0, 5), t_p=None, holm_p=None)
    said = verdict(dataclasses.replace(drawn, pairs=(steady,)))
    assert said[1] == "Differ from ideal by the same under every seed, so that the t test is not defined: rlc."


def test_unequal_budgets_stand_in_verdict_row_and_legend() -> None:
    drawn = comparison([series("ideal"), series("rlc", 0.8, unequal=["energy +31 %", "channel uses −50 %"])])  # noqa: RUF001
    html = page(drawn)
    assert verdict(drawn)[-1].startswith("Unequal budget, so not a fair comparison: rlc (energy +31 %, ")
    row = re.search(r'<th scope="row"[^>]*>rlc.*?</tr>', html, re.S)
    assert row is not None
    assert "unequal budget: energy +31 %" in row.group()
    for figure in axis_views(drawn).values():
        assert legend(figure) == ["ideal", "rlc (unequal budget)"]
    accepted = dataclasses.replace(comparison(FOUR), equal=False)
    assert verdict(accepted)[-1].endswith("as asked for (--unequal).")


def test_every_axis_has_its_view_with_mean_and_band() -> None:
    drawn = comparison(FOUR)
    views = axis_views(drawn)
    assert list(views) == ["energy per device (normalised)", "round", "channel uses"]
    figure = views["round"]
    line = next(trace for trace in figure.data if trace.name == "rlc")
    band = next(trace for trace in figure.data if trace.name == "rlc: 95 % band")
    curve = FOUR[1].curves["round"]
    np.testing.assert_allclose(line.y, curve.mean, rtol=1e-6)  # float32
    assert curve.half_width is not None
    np.testing.assert_allclose(band.y[: len(curve.x)], curve.mean + curve.half_width, rtol=1e-6)
    assert band.fillcolor == line.line.color


def falling(*ends: float, half_width: float = 0.0) -> Comparison:
    """A comparison of gaps that fall from 1 over the ends given, in three more rounds, the last at zero."""
    drawn = [gaps(f"v{n}", [1.0, 1e-2, end, 0.0], half_width) for n, end in enumerate(ends)]
    return comparison(drawn, y="objective_gap", target=("objective_gap", 1e-3))


def test_curves_of_gaps_that_span_decades_have_a_log_axis_and_accuracies_do_not() -> None:
    views = axis_views(falling(1e-6, 1e-4))
    assert {figure.layout.yaxis.type for figure in views.values()} == {"log"}
    line = next(trace for trace in views["round"].data if trace.name == "v0")
    np.testing.assert_allclose(line.y, [1.0, 1e-2, 1e-6], rtol=1e-6)  # zero is left out; float32
    low, high = (10**end for end in views["round"].layout.yaxis.range)
    assert 1e-7 < low < 1e-6
    assert 1 < high < 10
    assert views["round"].layout.yaxis.title.text == "objective gap"
    accuracies = comparison(falling(1e-6).series)
    assert {figure.layout.yaxis.type for figure in axis_views(accuracies).values()} == {None}
    assert {f.layout.yaxis.type for f in axis_views(falling(0.5)).values()} == {None}, "a factor of 100, not more"


def test_the_band_of_gaps_ends_at_the_bottom_of_the_log_axis() -> None:
    figure = axis_views(falling(1e-6, half_width=0.1))["round"]
    band = next(trace for trace in figure.data if trace.name == "v0: 95 % band")
    bottom = 10 ** figure.layout.yaxis.range[0]
    # Upper edge forward, lower edge back. float32: seven digits.
    np.testing.assert_allclose(band.y, [1.1, 0.11, 0.1, bottom, bottom, 0.9], rtol=1e-5)


def test_the_target_lies_where_it_belongs_on_a_log_axis_and_on_none_if_it_is_zero() -> None:
    figure = axis_views(falling(1e-6))["round"]
    (line,), (text,) = figure.layout.shapes, figure.layout.annotations
    assert (line.y0, text.y) == (1e-3, -3.0)  # plotly takes values for lines and logarithms for texts
    far = dataclasses.replace(falling(1e-4), target=("objective_gap", 1e-9))
    assert 10 ** axis_views(far)["round"].layout.yaxis.range[0] < 1e-9
    nowhere = dataclasses.replace(falling(1e-4), target=("objective_gap", 0.0))
    assert not axis_views(nowhere)["round"].layout.shapes


def test_the_page_says_what_a_log_axis_shows_and_keeps_small_figures_readable() -> None:
    small = dataclasses.replace(gaps("newton", [1.0, 4.4e-4]), final=Estimate(4.4e-4, 2e-2, 5))
    drawn = comparison([gaps("slow", [1.0, 0.5]), small], y="objective_gap", target=None)
    html = page(drawn)
    assert LOG_NOTE in html
    assert LOG_NOTE not in page(comparison(FOUR))
    assert "<td>0.000440 ± 0.020</td>" in html
    assert verdict(drawn)[0] == "Lowest final objective gap: newton, 0.000440 ± 0.020 (5 seeds)."


def test_final_gaps_over_a_swept_key_have_a_log_axis_if_they_span_decades() -> None:
    cells = grid([0, 10, 20])
    ends = (1e-1, 1e-3, 1e-5)
    swept_gaps = [dataclasses.replace(c, final=Estimate(end, 0.01, 5)) for c, end in zip(cells, ends, strict=True)]
    (figure,) = grid_views(comparison(swept_gaps, y="objective_gap")).values()
    assert figure.layout.yaxis.type == "log"
    bars = figure.data[0].error_y
    assert bars.array == pytest.approx([0.01] * 3)
    assert bars.arrayminus[0] == pytest.approx(0.01)
    bottom = 10 ** figure.layout.yaxis.range[0]
    assert np.asarray(ends[1:]) - bars.arrayminus[1:] == pytest.approx([bottom] * 2)


def test_the_target_is_drawn_where_it_is_one_of_y() -> None:
    texts = [a.text for a in axis_views(comparison(FOUR))["round"].layout.annotations]
    assert texts == ["target 0.88"]
    other = comparison(FOUR, target=("test_loss", 0.4))
    assert not axis_views(other)["round"].layout.annotations


def test_the_cost_of_the_target_is_a_dot_or_the_words_for_none() -> None:
    figure = cost_figure(comparison(FOUR))
    assert [trace.name for trace in figure.data] == ["ideal", "rlc", "uncoded"]
    target = FOUR[1].target
    assert target is not None
    assert target.cost is not None
    assert figure.data[1].x == (target.cost.mean,)
    said = [note.text for note in figure.layout.annotations]
    assert said == ["ideal", "rlc", "mask: not reached (best 0.8)", "uncoded: reached by 3 of 5 seeds"]
    html = page(comparison([series("a", reached=0), series("b", reached=0)]))
    assert "No series reached the target under any seed." in html
    assert html.count("not reached (best 0.9)") == 2


def test_without_a_target_there_is_no_cost_to_reach_it() -> None:
    html = page(comparison([dataclasses.replace(one, target=None) for one in FOUR], target=None))
    assert not [heading for heading in sections(html) if heading.startswith("Cost")]


def test_differences_have_their_interval_a_zero_line_and_their_sentences() -> None:
    drawn = comparison(FOUR)
    figure = difference_figure(drawn)
    assert [trace.x[0] for trace in figure.data] == [pair.difference.mean for pair in drawn.pairs]
    assert [trace.error_x.array for trace in figure.data] == [(0.005,)] * 3
    assert figure.layout.shapes[0].x0 == figure.layout.shapes[0].x1 == 0
    assert page(drawn).count("<li>") == 3


def test_many_differences_are_folded_away_but_all_there() -> None:
    html = page(comparison([series(f"v{n}", 0.9 - 0.01 * n) for n in range(30)]))
    assert html.count("<li>") == 29
    assert "17 more differences" in html


@pytest.mark.parametrize(("columns", "coloured"), [(["energy", "test_accuracy"], False), ([*"abc"], True)])
def test_the_pareto_front_is_set_apart_and_a_third_column_is_the_colour(columns: Sequence[str], coloured: bool) -> None:
    figure = pareto_figure(comparison(FOUR, pareto=front(FOUR, columns)))
    beaten, best = figure.data
    assert (beaten.text, best.text) == (("rlc", "uncoded"), ("ideal", "mask"))
    assert (best.marker.coloraxis == "coloraxis") is coloured
    assert ("lines" in best.mode) is not coloured
    assert best.showlegend is not coloured


def test_a_sweep_over_one_key_is_drawn_against_it_on_a_log_axis_if_it_spans_decades() -> None:
    (figure,) = grid_views(comparison(grid([0.001, 0.1, 1.0], (), ["rlc", "ideal"]))).values()
    assert legend(figure) == ["rlc", "ideal"]
    assert figure.layout.xaxis.type == "log"
    assert figure.data[0].x == (0.001, 0.1, 1.0)
    (linear,) = grid_views(comparison(grid([0, 10, 20]))).values()
    assert linear.layout.xaxis.type == "linear"
    (words,) = grid_views(comparison(grid(["rayleigh", "rician"]))).values()
    assert (words.layout.xaxis.type, words.data[0].x) == ("category", ("rayleigh", "rician"))


def test_a_sweep_over_two_keys_is_a_map_a_view_for_each_variant_on_one_scale() -> None:
    drawn = comparison(grid([0, 10], [0.05, 0.5, 0.1], ["rlc", "ideal"]))
    views = grid_views(drawn)
    assert list(views) == ["rlc", "ideal"]
    assert len({(view.data[0].zmin, view.data[0].zmax) for view in views.values()}) == 1
    z = views["ideal"].data[0]
    assert (z.y, z.x) == (("0", "10"), ("0.05", "0.1", "0.5"))
    for one in drawn.series:
        if one.variant == "ideal":
            row, column = (value_text(value) for value in one.settings.values())
            assert z.z[z.y.index(row)][z.x.index(column)] == one.final.mean


def test_a_cell_without_runs_is_a_hole_in_the_map() -> None:
    lacking = grid([0, 10], [0.05, 0.5])[:-1]
    (view,) = grid_views(comparison(lacking)).values()
    assert np.isnan(np.asarray(view.data[0].z)).sum() == 1


def test_of_many_series_the_best_are_drawn_and_the_others_a_cell_at_a_time() -> None:
    drawn = comparison(grid([0, 10, 20], [0.05, 0.1, 0.5], ["rlc", "ideal"]))
    best = best_and_baseline(drawn)
    assert len(best) == 11
    assert drawn.series[0] in best
    worst = min(one.final.mean for one in best if not one.is_baseline)
    assert all(one.final.mean <= worst for one in drawn.series if one not in best)
    views = group_views(drawn)
    assert len(views) == 9
    assert [name for view in views.values() for name in legend(view)] == [one.name for one in drawn.series]
    html = page(drawn)
    assert "11 of 18 series are drawn, the best by their last value and the baseline" in html
    alone = comparison(grid([0, 10, 20, 30], [0.05, 0.1, 0.2, 0.5]))
    assert list(group_views(alone)) == ["snr_db = 0", "snr_db = 10", "snr_db = 20", "snr_db = 30"]


def test_series_that_share_a_place_are_no_grid() -> None:
    twice = [*grid([0, 10]), *grid([0, 10])]
    assert swept(twice) is None
    assert swept([*grid([0, 10]), series("ideal")]) is None
    assert swept([series("a"), series("b")]) is None


def test_keys_are_short_where_that_is_clear() -> None:
    assert short("channel.snr_db", ["channel.snr_db", "uplink.ratio"]) == "snr_db"
    assert short("power_control.name", ["power_control.name", "strategy.name"]) == "power_control.name"


def test_any_name_is_safe_on_the_page() -> None:
    html = page(comparison([series("ideal"), series(NASTY, 0.85), series(NASTY + "2", 0.8, reached=0)]))
    assert "<i>'d'</i>" not in html
    assert html.count("</script>") == html.count("<script")
    assert "a <notice>" not in html
    assert "a <scenario>" not in html


def test_a_series_that_diverged_is_in_the_table_and_no_obstacle() -> None:
    lost = dataclasses.replace(
        series("lost", reached=0), final=Estimate(math.nan, None, 0), curves={}, area=None, costs={}
    )
    drawn = comparison([series("ideal"), lost], pairs=())
    html = page(drawn)
    assert '<th scope="row"' in html
    assert ">lost<" in html
    assert "Differences from the baseline" not in html
    nobody = comparison([lost], pairs=())
    assert verdict(nobody)[0] == "No series has a finite test accuracy at its end."
    assert "Verdict" in page(nobody)


def test_the_line_of_facts_counts_series_and_seeds() -> None:
    assert facts(comparison(FOUR)) == "4 series · 5 seeds · baseline ideal · target test accuracy 0.88"
    mixed = comparison([series("a"), series("b", seeds=1)], target=None)
    assert facts(mixed) == "2 series · 1–5 seeds · baseline a"  # noqa: RUF001


def test_the_same_comparison_gives_the_same_page() -> None:
    drawn = comparison(FOUR)
    html = comparison_page(drawn)
    assert html == comparison_page(drawn)
    assert "src=" not in html.replace(PLOTLY, "")


def test_the_page_of_a_sweep_of_45_series_over_8_axes_is_under_3_mb() -> None:
    x = np.linspace(0, 1e4, MOST_POINTS)
    axes = [*AXES, "exchange", "bits", "air_time", "clock", "wall"]
    curves = {axis: Curve(x + place, np.cos(x), np.full(len(x), 0.01), 5) for place, axis in enumerate(axes)}
    sweep = grid([0, 10, 20], [0.05, 0.1, 0.5], ["rlc", "ideal", "mask", "uncoded", "rayleigh"])
    drawn = comparison([dataclasses.replace(one, curves=curves) for one in sweep], axes=tuple(axes))
    assert len(comparison_page(drawn)) < 3e6
