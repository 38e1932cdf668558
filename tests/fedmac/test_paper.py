"""The figure for a paper: its size, its fonts, its lines, and that nothing of it is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import BboxBase
from PIL import Image

from fedmac.record import RecordError
from fedmac.studies.compare.findings import Comparison
from fedmac.studies.compare.paper import FORMATS, WIDTHS, paper_figure, write_paper_figure
from fedmac.studies.compare.paper_panels import style
from tests.fedmac.synthetic_comparisons import comparison, gaps, grid, series

LONG = "a folder with a long name/variant number {} that says what it does"
CASES = {
    "a few": comparison([series("ideal", 0.9), series("rlc", 0.85), series("mask", 0.8, seeds=1)]),
    "eight": comparison([series(f"variant-{n}", 0.9 - 0.02 * n) for n in range(8)]),
    "forty": comparison([series(f"variant-{n}", 0.9 - 0.01 * n) for n in range(40)]),
    "long names": comparison([series(LONG.format(n), 0.9 - 0.02 * n) for n in range(7)]),
    "panels": comparison(grid([0, 10, 20], [0.05, 0.1, 0.5], ["rlc", "ideal"])),
    "maps": comparison(grid([0, 10, 20], [0.05, 0.1, 0.5], ["rlc", "ideal", "mask", "uncoded", "rayleigh"])),
    "one key": comparison(grid([0.001, 0.01, 0.1, 1, 2, 3, 4], (), ["rlc", "ideal"])),
}


def lines(axes: Axes) -> int:
    """How many curves are drawn (the target's line is none)."""
    return sum(len(np.asarray(line.get_xdata())) > 2 for line in axes.get_lines())


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]  # type: ignore[attr-defined]


def within(box: BboxBase, figure: Figure) -> bool:
    """Whether a box is within the page, to half a pixel: the rounding of glyphs."""
    page = figure.bbox.padded(0.5)
    return page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("case", CASES)
def test_a_figure_is_as_wide_as_its_column_and_all_its_text_is_in_it_and_legible(case: str, width: str) -> None:
    figure = paper_figure(CASES[case], width)
    assert figure.get_size_inches()[0] == WIDTHS[width]
    assert 1.5 < figure.get_size_inches()[1] <= 9.0
    figure.draw_without_rendering()
    drawn = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]  # type: ignore[attr-defined]
    assert min(text.get_fontsize() for text in drawn) >= 6  # type: ignore[attr-defined]
    # With labels, titles, legends; but for ticks beyond the axes' ends, which are not drawn.
    for box in filter(None, [axes.get_tightbbox() for axes in figure.axes if axes.axison]):
        assert within(box, figure)
    for legend in [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]:
        assert within(legend.get_window_extent(), figure)


@pytest.mark.parametrize("case", ["panels", "maps", "eight"])
def test_panels_and_legend_do_not_overlap(case: str) -> None:
    figure = paper_figure(CASES[case], "double")
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for one, other in itertools.combinations(filter(None, boxes), 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        up = min(one.y1, other.y1) - max(one.y0, other.y0)
        # Two hundredths of an inch: the layout gives tick labels at panels' edges no more room than that.
        assert min(across, up) <= 0.02 * figure.dpi


def test_every_series_is_drawn_and_named() -> None:
    for case in ("a few", "eight", "long names"):
        figure = paper_figure(CASES[case])
        assert lines(figure.axes[0]) == len(CASES[case].series)
        said = " ".join(texts(figure)).replace("\n", " ")
        assert all(one.name in said for one in CASES[case].series)


def test_of_many_series_the_best_and_the_baseline_are_drawn_and_the_figure_says_so() -> None:
    shuffled = [*CASES["forty"].series[20:], *CASES["forty"].series[:20]]
    figure = paper_figure(comparison(shuffled))
    assert lines(figure.axes[0]) == 11
    assert "11 of 40 series: the best and the baseline" in texts(figure)
    assert {"variant-20", "variant-0", "variant-9"} <= set(texts(figure))
    assert "variant-10" not in texts(figure)


def test_a_sweep_over_two_keys_has_a_panel_for_each_value_of_the_first() -> None:
    figure = paper_figure(CASES["panels"])
    assert [axes.get_title() for axes in figure.axes] == ["snr_db = 0", "snr_db = 10", "snr_db = 20"]
    assert [lines(axes) for axes in figure.axes] == [6, 6, 6]
    assert "ratio = 0.05, rlc" in texts(figure)


def test_a_wide_sweep_over_two_keys_is_a_map_for_each_variant_on_one_scale() -> None:
    figure = paper_figure(CASES["maps"])
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 5
    assert len({image.get_clim() for image in images}) == 1
    drawn = np.asarray(images[0].get_array())
    cells = {tuple(one.settings.values()): one.final.mean for one in CASES["maps"].series if one.variant == "rlc"}
    assert drawn[2, 1] == cells[20, 0.1]


def test_a_long_sweep_over_one_key_is_the_final_value_against_it_on_a_log_axis_if_it_spans_decades() -> None:
    figure = paper_figure(CASES["one key"])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_xscale()) == ("channel.snr_db", "log")
    linear = paper_figure(comparison(grid(list(range(13)), (), ["rlc"])))
    assert linear.axes[0].get_xscale() == "linear"
    words = paper_figure(comparison(grid([f"kind-{n}" for n in range(13)], (), ["rlc"])))
    assert "kind-12" in texts(words)


def test_the_range_of_y_is_shown_as_asked_and_a_map_keeps_its_rows() -> None:
    for case in ("panels", "one key"):
        assert [axes.get_ylim() for axes in paper_figure(CASES[case], y_range=(0.8, 0.9)).axes if axes.lines] == [
            (0.8, 0.9)
        ] * len(paper_figure(CASES[case]).axes)
    maps, ranged = (paper_figure(CASES["maps"], y_range=given) for given in (None, (0.8, 0.9)))
    assert [axes.get_ylim() for axes in ranged.axes] == [axes.get_ylim() for axes in maps.axes]


def test_an_axis_on_which_series_spend_very_differently_is_logarithmic() -> None:
    cheap, dear = series("cheap"), series("dear")
    assert paper_figure(comparison([cheap, dear])).axes[0].get_xscale() == "linear"
    curve = cheap.curves["energy"]
    scaled = dict(cheap.curves) | {"energy": type(curve)(curve.x / 100, curve.mean, curve.half_width, curve.seeds)}
    cheap = type(cheap)(**{**vars(cheap), "curves": scaled})
    figure = paper_figure(comparison([cheap, dear]))
    assert figure.axes[0].get_xscale() == "log"
    assert all(np.asarray(line.get_xdata()).min() > 0 for line in figure.axes[0].get_lines()[:2])


def test_gaps_that_span_decades_are_on_a_log_axis_without_what_is_not_above_zero() -> None:
    drawn = [gaps("newton", [1.0, 1e-3, 1e-7, -1e-17], 0.01), gaps("slow", [1.0, 0.5, 0.4, 0.3], 0.01)]
    (axes,) = paper_figure(comparison(drawn, y="objective_gap", target=("objective_gap", 1e-4))).axes
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "objective gap")
    bottom, top = axes.get_ylim()
    assert 1e-8 < bottom < 1e-7
    assert 1 < top < 10
    assert list(np.asarray(axes.get_lines()[0].get_ydata())) == [1.0, 1e-3, 1e-7]
    band = axes.collections[0].get_paths()[0].vertices  # type: ignore[index]
    assert band[:, 1].min() == bottom  # type: ignore[call-overload, index]
    assert paper_figure(comparison(drawn)).axes[0].get_yscale() == "linear", "as accuracies"
    linear = paper_figure(comparison(drawn, y="objective_gap"), y_range=(0.0, 1.0)).axes[0]
    assert (linear.get_yscale(), linear.get_ylim()) == ("linear", (0.0, 1.0)), "zero was asked for"


def test_an_unequal_budget_and_the_target_stand_in_the_legend() -> None:
    figure = paper_figure(comparison([series("ideal"), series("rlc", unequal=["energy +31 %"])]))
    assert {"ideal", "rlc (unequal budget)", "target 0.88"} <= set(texts(figure))


def test_names_are_shown_literally() -> None:
    names = ["$x^2$ costs $5", "_hidden", "50 % & <b>"]
    figure = paper_figure(comparison([series(name) for name in names]))
    figure.draw_without_rendering()
    legend = figure.axes[0].get_legend() or figure.legends[0]
    shown = [text.get_text().replace("\\$", "$").lstrip("\u200b") for text in legend.get_texts()]
    assert shown[:3] == names


def test_the_band_of_an_accuracy_stays_between_0_and_1() -> None:
    wild = series("wild", 0.99)
    curves = {axis: type(c)(c.x, c.mean, np.full(len(c.x), 0.5), 2) for axis, c in wild.curves.items()}
    figure = paper_figure(comparison([type(wild)(**{**vars(wild), "curves": curves})]))
    (band,) = figure.axes[0].collections
    heights = np.concatenate([path.vertices[:, 1] for path in band.get_paths()])  # type: ignore[index, call-overload]
    assert (heights.min(), heights.max()) == (0.0, 1.0)


def test_lines_are_told_apart_without_colour_and_with() -> None:
    looks = [style(number) for number in range(49)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 49
    assert len({str(look["linestyle"]) for look in looks[:7]}) == 7


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same comparison written twice."""
    folders = (tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second"))
    for folder in folders:
        write_paper_figure(CASES["a few"], folder)
    return folders


def test_files_depend_on_nothing_but_the_comparison(written: tuple[Path, Path]) -> None:
    for kind in FORMATS:
        first, second = ((folder / f"figure.{kind}").read_bytes() for folder in written)
        assert first == second
        assert b"/work" not in first
    assert sorted(path.name for path in written[0].iterdir()) == ["figure.pdf", "figure.png", "figure.svg"]


def test_files_have_the_size_and_fonts_that_journals_ask_for(written: tuple[Path, Path]) -> None:
    folder = written[0]
    with Image.open(folder / "figure.png") as image:
        assert image.width == round(3.5 * 300)
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)  # PNG stores dots a metre, whole ones
    assert f'width="{3.5 * 72:g}pt"' in (folder / "figure.svg").read_text()
    assert b"/Type3" not in (folder / "figure.pdf").read_bytes()


def test_drawing_leaves_the_settings_of_matplotlib_alone_and_does_not_depend_on_them(
    written: tuple[Path, Path], tmp_path: Path
) -> None:
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9}):
        before = dict(mpl.rcParams)
        write_paper_figure(CASES["a few"], tmp_path)
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "figure.svg").read_bytes() == (written[0] / "figure.svg").read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"nowhere.figure\.svg: cannot be written"):
        write_paper_figure(CASES["a few"], tmp_path / "nowhere")


def test_a_series_without_the_axis_or_a_finite_value_is_no_obstacle() -> None:
    lost = series("lost")
    lost = type(lost)(**{**vars(lost), "curves": {}})
    drawn: Comparison = comparison([series("ideal"), lost])
    assert lines(paper_figure(drawn).axes[0]) == 1
