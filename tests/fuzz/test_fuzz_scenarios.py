"""Whatever a scenario file holds, it is a scenario, or refused with a message that says why."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_text import parse_settings, scenario_from_text
from tests.fuzz.budget import no_hang, of_cases
from tests.fuzz.hostile_bytes import MUTATIONS, Mutation, mutated

FILES = sorted((Path(__file__).parents[2] / "scenarios").glob("*.toml"))
TEXTS = {path.name: path.read_bytes() for path in FILES}
CONTENTS = {name: tomllib.loads(text.decode()) for name, text in TEXTS.items()}

Place = tuple[str | int, ...]


def places(content: Any, place: Place = ()) -> Iterator[Place]:
    """Of every value, and of every table and list."""
    if place:
        yield place
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inner:
        yield from places(value, (*place, key))


PLACES = [(name, place) for name, content in CONTENTS.items() for place in places(content)]
KEYS = sorted({str(place[-1]) for _, place in PLACES})


def value_at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


GIVEN = sorted({value for name, place in PLACES if isinstance(value := value_at(CONTENTS[name], place), str)})
SCALARS = st.one_of(
    st.integers(-3, 3), st.integers(), st.floats(), st.booleans(), st.text(max_size=20), st.sampled_from(GIVEN),
    st.sampled_from([0.0, -0.0, 1e308, 5e-324, 2**31, 2**63, 2**64, -1, 10**30, "", "\0", "../x", "a" * 300, "\u202e"]),
    st.dates(), st.datetimes(),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=3),
    ),
    max_leaves=6,
)


def load(source: Any) -> None:
    with no_hang(), suppress(ScenarioError):
        Scenario.load(source)


@given(place=st.sampled_from(PLACES), value=VALUES, drop=st.booleans(), again=st.booleans(), data=st.data())
@of_cases(0.5)
def test_a_value_of_any_kind_in_any_place_is_accepted_or_refused(
    place: tuple[str, Place], value: Any, drop: bool, again: bool, data: st.DataObject
) -> None:
    name, where = place
    content = copy.deepcopy(CONTENTS[name])
    change(content, where, value, drop=drop)
    if again:
        others = list(places(content))
        change(content, data.draw(st.sampled_from(others)) if others else ("name",), data.draw(VALUES), drop=False)
    load(content)


def change(content: Any, where: Place, value: Any, *, drop: bool) -> None:
    table = value_at(content, where[:-1])
    if drop:
        del table[where[-1]]
    else:
        table[where[-1]] = value


@given(place=st.sampled_from(PLACES), key=st.one_of(st.sampled_from(KEYS), st.text(max_size=10)), value=VALUES)
@of_cases(0.5)
def test_a_key_that_is_added_is_accepted_or_refused(place: tuple[str, Place], key: str, value: Any) -> None:
    name, where = place
    content = copy.deepcopy(CONTENTS[name])
    table = value_at(content, where)
    (table if isinstance(table, dict) else content)[key] = value
    load(content)


@given(
    changes=st.dictionaries(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(".".join), VALUES, max_size=3)
)
@of_cases(0.5)
def test_overrides_of_any_kind_are_accepted_or_refused(changes: dict[str, Any]) -> None:
    with no_hang(), suppress(ScenarioError):
        Scenario.load(CONTENTS["quickstart.toml"], changes)


@given(name=st.sampled_from(sorted(TEXTS)), changes=st.lists(MUTATIONS, min_size=1, max_size=4))
@of_cases(0.25)
def test_a_file_that_was_changed_is_a_scenario_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[Mutation]
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(mutated(TEXTS[name], changes))
    load(path)


@given(
    text=st.one_of(st.text(), st.text("[]{}=.,'\"#\n ab1\\u", max_size=200)), settings=st.lists(st.text(), max_size=3)
)
@of_cases(0.5)
def test_any_text_in_a_runs_configuration_is_a_scenario_or_refused(text: str, settings: list[str]) -> None:
    with no_hang(), suppress(ScenarioError):
        scenario_from_text(f"\n{text}", "\n".join(settings))
    with no_hang(), suppress(ScenarioError):
        parse_settings(settings)


@pytest.mark.parametrize(
    "text", ["[" * 10_000, "a = " + "[" * 10_000, "a." * 2_000 + "b = 1", "a = " + "{b = " * 5_000]
)
def test_a_file_of_endless_depth_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match="TOML"):
        Scenario.load(path)
    with pytest.raises(ScenarioError, match="TOML"):
        scenario_from_text(f"\n{text}")
