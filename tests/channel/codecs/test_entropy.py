"""Range coding: what was coded, near the entropy, and nothing from damaged bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from channel.codecs.entropy import code_places, decode_places, entropy_code, entropy_decode
from channel.codecs.packing import Truncated


@settings(max_examples=100, deadline=None)
@given(alphabet=st.integers(2, 70), skew=st.floats(0, 3), count=st.integers(0, 300), seed=st.integers(0, 99))
def test_decoding_gives_the_symbols_that_were_coded(alphabet: int, skew: float, count: int, seed: int) -> None:
    chances = (1 + np.arange(alphabet)) ** -skew
    values = np.random.default_rng(seed).choice(alphabet, count, p=chances / chances.sum())
    assert np.array_equal(entropy_decode(entropy_code(values, alphabet), count, alphabet), values)


@pytest.mark.parametrize("alphabet", [2, 256])
def test_one_letter_alone_costs_nothing_beside_the_shares(alphabet: int) -> None:
    values = np.full(20_000, alphabet - 1)
    data = entropy_code(values, alphabet)
    assert np.array_equal(entropy_decode(data, len(values), alphabet), values)
    assert len(data) <= 2 * alphabet + 8


@pytest.mark.parametrize("rare", [0.5, 0.1, 0.01])
def test_rate_is_the_entropy_of_the_symbols(rare: float) -> None:
    values = np.random.default_rng(0).choice(3, 50_000, p=[rare / 2, 1 - rare, rare / 2])
    wanted = len(values) * entropy(np.bincount(values), base=2)
    # 48 bits of shares, a last word of at most 64 bits; shares of 16 bits are exact to a thousandth.
    assert wanted <= 8 * len(entropy_code(values, 3)) <= 1.001 * wanted + 112


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 400), seed=st.integers(0, 99), data=st.data())
def test_decoding_gives_the_places_that_were_coded(size: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size))
    places = np.sort(np.random.default_rng(seed).choice(size, count, replace=False))
    assert np.array_equal(decode_places(code_places(places, size), count, size), places)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.9])
def test_places_cost_what_their_mask_does(fraction: float) -> None:
    size = 2**16
    count = round(fraction * size)
    places = np.sort(np.random.default_rng(1).choice(size, count, replace=False))
    wanted = size * entropy([fraction, 1 - fraction], base=2)
    assert 8 * len(code_places(places, size)) == pytest.approx(wanted, rel=0.005, abs=64)


def test_mask_with_another_number_of_places_is_refused() -> None:
    data = code_places(np.arange(0, 100, 10), 100)
    with pytest.raises(Truncated, match=r"places; expected 90"):
        decode_places(data, 90, 100)


@settings(max_examples=200, deadline=None)
@given(damaged=st.binary(max_size=60), alphabet=st.integers(2, 20), count=st.integers(0, 200))
def test_damaged_bytes_give_symbols_or_an_error(damaged: bytes, alphabet: int, count: int) -> None:
    try:
        values = entropy_decode(damaged, count, alphabet)
    except Truncated:
        return
    assert values.shape == (count,)
    assert ((values >= 0) & (values < alphabet)).all()
