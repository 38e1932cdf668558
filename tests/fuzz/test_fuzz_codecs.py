"""Whatever bytes arrive, a decoder says that they are no packet of its codec, or gives a finite update."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from channel.codecs import CODECS, FACTOR_CODECS, Codec, FactorCodec, NestedDitheredQuantizer, PacketError
from channel.codecs.ceo import decode_in_order
from channel.codecs.factor_layers import FactoredLayer, decode_layers, encode_layers
from tests.fuzz.budget import no_hang, of_cases
from tests.fuzz.hostile_bytes import MUTATIONS, Mutation, mutated, sealed

torch.set_num_threads(1)

SIZE = 300
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "dithered": [{}, {"levels": 0.5}, {"levels": 32767, "bucket": "whole"}],
    "nested": [{}, {"levels": 65536, "ratio": 65533}],
    "compressive": [{}, {"ratio": 1.0, "levels": 0.5, "bucket": 64, "decoder": "mmse"}],
    "eden": [{}, {"bits": 0.1, "rotations": 2}, {"bits": 4, "unbiased": False, "bucket": 16}],
    "rotated-dithered": [{}, {"bits": 12, "bucket": 64}, {"step": 1000.0}],
    "qsgd": [{}, {"levels": 32767, "norm": "l2"}],
    "terngrad": [{}],
    "scaled-sign": [{}, {"bucket": 7}],
    "one-bit-sgd": [{}, {"bucket": 7}],
    "top-k": [{}, {"fraction": 0.7}, {"fraction": 1.0}],
    "rand-k": [{}, {"fraction": 0.003}],
    "sparse-binary": [{}, {"fraction": 0.4}],
    "factor": [{}, {"levels": 0.5, "errors_levels": 100}],
    "deterministic-factor": [{}, {"levels": 64, "refit": "none"}],
}
FLAT = [pytest.param(CODECS[name](**p), id=f"{name}-{i}") for name in CODECS for i, p in enumerate(PARAMETERS[name])]
OF_FACTORS = [
    pytest.param(FACTOR_CODECS[n](**p), id=f"{n}-{i}") for n in FACTOR_CODECS for i, p in enumerate(PARAMETERS[n])
]

UPDATE = torch.from_numpy(np.random.default_rng(0).standard_t(3, SIZE))


def layer(inputs: int, outputs: int, bias: bool) -> FactoredLayer:
    draws = np.random.default_rng(inputs)
    rows = draws.standard_normal((4, inputs)).clip(min=0), draws.standard_normal((4, outputs))
    return FactoredLayer(*(torch.from_numpy(factor).float() for factor in rows), bias)


LAYERS = [layer(20, 10, bias=True), layer(9, 10, bias=False)]
LAYERS_SIZE = 20 * 10 + 10 + 9 * 10

HEADERS = st.builds(
    lambda packing, dtype, exponent, size: struct.pack("<BBhI", packing, dtype, exponent, size),
    st.integers(0, 2), st.integers(0, 4), st.sampled_from([0, 1, 127, 128, 1023, 1075, 1076, -1075, -32768, 32767]),
    st.sampled_from([SIZE, SIZE, SIZE, 0, 1, SIZE - 1, 2**32 - 1]),
)  # fmt: skip
CHANGES = st.lists(MUTATIONS, max_size=4)


def check(codec: Codec, payload: bytes) -> None:
    """Alone, and as a round has it."""
    side = torch.ones(SIZE, dtype=torch.float64)
    with no_hang():
        try:
            if codec.header(payload).size == SIZE:
                more = {"side_information": side} if isinstance(codec, NestedDitheredQuantizer) else {}
                update = codec.decode(payload, seed=3, **more)
                assert update.shape == (SIZE,)
                assert bool(torch.isfinite(update).all())
        except PacketError:
            pass
        other = CODECS["dithered"]()
        packets = {0: other.encode(UPDATE, seed=1), 1: payload, 2: other.encode(UPDATE, seed=2)}
        codecs = {0: other, 1: codec, 2: other}
        decoded = decode_in_order(packets, codecs.__getitem__, {0: 1, 1: 3, 2: 2}, size=SIZE)
        assert {0, 2} <= set(decoded.updates)
        assert all(bool(torch.isfinite(update).all()) for update in decoded.updates.values())


@pytest.mark.parametrize("codec", FLAT)
@given(data=st.binary(max_size=400), header=st.one_of(st.just(b""), HEADERS), right=st.booleans())
@of_cases(0.2)
def test_bytes_that_are_made_up_are_no_packet_or_a_finite_update(
    codec: Codec, data: bytes, header: bytes, right: bool
) -> None:
    body = header + data
    check(codec, sealed(body, codec.mark) if right else body)


@pytest.mark.parametrize("codec", FLAT)
@given(changes=CHANGES, packing=st.sampled_from(["fixed", "entropy"]), seed=st.integers(0, 3), right=st.booleans())
@of_cases(0.2)
def test_a_packet_that_was_changed_is_damaged_or_a_finite_update(
    codec: Codec, changes: list[Mutation], packing: Any, seed: int, right: bool
) -> None:
    payload = codec.encode(UPDATE, seed=seed, packing=packing).payload
    check(codec, sealed(mutated(payload[:-4], changes), codec.mark) if right else mutated(payload, changes))


@pytest.mark.parametrize("codec", OF_FACTORS)
@given(changes=CHANGES, packing=st.sampled_from(["fixed", "entropy"]), right=st.booleans(), data=st.data())
@of_cases(0.2)
def test_a_packet_of_layers_that_was_changed_is_damaged_or_a_finite_update(
    codec: FactorCodec, changes: list[Mutation], packing: Any, right: bool, data: st.DataObject
) -> None:
    payload = encode_layers(codec, LAYERS, seed=3, packing=packing).payload
    payload = resealed(codec, payload, changes, data.draw(st.integers(0, 2))) if right else mutated(payload, changes)
    with no_hang():
        try:
            update = decode_layers(codec, payload, seed=3, size=LAYERS_SIZE)
        except PacketError:
            return
    assert update.shape == (LAYERS_SIZE,)
    assert bool(torch.isfinite(update).all())


def resealed(codec: FactorCodec, payload: bytes, changes: list[Mutation], part: int) -> bytes:
    """The head (part 0) or the packet of a layer changed, and all checksums and lengths as they should be."""
    (count,) = struct.unpack("<H", payload[:2])
    end = 2 + 7 * count
    entries = [struct.unpack("<Ih?", payload[2 + 7 * i : 9 + 7 * i]) for i in range(count)]
    if part == 0:
        return sealed(mutated(payload[:end], changes), codec.mark) + payload[end + 4 :]
    packets, place = [], end + 4
    for length, _, _ in entries:
        packets.append(payload[place : place + length])
        place += length
    packets[part - 1] = sealed(mutated(packets[part - 1][:-4], changes), codec.mark)
    head = struct.pack("<H", count) + b"".join(
        struct.pack("<Ih?", len(own), exponent, bias) for own, (_, exponent, bias) in zip(packets, entries, strict=True)
    )
    return sealed(head, codec.mark) + b"".join(packets)


@pytest.mark.parametrize("codec", FLAT)
def test_numbers_as_large_as_float32_has_are_no_packet_or_a_finite_update(codec: Codec) -> None:
    """Sums of them overflow in the middle of decoding, and infinities of both signs make no number."""
    payload = codec.encode(UPDATE, seed=0).payload
    largest = struct.pack("<f", 3e38)
    for place in range(8, 8 + 16):
        check(codec, sealed(payload[:place] + largest + payload[place + 4 : -4], codec.mark))
