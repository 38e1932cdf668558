"""The report's figures: curves over seeds, the air, devices, the clock."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmac.report import write_report
from fedmac.report.air_figures import error_figure, gain_figures, power_figures, silence_figure, unheard_reasons
from fedmac.report.clock_figures import SIMULATED, clock_figures, clock_table
from fedmac.report.device_figures import device_figures, device_tables
from fedmac.report.figures import accuracy_figure, axes_of, curve_figure, loss_figure
from fedmac.report.folder import read_run
from fedmac.report.over_seeds import half_width, mean_over_seeds, thin
from fedmac.report.run_sections import air_sections
from fedmac.report.value_axis import LOG_NOTE, LOG_SPAN, band_edges, log_limits
from tests.fedmac.report_pages import body, decoded, views, write_page
from tests.fedmac.synthetic_runs import NASTY, run_rows, write_run
from tests.fedmac.synthetic_systems import system_rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("run"), name="quick & <start>", rounds=30, devices=6)


def test_curves_are_the_means_over_seeds_with_their_confidence_band(page: Path) -> None:
    rows = pd.DataFrame(run_rows("rlc", seeds=range(3), rounds=30, devices=6, silent=True))
    groups = rows.groupby("round")["test_accuracy"]
    traces = {trace["name"]: trace for trace in views(body(page), "accuracy")[0]["data"]}
    # float32 on the page: seven digits.
    np.testing.assert_allclose(decoded(traces["rlc"]["y"]), groups.mean(), rtol=1e-6)
    low, high = stats.t.interval(0.95, 2, loc=groups.mean(), scale=groups.std() / np.sqrt(3))
    np.testing.assert_allclose(decoded(traces["rlc, low"]["y"]), low, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(decoded(traces["rlc, high"]["y"]), high, rtol=1e-5)
    assert traces["rlc, high"]["fill"] == "tonexty", "the band is filled down to the edge before it"
    assert escape(NASTY, quote=False) + ", low" not in traces, "one seed has no band"


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_half_width_is_that_of_the_t_interval(values: list[float]) -> None:
    deviation = np.std(values, ddof=1)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=0.0, scale=max(deviation, 1e-12) / np.sqrt(len(values)))
    assert float(half_width(deviation, len(values))) == pytest.approx((high - low) / 2, rel=1e-9, abs=1e-11)


def test_half_width_of_one_seed_is_unknown() -> None:
    assert np.isnan(half_width(np.nan, 1))
    assert np.isnan(half_width(0.1, 1))


def test_cost_before_training_is_zero() -> None:
    rows = pd.DataFrame({"round": [0, 1], "channel_uses": [None, 785], "test_accuracy": [0.1, 0.5]})
    assert list(mean_over_seeds(rows, "test_accuracy", "channel_uses")["x"]) == [0.0, 785.0]


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 5000), limit=st.integers(2, 400))
def test_thinning_keeps_the_ends_and_the_order(length: int, limit: int) -> None:
    kept = thin(length, limit)
    assert kept[0] == 0
    assert kept[-1] == length - 1
    assert len(kept) == min(length, limit)
    assert (np.diff(kept) > 0).all()


def test_curves_are_drawn_against_rounds_and_each_cost_that_is_there(page: Path) -> None:
    expected = [
        "round",
        "channel uses",
        "bits per device",
        "energy per device (normalised)",
        "air time (s)",
        "clock (s)",
        "wall time (s)",
    ]
    for plot in ("accuracy", "loss", "training-loss"):
        assert [view["layout"]["xaxis"]["title"]["text"] for view in views(body(page), plot)] == expected
    uses = next(trace for trace in views(body(page), "accuracy")[1]["data"] if trace["name"] == "rlc")
    np.testing.assert_array_equal(decoded(uses["x"]), 785 * np.arange(31))


def test_an_axis_that_says_nothing_is_not_offered() -> None:
    rows = pd.DataFrame(run_rows("v", seeds=[0], rounds=3, devices=2))
    assert "exchange" not in axes_of(rows), "each round is one exchange"
    assert "exchange" in axes_of(rows.assign(exchange=2 * rows["exchange"]))
    assert "bits_per_device_mean" not in axes_of(rows.assign(bits_per_device_mean=0.0))
    assert list(axes_of(rows[["variant", "seed", "round", "test_accuracy"]])) == ["round"]


def test_a_variant_that_spends_nothing_is_left_out_of_that_axis() -> None:
    rows = pd.DataFrame(
        [*run_rows("a", seeds=[0], rounds=3, devices=2), *run_rows("b", seeds=[0], rounds=3, devices=2)]
    )
    rows.loc[rows["variant"] == "b", "energy_j_per_device_mean"] = 0.0
    assert [trace.name for trace in accuracy_figure(rows, x="energy").data] == ["a"]
    assert [trace.name for trace in accuracy_figure(rows, x="round").data] == ["a", "b"]


def test_a_wide_band_does_not_flatten_the_curves() -> None:
    rows = pd.DataFrame(
        {"variant": "v", "seed": [0, 1] * 2, "round": [0, 0, 1, 1], "test_accuracy": [0.1, 0.1, 0.2, 0.8]}
    )
    low, high = accuracy_figure(rows).layout.yaxis.range
    # t is 12.7 for two seeds: the band reaches from -3 to 4, the means from 0.1 to 0.5.
    assert -0.1 < low < 0.1
    assert 0.5 < high < 0.7


def test_loss_that_spans_decades_is_drawn_on_a_log_axis() -> None:
    rows = pd.DataFrame({"variant": "v", "seed": 0, "round": [0, 1, 2], "test_loss": [2.3, 1e5, float("inf")]})
    figure = loss_figure(rows)
    assert figure.layout.yaxis.type == "log"
    np.testing.assert_allclose(figure.data[0].y, [2.3, 1e5], rtol=1e-6, err_msg="a loss that is not finite is a gap")


POSITIVE = st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=8)
ROUNDED = st.lists(st.floats(-1e-15, 0), max_size=3)


@settings(max_examples=100, deadline=None)
@given(positive=POSITIVE, rounded=ROUNDED)
def test_a_gap_has_a_log_axis_once_it_spans_a_factor_of_100_and_rounding_below_zero_changes_nothing(
    positive: list[float], rounded: list[float]
) -> None:
    limits = log_limits("objective_gap", np.array([*positive, *rounded, np.nan]))
    assert (limits is not None) == (max(positive) > LOG_SPAN * min(positive))
    if limits is not None:
        assert 0 < limits[0] < min(positive)
        assert max(positive) < limits[1]


@pytest.mark.parametrize("key", ["test_accuracy", "slope", "step_size", "papr_db_mean", "bits_per_device_mean"])
def test_what_does_not_fall_to_zero_has_no_log_axis(key: str) -> None:
    assert log_limits("test_loss", np.array([1e-6, 1.0])) is not None
    assert log_limits(key, np.array([1e-6, 1.0])) is None


def test_a_figure_that_goes_well_below_zero_has_no_log_axis() -> None:
    assert log_limits("train_objective", np.array([1e-6, 1.0, -0.5])) is None
    assert log_limits("objective_gap", np.array([0.0, -1e-16])) is None, "nothing is above zero"


@settings(max_examples=100, deadline=None)
@given(positive=POSITIVE, width=st.floats(0, 1e4))
def test_no_band_goes_below_its_log_axis_and_a_narrow_one_is_untouched(positive: list[float], width: float) -> None:
    mean = np.array([*positive, 1e4, 1e-13])
    limits = log_limits("objective_gap", mean)
    assert limits is not None
    low, high = band_edges("objective_gap", mean, np.full(len(mean), width), limits)
    assert (low >= limits[0]).all()
    assert (low <= mean).all()
    np.testing.assert_array_equal(high, mean + width)
    inside = mean - width > limits[0]
    np.testing.assert_array_equal(low[inside], (mean - width)[inside])
    below, _ = band_edges("objective_gap", mean, np.full(len(mean), width), None)
    np.testing.assert_array_equal(below, mean - width, err_msg="a linear axis shows all of it")


def test_points_at_or_below_zero_are_left_out_of_a_log_axis_and_kept_on_a_linear_one() -> None:
    rows = pd.DataFrame({"variant": "v", "seed": 0, "round": range(5), "objective_gap": [1.0, 1e-3, 0.0, -1e-17, 1e-6]})
    figure = curve_figure(rows, "objective_gap")
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.title.text == "objective gap"
    np.testing.assert_array_equal(figure.data[0].x, [0, 1, 4])
    np.testing.assert_allclose(figure.data[0].y, [1.0, 1e-3, 1e-6], rtol=1e-6)  # float32
    near = curve_figure(rows[rows["round"] < 1].assign(objective_gap=0.0), "objective_gap")
    assert near.layout.yaxis.type is None
    np.testing.assert_array_equal(near.data[0].y, [0.0])


def test_the_band_of_the_report_never_goes_below_its_log_axis() -> None:
    gap = {"objective_gap": [1.0, 2.0, 1e-3, 3e-3, 1e-8, 5e-8]}
    rows = pd.DataFrame({"variant": "v", "seed": [0, 1] * 3, "round": [0, 0, 1, 1, 2, 2]} | gap)
    figure = curve_figure(rows, "objective_gap")
    bottom = 10 ** figure.layout.yaxis.range[0]
    low, high, line = (np.asarray(trace.y) for trace in figure.data)
    # t is 12.7 for two seeds, so every interval contains zero. float32: seven digits.
    np.testing.assert_allclose(low, bottom, rtol=1e-6)
    assert (low < line).all()
    assert (line < high).all()


def test_objective_figures_are_in_a_section_of_their_own_where_they_are_recorded(page: Path, tmp_path: Path) -> None:
    assert "<h2>Objective</h2>" not in body(page), "a record without them looks as before"
    rows = run_rows("dingo", seeds=range(2), rounds=8, devices=3)
    for row in rows:
        gap = 10.0 ** -row["round"] * (1 + row["seed"])
        row |= {"train_objective": 0.2 + gap, "objective_gap": gap, "train_gradient_norm": gap**0.5}
    html = body(write_report(write_run(tmp_path, [rows], variants=[])))
    section = html[html.index("<h2>Objective</h2>") : html.index("<h2>Error of the received mean</h2>")]
    assert re.findall("<h3>(.*?)</h3>", section) == ["Training objective", "Objective gap", "Gradient norm"]
    kinds = {key: views(html, key)[0]["layout"]["yaxis"].get("type") for key in ("objective-gap", "train-objective")}
    assert kinds == {"objective-gap": "log", "train-objective": None}
    accuracy = views(html, "accuracy")
    assert accuracy[0]["layout"]["yaxis"].get("type") is None
    axes = [
        [view["layout"]["xaxis"]["title"]["text"] for view in plot] for plot in (accuracy, views(html, "objective-gap"))
    ]
    assert axes[0] == axes[1]
    assert section.count(LOG_NOTE.strip()) == 2, "gap and gradient norm"
    # 10^-8 and 2 10^-8 have the mean 1.5 10^-8; in the table and under the plot, from the rounds alone.
    assert html.count("1.5e-08 ±") == 3, "the verdict table, the plot in words, its values"


def test_figures_for_notebooks_name_what_is_wrong() -> None:
    rows = pd.DataFrame({"variant": ["v"], "seed": [0], "round": [1], "test_accuracy": [0.5]})
    assert len(accuracy_figure(rows).data) == 1
    with pytest.raises(ValueError, match=r"x: got 'rounds', expected one of round, exchange, channel_uses"):
        accuracy_figure(rows, x="rounds")
    with pytest.raises(ValueError, match="without channel_uses"):
        accuracy_figure(rows, x="channel_uses")
    energy = accuracy_figure(rows.assign(energy_j_per_device_mean=7.0), x="energy")
    assert list(energy.data[0].x) == [7.0]
    with pytest.raises(ValueError, match="without clock_s"):
        accuracy_figure(rows, x="clock")


def test_air_figures_are_left_out_for_variants_without_an_air(page: Path) -> None:
    for plot, count in (("power", 2), ("gains", 2)):
        assert len(views(body(page), plot)) == count
    assert {trace["legendgroup"] for trace in views(body(page), "error")[0]["data"]} == {"rlc", NASTY}


def test_power_is_a_share_of_the_limit_and_devices_keep_their_row() -> None:
    rows = pd.DataFrame(
        {
            "variant": ["v", "v"],
            "seed": [0.0, 0.0],
            "round": [1.0, 2.0],
            "devices": [np.array([3.0, 7.0]), np.array([7.0])],
            "amplitudes": [np.array([1.0, 2.0]), np.array([0.0])],
            "power_limit": [np.array([4.0, 4.0]), 4.0],
            "gains": [np.array([1.0, 0.1]), np.array([0.0])],
        }
    )
    heat = power_figures(rows)["v"].data[0]
    assert list(heat.y) == ["3", "7"]
    np.testing.assert_allclose(heat.z, [[0.25, np.nan], [1.0, 0.0]])
    np.testing.assert_allclose(gain_figures(rows)["v"].data[0].z, [[0.0, np.nan], [-20.0, np.nan]], atol=1e-5)


def test_error_figure_leaves_out_what_a_log_axis_cannot_show() -> None:
    rows = pd.DataFrame(
        {
            "variant": "v",
            "seed": 0,
            "round": [1, 2, 3],
            "mse_measured": [0.0, 2.0, None],
            "mse_predicted": None,
        }
    )
    (trace,) = error_figure(rows).data
    assert list(trace.y) == [2.0]


def test_silent_and_failed_devices_are_counted_by_round(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [run_rows("v", seeds=[0], rounds=4, devices=3, silent=True)]))
    silent, failed = silence_figure(run.rounds).data
    assert list(silent.y) == [1, 1, 1, 1]
    assert list(failed.y) == [0, 0, 1, 0]


def test_devices_that_were_not_asked_are_a_line_of_their_own(tmp_path: Path) -> None:
    rows = run_rows("v", seeds=[0], rounds=3, devices=3)
    for row in rows:
        row["not_asked"] = [{"device": 2, "reason": "not asked: in outage"}] if row["round"] == 2 else []
    run = read_run(write_run(tmp_path, [rows]))
    (line,) = silence_figure(run.rounds).data
    assert list(line.y) == [0, 1, 0]
    assert line.hovertemplate.startswith("not asked")
    assert unheard_reasons(run.rounds) == [("v", "not asked: in outage", 1)]


def test_reasons_that_differ_in_numbers_alone_count_as_one() -> None:
    bits = [[{"device": d, "reason": f"not asked: no packet is as short as the {d} bits"} for d in range(3)], []]
    lost = [[], [{"device": 0, "reason": "not asked: made coarser to fit 7 bits"}]]
    rounds = pd.DataFrame({"variant": ["v", "v"], "failures": lost, "not_asked": bits})
    assert unheard_reasons(rounds) == [
        ("v", "not asked: no packet is as short as the … bits", 3),
        ("v", "not asked: made coarser to fit 7 bits", 1),  # the only one of its kind keeps its number
    ]


def test_a_run_that_is_not_over_knows_from_the_scenario_how_many_it_asks(tmp_path: Path) -> None:
    """And says it of no variant whose server asks all, which an uplink without packets does."""
    selected, perfect = (run_rows(name, seeds=[0], rounds=2, devices=3) for name in ("selected", "perfect"))
    folder = write_run(tmp_path, [[row | {"not_asked": []} for row in selected], perfect])
    (folder / "summary.json").unlink()
    variants = '[[variants]]\nname = "selected"\n[[variants]]\nname = "perfect"\nuplink.kind = "ideal"\n'
    (folder / "scenario.toml").write_text(f"[link]\nselect = 1\n{variants}")
    said = "".join(air_sections(read_run(folder)))
    assert "With link.select = 1 the server asks at most 1 device in a round" in said
    assert "per joule: selected." in said


def test_what_never_varies_is_said_and_not_drawn(tmp_path: Path) -> None:
    rows = run_rows("flat", seeds=[0], rounds=3, devices=3)
    flat = [row | {"gains": [1.0] * 3} if row["round"] else row for row in rows]
    html = body(write_report(write_run(tmp_path, [flat])))
    assert "The same for every device in every round: flat (0 dB)." in html
    assert 'id="gains"' not in html
    assert 'id="power"' in html


def test_more_variants_get_coarser_maps() -> None:
    def width(variants: int) -> int:
        rows = [row for name in range(variants) for row in run_rows(f"v{name}", seeds=[0], rounds=120, devices=60)[1:]]
        frame = pd.DataFrame(rows)
        frame[["gains", "devices"]] = frame[["gains", "devices"]].map(np.asarray)
        return len(gain_figures(frame)["v0"].data[0].x)

    assert width(1) == 120
    assert width(12) == 60_000 // (12 * 60)


def test_devices_are_summed_up_over_the_rounds_of_the_first_seed(tmp_path: Path) -> None:
    common = {"variant": "v", "test_accuracy": 0.5, "failures": []}
    rows = [
        {**common, "seed": 0, "round": 0},
        {**common, "seed": 0, "round": 1, "devices": [0, 2], "silent": [2], "heard": True}
        | {"energies": [3.0, 0.0], "weights": [0.25, 0.75], "gains": [1.0, 3.0]},
        {**common, "seed": 0, "round": 2, "devices": [2], "silent": [], "heard": True}
        | {"energies": [5.0], "weights": [1.0], "gains": [1.0]},
        {**common, "seed": 0, "round": 3, "devices": [0], "silent": [], "heard": False}
        | {"energies": [1.0], "weights": [1.0], "gains": [1.0]},
        {**common, "seed": 0, "round": 4, "devices": [], "silent": [], "heard": False},
        {**common, "seed": 1, "round": 1, "devices": [1], "silent": [], "heard": True, "energies": [99.0]},
    ]
    run = read_run(write_run(tmp_path, [rows], variants=[{"name": "v", "rounds": 4, "seeds": [0, 1], "devices": 4}]))
    table = device_tables(run.rounds, {"v": 4})["v"]
    np.testing.assert_allclose(table["heard"], [1 / 4, 0, 1 / 4, 0])
    np.testing.assert_allclose(table["energy"], [4.0, 0.0, 5.0, 0.0])
    np.testing.assert_allclose(table["weight"], [0.625, np.nan, 0.875, np.nan])
    np.testing.assert_allclose(table["gain_db"], [0.0, np.nan, 10 * np.log10(5.0), np.nan])
    assert list(device_figures({"v": table})["v"].data[0].x) == ["2", "0", "1", "3"], "best channel first"


def test_device_panels_that_the_record_does_not_fill_are_left_out(tmp_path: Path) -> None:
    rows = run_rows("v", seeds=[0], rounds=3, devices=150, fading=False)
    table = device_tables(read_run(write_run(tmp_path, [rows])).rounds, {})["v"]
    figure = device_figures({"v": table.assign(weight=np.nan)})["v"]
    assert [trace.name for trace in figure.data] == ["heard", "energy"]
    assert all(len(trace.x) == 100 for trace in figure.data), "at most a hundred are drawn"
    assert figure.layout.xaxis.anchor == "y2", "the device axis is under the lowest panel"


@pytest.mark.parametrize("download", [0.0, 4e-3])
def test_parts_of_the_clock_add_up(download: float, tmp_path: Path) -> None:
    rows = run_rows("v", seeds=range(2), rounds=5, devices=3)
    for row in rows[1:] if download else ():
        row |= {"download_s": download * row["round"], "clock_s": row.get("clock_s", 0.0) + download * row["round"]}
    run = read_run(write_run(tmp_path, [rows]))
    table = clock_table(run.rounds)
    last = run.rounds[run.rounds["round"] == 5]
    parts = [key for key in SIMULATED if key in table.columns]
    assert parts == ["compute_s", "air_time_s", *["download_s"] * bool(download)], "nothing is left over"
    np.testing.assert_allclose(table[parts].sum(axis=1), last["clock_s"].mean())
    drawn = [trace.name for trace in clock_figures(table)["clock"].data]
    assert drawn == [SIMULATED[part] for part in parts]
    machine = table[["wall_train_s", "wall_uplink_s", "wall_evaluate_s", "rest"]]
    np.testing.assert_allclose(machine.sum(axis=1), last["wall_s"].mean())
    assert all(figure.layout.barmode == "stack" for figure in clock_figures(table).values())


def test_bars_of_variants_with_other_parts_stack_to_their_clocks(tmp_path: Path) -> None:
    """Plotly puts a part that follows a missing one at zero, over the others."""
    air, system = run_rows("air", seeds=[0], rounds=2, devices=3), system_rows("system", rounds=2, devices=3)
    air[-1] |= {"download_s": 1.5, "clock_s": air[-1]["clock_s"] + 1.5}
    table = clock_table(read_run(write_run(tmp_path, [air, system], variants=[])).rounds)
    assert table.isna().any(axis=None), "a system has no time on air"
    bars = clock_figures(table)["clock"].data
    assert [bar.name for bar in bars] == list(SIMULATED.values())
    np.testing.assert_allclose(np.sum([bar.x for bar in bars], axis=0), [air[-1]["clock_s"], system[-1]["clock_s"]])
