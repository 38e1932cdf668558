"""What is tuned: how it is written, what it means and what is refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.scenario_errors import ScenarioError
from fedmac.studies.tune.search_space import Choices, Range, corners, described, is_grid, read_space

KEY = "training.learning_rate"

# Of sizes that anybody would tune over; the least floats have no digits left to round to.
numbers = st.integers(-1000, 1000) | st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.6g}")).filter(
    lambda x: x == 0 or abs(x) > 1e-9
)
ranges = st.tuples(numbers, numbers).map(sorted).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: Range(*ends))
choices = st.lists(numbers | st.sampled_from(["fedavg", "fedadam"]), min_size=2, unique=True).map(
    lambda values: Choices(tuple(values))
)


def only(spec: Any) -> Range | Choices:
    """What a specification of one key means."""
    return read_space({KEY: spec})[KEY]


@given(ranges | choices)
def test_what_is_written_is_read_as_the_same(part: Range | Choices) -> None:
    assert read_space([f"{KEY}={part.spec()}"]) == {KEY: part}


def test_the_command_line_and_python_say_the_same() -> None:
    assert only("0.01..1") == only((0.01, 1)) == Range(0.01, 1)
    assert only("0.03,0.1,1") == only([0.03, 0.1, 1]) == Choices((0.03, 0.1, 1))
    assert only("fedavg,fedadam") == only('"fedavg", "fedadam"') == Choices(("fedavg", "fedadam"))
    assert only("true,false") == Choices((True, False))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("0.01..1", "0.01..1 (logarithmic)"),
        ("0.1..0.9", "0.1..0.9 (linear)"),
        ("0..1", "0..1 (whole numbers, linear)"),
        ("-1.0..1", "-1.0..1 (linear)"),
        ("1..64", "1..64 (whole numbers, logarithmic)"),
        ("0.1,1", "0.1,1 (choices)"),
    ],
)
def test_a_range_over_a_decade_above_zero_is_logarithmic_and_it_is_said(spec: str, words: str) -> None:
    assert only(spec).described() == words


@given(ranges, st.floats(0, 1))
def test_a_rounded_value_stays_in_its_range_and_near(part: Range, share: float) -> None:
    value = part.low + share * (part.high - part.low)
    rounded = part.rounded(value)
    assert rounded in part
    # Whole numbers move by half a step at most, logarithmic values in their third digit, others by half of
    # a thousandth of the range.
    step = 1.0 if part.whole else 0.01 * abs(value) if part.logarithmic else 1e-3 * (part.high - part.low)
    assert abs(rounded - value) <= 0.5 * step * (1 + 1e-6)
    assert part.rounded(rounded) == rounded


@given(ranges)
def test_the_ends_are_edges_and_the_middle_is_not(part: Range) -> None:
    middle = math.sqrt(part.low * part.high) if part.logarithmic else (part.low + part.high) / 2
    assert (part.edge(part.low), part.edge(part.high)) == ("low", "high")
    assert part.edge(middle) is None
    assert part.beyond("low") < part.low
    assert part.beyond("high") > part.high


def test_a_whole_number_beside_the_end_is_not_at_the_edge() -> None:
    assert [Range(1, 5).edge(value) for value in range(1, 6)] == ["low", None, None, None, "high"]


def test_choices_have_edges_if_they_are_numbers() -> None:
    assert [Choices((0.1, 1, 0.3)).edge(value) for value in (0.1, 0.3, 1)] == ["low", None, "high"]
    assert Choices(("a", "b")).edge("a") is None
    assert Choices((True, False)).edge(True) is None
    assert (Choices((2, 8)).beyond("low"), Choices((2, 8)).beyond("high")) == (1, 9)


def test_choices_alone_are_a_grid_and_corners_are_all_that_has_to_be_checked() -> None:
    space = read_space({"a.b": [1, 2], "c.d": (0.5, 0.7)})
    assert not is_grid(space)
    assert is_grid({"a.b": space["a.b"]})
    assert [tuple(values.values()) for values in corners(space)] == [(1, 0.5), (1, 0.7), (2, 0.5), (2, 0.7)]


def test_values_are_shown_as_a_person_writes_them() -> None:
    assert described({"a.b": 0.1, "c": True, "d": "x", "e": 3}) == "a.b = 0.1, c = true, d = x, e = 3"


@pytest.mark.parametrize(
    ("over", "answer"),
    [
        ([], "--over: missing; accepted: KEY=a range"),
        (["training.learning_rate"], "--over 'training.learning_rate': accepted: KEY=SPEC"),
        (["=0.1..1"], "--over '=0.1..1': accepted: KEY=SPEC"),
        (["a.b="], "--over 'a.b=': accepted: KEY=SPEC"),
        (["a.b=1..0.1"], "a.b = '1..0.1': accepted: LOW..HIGH with LOW below HIGH"),
        (["a.b=0.1..0.1"], "LOW below HIGH"),
        (["a.b=x..1"], "a.b = 'x..1': 'x' is no number"),
        (["a.b=0.1...1"], "is no number"),
        (["a.b=0.1..inf"], "inf is no number"),
        (["a.b=true..2"], "true is no number"),
        (["a.b=0.1"], "a.b = '0.1': one value is set with --set"),
        (["a.b=0.1,0.1"], "a choice comes twice"),
        (["a.b=1,1.0"], "a choice comes twice"),
        (["a.b=[1],[2]"], "[1] is no choice"),
        (["a.b=nan,1"], "nan is no choice"),
        (["a.b=1,2", "a.b=3,4"], "--over a.b: given twice"),
        (["seed=0,1"], "--over seed: a best seed is no result"),
        (["engine.workers=1,2"], "--over engine.workers: results do not depend on it"),
        (["evaluation.every=1,2"], "it is how trials are judged"),
        (["data.validation_fraction=0.1,0.2"], "it is how trials are judged"),
        ({"a.b": 3}, "--over a.b = 3: accepted: a range"),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_its_reason(over: Any, answer: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(answer)):
        read_space(over)
