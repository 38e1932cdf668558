"""Models as records and as vectors."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from strategies.systems.model_form import FlatModel, ModelForm, bits_of, flat_of

SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=4)


def record(arrays: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


@given(SHAPES, st.sampled_from([np.float32, np.float64]))
def test_packing_writes_what_numpy_would_and_unpacking_reads_it(shapes: list[tuple[int, ...]], dtype: type) -> None:
    arrays = {f"a{i}": np.arange(np.prod(shape), dtype=dtype).reshape(shape) for i, shape in enumerate(shapes)}
    form = ModelForm(record({name: np.zeros_like(array) for name, array in arrays.items()}))
    flat = form.layout.flatten(arrays)
    packed, usual = form.pack(flat), record(arrays)
    assert {name: array.data for name, array in packed.items()} == {n: a.data for n, a in usual.items()}
    unpacked = form.unpack(packed)
    assert unpacked is not None
    assert np.array_equal(unpacked, flat)


def test_arrays_that_are_not_learned_keep_the_first_models_values() -> None:
    form = ModelForm(record({"w": np.zeros(2), "steps": np.array(7)}))
    assert form.pack(np.ones(2))["steps"].numpy() == 7


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros(3)},
        {"w": np.zeros(2, np.float32)},
        {"w": np.zeros((2, 1))},
        {"v": np.zeros(2)},
    ],
)
def test_a_record_of_another_form_is_not_unpacked(other: dict[str, np.ndarray]) -> None:
    assert ModelForm(record({"w": np.zeros(2)})).unpack(record(other)) is None


def test_a_flat_model_is_the_record_that_it_stands_for_however_one_looks_at_it() -> None:
    arrays = {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    usual = record(arrays)
    form = ModelForm(usual)

    def flat() -> FlatModel:
        return FlatModel(form, form.layout.flatten(arrays))

    assert bits_of(flat()) == bits_of(usual) == 64 * 8
    assert flat() == usual
    assert usual == flat()
    assert flat().copy() == usual
    assert type(flat().copy()) is ArrayRecord
    assert list(flat()) == list(flat().keys()) == ["w", "b"]
    assert len(flat()) == len(flat().values()) == 2
    assert "w" in flat()
    assert flat()["b"].data == dict(flat().items())["b"].data == usual["b"].data
    other = ModelForm(record({"w": np.zeros(6)}))
    assert flat_of(flat(), other) is None
    assert flat_of(usual, form) is not None
