"""Grids: what is read, what is refused, and that cells have names which are folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmac.scenario_errors import ScenarioError
from fedmac.studies.sweep.grid import NOT_IN_GRIDS, cell_name, cells_of, check_grid, parse_grid


@pytest.mark.parametrize(
    ("words", "grid"),
    [
        (["channel.snr_db=0,10,20"], {"channel.snr_db": [0, 10, 20]}),
        (["uplink.ratio=0.05, 0.1 ,1e-3"], {"uplink.ratio": [0.05, 0.1, 1e-3]}),
        (["strategy.name=fedavg,fedadam"], {"strategy.name": ["fedavg", "fedadam"]}),
        (["training.full_batch=true,false"], {"training.full_batch": [True, False]}),
        (["data.source='a,b',\"c,d\",e"], {"data.source": ["a,b", "c,d", "e"]}),
        (["model.hidden=[32,16],[64]"], {"model.hidden": [[32, 16], [64]]}),
        (["rounds=5", "a.b=x=y"], {"rounds": [5], "a.b": ["x=y"]}),
        ([], {}),
    ],
)
def test_values_are_read_as_toml_one_by_one(words: list[str], grid: dict[str, Any]) -> None:
    assert parse_grid(words) == grid


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["channel.snr_db"], "--grid 'channel.snr_db': accepted: KEY=VALUE,VALUE,…"),
        (["=1,2"], "accepted: KEY=VALUE,VALUE,…"),
        (["rounds="], "a value is empty"),
        (["rounds=1,,2"], "a value is empty"),
        (["rounds=1", "rounds=2"], "rounds is in the grid already"),
        (["rounds=1,2,1"], "rounds = 1: given twice"),
        (["uplink.ratio=1,1.0"], "uplink.ratio = 1.0: given twice"),
        (["data.column=1,'1'"], "data.column = '1': given twice"),
        (["uplink={ratio=0.1}"], "uplink = {'ratio': 0.1}: a table; accepted: a grid for each of its keys"),
        (["a..b=1"], "'a..b' is not a key"),
        (["../x=1"], "'../x' is not a key"),
    ],
)
def test_what_is_no_grid_is_refused_with_what_would_be(words: list[str], answer: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        parse_grid(words)
    assert answer in str(refused.value)


@pytest.mark.parametrize("key", [*NOT_IN_GRIDS, "engine.workers"])
def test_keys_that_make_no_cells_are_refused_with_the_reason(key: str) -> None:
    with pytest.raises(ScenarioError, match=f"grid: {key}: .*accepted"):
        check_grid({key: [1, 2]})


def test_a_grid_from_python_may_hold_numpy_numbers_but_no_single_value() -> None:
    grid = check_grid({"uplink.ratio": np.array([0.1, 0.5]), "rounds": range(1, 3)})
    assert grid == {"uplink.ratio": [0.1, 0.5], "rounds": [1, 2]}
    assert {type(value) for values in grid.values() for value in values} == {float, int}
    for wrong in ("fedavg", {"a": 1}, 3):
        with pytest.raises(ScenarioError, match="accepted: a list of values"):
            check_grid({"strategy.name": wrong})  # type: ignore[dict-item]
    with pytest.raises(ScenarioError, match="rounds has no values"):
        check_grid({"rounds": []})
    with pytest.raises(ScenarioError, match="rounds = None"):
        check_grid({"rounds": [None]})


def test_cells_are_all_combinations_and_the_last_key_changes_fastest() -> None:
    cells = cells_of({"a": [1, 2], "b": ["x", "y", "z"]})
    assert [tuple(cell.values()) for cell in cells] == [(a, b) for a in (1, 2) for b in "xyz"]
    assert cells_of({}) == [{}]


def test_a_cell_is_named_by_its_settings() -> None:
    assert cell_name({"channel.snr_db": -10, "uplink.ratio": 0.05}) == "channel.snr_db=-10,uplink.ratio=0.05"
    assert cell_name({"training.full_batch": True}) == "training.full_batch=true"
    assert cell_name({}) == "base"
    assert cell_name({"data.source": "hf:a/b"}).startswith("data.source=hf_a_b-")


VALUES = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text(min_size=1, max_size=200)
)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_names_of_different_cells_differ_whatever_the_case_and_are_folders(values: list[Any]) -> None:
    try:
        grid = check_grid({"data.source": values})
    except ScenarioError:  # values that are the same
        return
    names = [cell_name(cell) for cell in cells_of(grid)]
    assert len({name.casefold() for name in names}) == len(values)
    assert all(Path(name).name == name and len(name) <= 100 and name.isascii() and name.isprintable() for name in names)


@given(st.lists(VALUES.filter(lambda value: not isinstance(value, str)), min_size=1, max_size=6, unique_by=float))
def test_numbers_survive_the_command_line(values: list[Any]) -> None:
    written = ",".join(str(value).lower() if isinstance(value, bool) else repr(value) for value in values)
    assert parse_grid([f"a.b={written}"]) == {"a.b": values}
