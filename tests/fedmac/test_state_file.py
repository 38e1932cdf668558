"""A tree of values comes back from its file as it was, to the last bit, or the file is refused."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from channel.memory import CannotBeKept
from fedmac.record import RecordError
from fedmac.state_file import KINDS, MARKS, StateFileError, read_state, write_state

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    arrays.arrays(st.sampled_from(KINDS), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.integers(-9, 9).map(np.int64),
)
KEYS = st.text(max_size=5).filter(lambda key: key not in MARKS)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3) | st.tuples(inner, inner),
        max_leaves=8,
    ),
    max_size=4,
)


def same(here: Any, there: Any) -> bool:
    """Equal in type and in every bit; any NaN is as good as another where it is a Python float."""
    if type(here) is not type(there):
        return False
    if isinstance(here, dict):
        return list(here) == list(there) and all(same(here[key], there[key]) for key in here)
    if isinstance(here, list | tuple):
        return len(here) == len(there) and all(map(same, here, there))
    if isinstance(here, np.ndarray | np.generic):
        return (here.dtype, here.shape, here.tobytes()) == (there.dtype, there.shape, there.tobytes())
    if isinstance(here, float):
        return (math.isnan(here) and math.isnan(there)) or (here, math.copysign(1, here)) == (
            there,
            math.copysign(1, there),
        )
    return bool(here == there)


@given(tree=TREES)
def test_a_tree_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    write_state(path, tree, sync=False)
    assert same(read_state(path), tree)


def test_keys_with_dots_do_not_hide_each_other(tmp_path: Path) -> None:
    tree = {"a.b": np.ones(2), "a": {"b": np.zeros(3)}}
    write_state(tmp_path / "t", tree)
    assert same(read_state(tmp_path / "t"), tree)


def test_an_array_that_is_a_view_is_written_as_it_reads(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4).T[::-1]
    write_state(tmp_path / "t", {"a": array})
    assert np.array_equal(read_state(tmp_path / "t")["a"], array)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"b": [1, {2}]}}, r"a\.b\[1\]: a set; accepted: None"),
        ({"a": {1: 2}}, r"a: a dict with the key 1; accepted"),
        ({"a": {"$array": 2}}, r"a: a dict with the key '\$array'; accepted"),
        ({"a": np.array(["x"])}, r"a: an array of <U1; accepted: float64"),
        ({"a": np.zeros(1, ">f8")}, r"a: an array of >f8; accepted: float64"),
        ({"f": print}, r"f: a builtin_function_or_method"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_by_its_path(tmp_path: Path, tree: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotBeKept, match=message):
        write_state(tmp_path / "t", tree)
    assert list(tmp_path.iterdir()) == []


@given(data=st.data())
def test_a_damaged_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    write_state(path, {"w": np.arange(5.0), "n": 3}, sync=False)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut short"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(StateFileError, match=r"damaged\.safetensors: "):
        read_state(path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(StateFileError, match="without a tree"):
        read_state(tmp_path / "model.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t"
    write_state(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fedmac.state_file.os.fsync", full)
    with pytest.raises(RecordError, match="t: cannot be written: No space left on device"):
        write_state(path, {"a": 2})
    assert read_state(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
