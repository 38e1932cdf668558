"""Whole numbers as bytes at the rate of their entropy (range coding by ``constriction``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from channel.codecs.packing import Integers, Truncated


def entropy_code(values: NDArray[np.integer[Any]], alphabet: int) -> bytes:
    """Symbols range coded by their own frequencies, which go first, as 16-bit shares.

    The rate is the zero-order entropy of the symbols, plus two bytes for each letter of the alphabet.

    Parameters
    ----------
    values : ndarray of int, shape (count,)
        Symbols from 0 to alphabet - 1.
    alphabet : int
        How many letters there are.
    """
    shares = _shares(np.bincount(values, minlength=alphabet))
    return shares.astype("<u2").tobytes() + _code(values, _frequencies(shares))


def entropy_decode(data: bytes, count: int, alphabet: int) -> Integers:
    """The symbols that :func:`entropy_code` made bytes of.

    Raises
    ------
    Truncated
        If the bytes hold no such symbols.
    """
    head = 2 * alphabet
    if len(data) < head:
        raise Truncated(f"{len(data)} bytes hold no entropy-coded symbols of {alphabet}")
    shares = np.frombuffer(data[:head], dtype="<u2").astype(np.int64)
    if count and not shares.any():
        raise Truncated("no symbol has a share of the code")
    values = _decode(data[head:], count, _frequencies(shares))
    if (shares[values] == 0).any():
        raise Truncated("a symbol without a share of the code")
    return values


def code_places(places: NDArray[np.integer[Any]], size: int) -> bytes:
    r"""Rising places from 0 to size - 1 as the mask that they make, range coded.

    The rate is that of a mask whose share of ones is known: near :math:`\log_2 {d \choose K}` bits.
    """
    mask = np.zeros(size, dtype=np.int32)
    mask[places] = 1
    return _code(mask, _chosen(len(places), size))


def decode_places(data: bytes, count: int, size: int) -> Integers:
    """The places that :func:`code_places` made bytes of.

    Raises
    ------
    Truncated
        If the bytes hold no mask with `count` places.
    """
    places: Integers = np.flatnonzero(_decode(data, size, _chosen(count, size)))
    if len(places) != count:
        raise Truncated(f"a mask with {len(places)} places; expected {count}")
    return places


def _code(values: NDArray[np.integer[Any]], frequencies: NDArray[np.float64]) -> bytes:
    import constriction

    encoder = constriction.stream.queue.RangeEncoder()
    if len(values):
        encoder.encode(values.astype(np.int32, copy=False), _model(frequencies))
    coded: NDArray[np.uint32] = encoder.get_compressed()
    return coded.astype("<u4").tobytes()


def _decode(data: bytes, count: int, frequencies: NDArray[np.float64]) -> Integers:
    import constriction

    if len(data) % 4:
        raise Truncated(f"{len(data)} bytes hold no entropy-coded symbols")
    if count == 0:
        return np.zeros(0, dtype=np.int32)
    decoder = constriction.stream.queue.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))
    try:
        return np.asarray(decoder.decode(_model(frequencies), count), dtype=np.int32)
    except (AssertionError, ValueError) as error:
        raise Truncated(f"no entropy-coded symbols: {error}") from error


def _shares(counts: Integers) -> Integers:
    """Counts as 16-bit shares, of which each letter that occurs has at least one."""
    top = counts.max(initial=1)
    return np.where(counts > 0, np.maximum(1, counts * 65535 // top), 0)


def _frequencies(shares: Integers) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = shares / max(1, shares.sum())
    return frequencies


def _chosen(count: int, size: int) -> NDArray[np.float64]:
    """Frequencies of entries that are not, and that are, among `count` of `size`."""
    return np.array([1 - count / size, count / size])


def _model(frequencies: NDArray[np.float64]) -> object:
    import constriction

    return constriction.stream.model.Categorical(frequencies, perfect=False)
