"""Bytes that somebody made up: random, or something good with changes, with a checksum that is right or not."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from hypothesis import strategies as st

Mutation = Callable[[bytes], bytes]


def flipped(bits: list[int]) -> Mutation:
    def mutate(data: bytes) -> bytes:
        changed = bytearray(data)
        for bit in bits:
            if changed:
                place = bit % (8 * len(changed))
                changed[place // 8] ^= 1 << place % 8
        return bytes(changed)

    return mutate


def overwritten(place: int, new: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        start = place % (len(data) + 1)
        return data[:start] + new + data[start + len(new) :]

    return mutate


def cut(start: int, stop: int) -> Mutation:
    def mutate(data: bytes) -> bytes:
        first, last = sorted((start % (len(data) + 1), stop % (len(data) + 1)))
        return data[:first] + data[last:]

    return mutate


def grown(place: int, new: bytes) -> Mutation:
    def mutate(data: bytes) -> bytes:
        start = place % (len(data) + 1)
        return data[:start] + new + data[start:]

    return mutate


PLACES = st.integers(0, 2**20)
EXTREMES = st.sampled_from(
    [b"\0" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\1", b"\x80"]
)
MUTATIONS = st.one_of(
    st.lists(PLACES, min_size=1, max_size=8).map(flipped),
    st.builds(overwritten, PLACES, st.one_of(EXTREMES, st.binary(min_size=1, max_size=16))),
    st.builds(overwritten, st.integers(0, 16), st.one_of(EXTREMES, st.binary(min_size=1, max_size=16))),
    st.builds(cut, PLACES, PLACES),
    st.builds(grown, PLACES, st.binary(min_size=1, max_size=64)),
)
"""One change of bytes."""


def mutated(data: bytes, mutations: list[Mutation]) -> bytes:
    """Several changes, one after the other."""
    for mutation in mutations:
        data = mutation(data)
    return data


def sealed(body: bytes, mark: int) -> bytes:
    """A body with the checksum that whoever knows the codec can give it."""
    return body + zlib.crc32(body, mark).to_bytes(4, "little")
