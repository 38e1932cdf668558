"""Means, intervals, tests and areas, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedmac.axes import best_direction
from fedmac.studies.compare.curves import (
    Points,
    cost,
    cost_to_target,
    first_reached,
    height,
    mean_curve,
    points,
)
from fedmac.studies.compare.pareto import on_front, pareto_front
from fedmac.studies.compare.statistics import Contrast, Estimate, Pair, estimate, holm, paired

VALUES = [0.81, 0.84, 0.79, 0.86, 0.83]
FIGURES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)


def test_half_width_is_scipys_t_interval() -> None:
    found = estimate(VALUES)
    low, high = stats.t.interval(0.95, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert found.mean == pytest.approx(np.mean(VALUES))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_an_interval_of_five_normal_seeds_covers_the_truth_in_95_of_100() -> None:
    """Student's interval is exact for normal samples; 4000 draws put the share within 3 x 0.0034 of 0.95."""
    samples = np.random.default_rng(0).normal(3.0, 2.0, (4000, 5))
    found = [estimate(sample) for sample in samples]
    covered = np.mean([e.low <= 3.0 <= e.high for e in found])
    assert covered == pytest.approx(0.95, abs=0.0104)


@given(FIGURES)
def test_the_order_of_seeds_does_not_matter(values: list[float]) -> None:
    one, other = estimate(values), estimate(values[::-1])
    assert one.n == other.n
    assert (one.mean, one.half_width) == pytest.approx((other.mean, other.half_width), rel=1e-9, abs=1e-9)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.8]) == Estimate(0.8, None, 1)
    nothing = estimate([math.nan])
    assert math.isnan(nothing.mean)
    assert (nothing.half_width, nothing.n) == (None, 0)


def test_equal_seeds_have_no_spread_even_after_rounding() -> None:
    assert estimate([0.1 + 0.2, 0.3, 0.3]).half_width == 0.0


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Estimate(0.89321, 0.00423, 5), "0.8932 ± 0.0042"),
        (Estimate(12345.6, 234.5, 5), "12,350 ± 230"),
        (Estimate(0.5, None, 1), "0.5"),
        (Estimate(999.9999999, 0.0, 3), "1,000"),
        (Estimate(157000.0, None, 1), "157,000"),
        (Estimate(1.23456e-7, 2.3e-12, 3), "1.235e-07 ± 2.3e-12"),
        (Estimate(math.nan, None, 0), "–"),  # noqa: RUF001
    ],
)
def test_an_estimate_reads_to_two_digits_of_its_half_width(found: Estimate, text: str) -> None:
    assert str(found) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Estimate(4.41e-4, 0.012, 5), "0.000441 ± 0.012"),
        (Estimate(4.412345e-7, 1.2e-7, 5), "4.41e-07 ± 1.2e-07"),
        (Estimate(0.0123456, 1e-5, 5), "0.012346 ± 1.0e-05"),
        (Estimate(-2e-16, 1e-15, 5), "-2.00e-16 ± 1.0e-15"),
        (Estimate(0.4321, 0.0042, 5), "0.4321 ± 0.0042"),
        (Estimate(4.41234e-4, None, 1), "0.0004412"),
        (Estimate(0.0, 0.0, 5), "0"),
    ],
)
def test_a_small_estimate_can_be_had_to_three_digits_at_least(found: Estimate, text: str) -> None:
    assert found.precise() == text


def pair(values: Mapping[int, float], reference: Mapping[int, float]) -> Pair:
    return paired([Contrast("rlc", "ideal", values, reference)], "test accuracy")[0]


def seeds(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


REFERENCE = [0.80, 0.85, 0.80, 0.85, 0.80]


def test_paired_tests_are_scipys() -> None:
    found = pair(seeds(VALUES), seeds(REFERENCE))
    assert found.t_p == pytest.approx(stats.ttest_rel(VALUES, REFERENCE).pvalue, rel=1e-6)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(np.round(np.subtract(VALUES, REFERENCE), 12)).pvalue)
    plain = estimate(np.subtract(VALUES, REFERENCE))
    assert (found.difference.low, found.difference.high) == pytest.approx((plain.low, plain.high))


def test_only_seeds_that_both_have_are_paired() -> None:
    found = pair({0: 0.9, 1: 0.8, 2: 0.7, 7: 0.1}, {2: 0.6, 0: 0.7, 1: math.nan, 9: 0.9})
    assert found.difference.n == 2
    assert found.difference.mean == pytest.approx(0.15)


def test_turning_a_pair_round_turns_the_sign_and_nothing_else() -> None:
    one, other = pair(seeds(VALUES), seeds(REFERENCE)), pair(seeds(REFERENCE), seeds(VALUES))
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert (one.t_p, one.wilcoxon_p) == pytest.approx((other.t_p, other.wilcoxon_p))


def test_five_seeds_cannot_bring_wilcoxon_below_a_sixteenth() -> None:
    found = pair(seeds([1.0, 2.0, 3.0, 4.0, 5.0]), seeds([0.0] * 5))
    assert found.wilcoxon_p == 0.0625


def test_sentence_says_what_can_be_claimed() -> None:
    close = pair(seeds(VALUES), seeds(REFERENCE)).sentence
    assert close.startswith("rlc is higher than ideal by 0.006 ± 0.021 in test accuracy (5 seeds; paired t p = ")
    assert close.endswith(": no difference can be claimed at 5 %.")
    clear = pair(seeds([0.5, 0.51, 0.49]), seeds([0.9, 0.9, 0.9])).sentence
    assert clear.startswith("rlc is lower than ideal by 0.400 ± 0.025 in test accuracy (3 seeds; paired t p < 0.001;")
    assert clear.endswith(": the difference can be claimed at 5 %.")


def test_differences_without_spread_leave_the_t_test_undefined() -> None:
    found = pair(seeds([0.9, 0.8, 0.7]), seeds([0.8, 0.7, 0.6]))
    assert found.t_p is found.holm_p is None
    assert "by 0.1 in test accuracy under every one of 3 seeds, without spread: the t test is not" in found.sentence


def test_equal_figures_are_the_same() -> None:
    found = pair(seeds(VALUES), seeds(VALUES))
    assert (found.t_p, found.wilcoxon_p) == (None, None)
    assert found.sentence == "rlc is the same as ideal in test accuracy under every one of 5 seeds."


def test_one_seed_or_none_is_not_tested() -> None:
    assert pair({0: 0.9}, {0: 0.8}).sentence == (
        "rlc is higher than ideal by 0.1 in test accuracy (1 seed: no test; run with --seeds 5)."
    )
    assert pair({0: 0.9}, {1: 0.8}).sentence == "rlc and ideal have no seed in common: no test."


def test_holm_is_as_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; the last may not fall: 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_p_and_bonferroni(p: list[float]) -> None:
    for own, adjusted in zip(p, holm(p), strict=True):
        assert own <= adjusted <= min(1.0, len(p) * own)


def test_pairs_are_adjusted_for_their_number() -> None:
    base = seeds(REFERENCE)
    several = paired([Contrast(str(k), "ideal", seeds([v + 0.01 * k for v in VALUES]), base) for k in range(3)], "y")
    assert [p.holm_p for p in several] == pytest.approx(holm([p.t_p or 0.0 for p in several]))
    assert all("Holm" in p.sentence for p in several)


def line(ends: tuple[float, float], count: int, slope: float = 2.0) -> Points:
    x = np.linspace(*ends, count)
    return Points(x, 1.0 + slope * x)


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.1, 50))
def test_the_mean_of_seeds_on_one_line_is_that_line(first: int, second: int, end: float) -> None:
    curve = mean_curve([line((0.0, end), first), line((0.0, 0.7 * end), second)])
    assert curve is not None
    assert curve.half_width is not None
    assert curve.x[-1] == pytest.approx(0.7 * end)  # not continued beyond the shorter
    np.testing.assert_allclose(curve.mean, 1.0 + 2.0 * curve.x, rtol=1e-9)
    np.testing.assert_allclose(curve.half_width, 0.0, atol=1e-9 * (1 + 2 * end))


def test_seeds_recorded_at_the_same_x_keep_it() -> None:
    curve = mean_curve([line((0.0, 10.0), 11), line((0.0, 10.0), 11, slope=4.0)])
    assert curve is not None
    assert list(curve.x) == list(range(11))
    assert curve.mean == pytest.approx(1.0 + 3.0 * curve.x)


def test_seeds_without_common_x_have_no_mean() -> None:
    assert mean_curve([line((0.0, 1.0), 3), line((2.0, 3.0), 3)]) is None
    assert mean_curve([]) is None


@given(st.integers(2, 30), st.floats(0, 4), st.floats(5, 9))
def test_mean_height_of_a_line_is_its_middle(count: int, low: float, high: float) -> None:
    assert height(line((0.0, 10.0), count), low, high) == pytest.approx(1.0 + 2.0 * (low + high) / 2)


def test_rounds_in_which_nothing_was_spent_are_one_point() -> None:
    rows = [
        {"round": 0.0, "test_accuracy": 0.1},
        {"round": 1.0, "test_accuracy": 0.4, "energy_j_per_device_mean": 5.0},
        {"round": 2.0, "test_accuracy": 0.5},  # nobody sent
        {"round": 3.0, "energy_j_per_device_mean": 9.0},  # not evaluated
    ]
    assert cost(rows, "energy") == pytest.approx([0.0, 5.0, 5.0, 9.0])
    found = points(rows, "energy", "test_accuracy")
    assert found is not None
    assert (list(found.x), list(found.y)) == ([0.0, 5.0], [0.1, 0.5])
    assert cost(rows, "bits") is None
    assert points(rows[:1], "round", "test_accuracy") is None


def climb(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"round": k, "test_accuracy": y, "test_loss": 1 - y, "energy_j_per_device_mean": 5.0 * k}
        for k, y in enumerate(accuracies)
    ]


def test_target_is_reached_at_the_first_crossing() -> None:
    rows = climb(0.1, 0.5, 0.8, 0.7, 0.9)
    assert first_reached(rows, "test_accuracy", 0.8) == 2
    assert first_reached(rows, "test_loss", 0.5) == 1
    assert first_reached(rows, "test_accuracy", 0.1) == 0
    assert first_reached(rows, "test_accuracy", 0.95) is None


def test_cost_to_target_is_over_the_seeds_that_reached_it() -> None:
    both = [climb(0.1, 0.5, 0.8), climb(0.1, 0.8, 0.9), climb(0.1, 0.2, 0.3)]
    found = cost_to_target(both, "energy", "test_accuracy", 0.8, diverged=1)
    assert (found.reached, found.seeds, found.best) == (2, 4, 0.9)
    assert found.cost == estimate([10.0, 5.0])
    nobody = cost_to_target(both, "energy", "test_accuracy", 0.95)
    assert (nobody.cost, nobody.reached) == (None, 0)


@pytest.mark.parametrize(
    ("key", "best"),
    [
        ("test_accuracy", "high"),
        ("test_loss", "low"),
        ("mse_measured", "low"),
        ("energy", "low"),
        ("wall", "low"),
        ("objective_gap", "low"),
        ("train_gradient_norm", "low"),
    ],
)
def test_accuracies_are_good_high_and_the_rest_low(key: str, best: str) -> None:
    assert best_direction(key) == best


CLOUDS = st.integers(2, 3).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 6).map(float), min_size=width, max_size=width), min_size=1)
)


@given(CLOUDS, st.data())
def test_no_point_beats_the_front_and_the_front_beats_every_other(
    cloud: list[list[float]], data: st.DataObject
) -> None:
    best = data.draw(st.lists(st.sampled_from(["low", "high"]), min_size=len(cloud[0]), max_size=len(cloud[0])))
    sign = np.array([1.0 if direction == "low" else -1.0 for direction in best])
    values = np.array(cloud) * sign
    front = on_front(cloud, best)

    def beats(one: int, other: int) -> bool:
        return bool((values[one] <= values[other]).all() and (values[one] < values[other]).any())

    everyone = range(len(cloud))
    for index in everyone:
        if front[index]:
            assert not any(beats(other, index) for other in everyone)
        else:
            assert any(beats(other, index) for other in everyone if front[other])


def test_ties_share_the_front_and_gaps_are_left_out() -> None:
    found = pareto_front("abcd", ["energy", "area"], [[1, 0.9], [1, 0.9], [2, 0.8], [0, math.nan]], ["low", "high"])
    assert found.points["name"].tolist() == ["a", "b", "c"]
    assert found.points["on_front"].tolist() == [True, True, False]
