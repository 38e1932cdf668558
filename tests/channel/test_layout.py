"""Named arrays as one vector and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray

from channel import Layout

ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=5),
    arrays_of.arrays(
        st.sampled_from([np.float32, np.float64]),
        arrays_of.array_shapes(min_dims=0, max_dims=3, max_side=3, min_side=0),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    max_size=4,
)


@given(ARRAYS)
def test_unflattening_undoes_flattening(arrays: dict[str, NDArray[np.floating]]) -> None:
    layout = Layout.of_arrays(arrays)
    flat = layout.flatten(arrays)
    assert flat.shape == (layout.size,) == (sum(a.size for a in arrays.values()),)
    back = layout.unflatten(flat)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


def test_the_vector_follows_the_order_of_the_arrays_and_holds_the_widest_of_their_types() -> None:
    arrays = {"b": np.array([[1.0, 2.0]], dtype=np.float32), "a": np.array(3.0)}
    layout = Layout.of_arrays(arrays)
    assert layout.flatten(arrays).tolist() == [1.0, 2.0, 3.0]
    assert layout.dtype == np.float64
    assert Layout.of_arrays({"b": arrays["b"]}).dtype == np.float32


def test_integer_arrays_are_not_part_of_the_vector() -> None:
    layout = Layout.of_arrays({"count": np.array(7), "mask": np.array([True]), "w": np.ones(2)})
    assert layout.names == ("w",)
    assert layout.size == 2


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({}, r"array 'w': expected shape \(2, 3\), found nothing"),
        ({"w": np.ones((3, 2))}, r"array 'w': expected shape \(2, 3\), found shape \(3, 2\)"),
        ({"w": np.ones(6)}, r"found shape \(6,\)"),
    ],
)
def test_an_array_that_is_missing_or_misshapen_is_named(
    arrays: dict[str, NDArray[np.floating]], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Layout.of_arrays({"w": np.ones((2, 3))}).flatten(arrays)
