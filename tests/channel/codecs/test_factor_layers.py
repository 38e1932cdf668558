"""The update of a network as its layers' factors: what the packet says, what it costs, and when it is lost."""

from __future__ import annotations

import re
import struct
import zlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from channel import DeterministicFactorQuantizer, FactorCodec, FactorQuantizer, PacketError
from channel.codecs.factor_layers import (
    LARGEST_BATCH,
    FactoredLayer,
    decode_each,
    decode_layers,
    encode_layers,
    layers_bits,
)

torch.set_num_threads(1)

BATCH = 6
SIZES = ((12, 8), (8, 8), (8, 3))
CODECS: tuple[FactorCodec, ...] = (FactorQuantizer(7, 3), DeterministicFactorQuantizer(4, 3))
FINEST = FactorQuantizer(levels=2**14, errors_levels=2**14)
each_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)


def layers(*, biases: bool = True, unit: float = 1.0, dtype: torch.dtype = torch.float64) -> list[FactoredLayer]:
    """Factors of three layers, of different units; half the inputs are zero, as behind ReLU."""
    draw = torch.Generator().manual_seed(5)
    made = []
    for number, (n_in, n_out) in enumerate(SIZES):
        inputs = 10.0**number * torch.randn((BATCH, n_in), generator=draw, dtype=torch.float64).relu()
        errors = unit * 0.01**number * torch.randn((BATCH, n_out), generator=draw, dtype=torch.float64)
        made.append(FactoredLayer(inputs.to(dtype), errors.to(dtype), biases))
    return made


def update_of(made: list[FactoredLayer]) -> Tensor:
    """The update, by the sums that define it."""
    parts = []
    for layer in made:
        parts.append(torch.einsum("bo,bi->oi", layer.errors, layer.inputs).reshape(-1))
        parts += [layer.errors.sum(dim=0)] if layer.bias else []
    return torch.cat(parts)


SIZE = sum(n_in * n_out + n_out for n_in, n_out in SIZES)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e20])
def test_with_many_levels_the_update_is_the_products_and_sums_of_the_factors(biases: bool, unit: float) -> None:
    made = layers(biases=biases, unit=unit)
    expected = update_of(made)
    decoded = decode_layers(FINEST, encode_layers(FINEST, made, seed=3), seed=3, size=len(expected))
    for number, (n_in, n_out) in enumerate(SIZES):
        start = sum(i * o + o * biases for i, o in SIZES[:number])
        part = slice(start, start + n_in * n_out + n_out * biases)
        # A step is 1/16384 of the largest entry and an error at most half a step, in each of B terms of a sum.
        bound = BATCH * 2 * made[number].inputs.abs().max().clamp(min=1) * made[number].errors.abs().max() / 2**15
        assert (decoded[part] - expected[part]).abs().max() < bound


def test_dithered_factors_are_unbiased_in_weights_and_biases() -> None:
    codec, made, trials = FactorQuantizer(3, 2), layers(), 400
    decoded = torch.stack(
        [decode_layers(codec, encode_layers(codec, made, seed=s), seed=s, size=SIZE) for s in range(trials)]
    )
    off = (decoded.mean(dim=0) - update_of(made)).abs()
    # Five standard deviations of a mean; entries that no row touches are exact, to rounding of float32.
    assert bool((off <= 5 * decoded.std(dim=0) / trials**0.5 + 1e-6 * update_of(made).abs().max()).all())


@each_codec
@pytest.mark.parametrize("biases", [True, False])
def test_a_packet_takes_the_bits_of_its_layers_and_of_the_table_before_them(codec: FactorCodec, biases: bool) -> None:
    packet = encode_layers(codec, layers(biases=biases), seed=0)
    of_layers = sum(codec.bits(BATCH, n_in, n_out) for n_in, n_out in SIZES)
    assert packet.bits == 8 * len(packet.payload) == layers_bits(codec, BATCH, SIZES) == of_layers + 48 + 3 * 56


def test_layers_of_the_same_factors_do_not_share_a_dither() -> None:
    codec, (_, same, _) = FactorQuantizer(1, 1), layers()
    decoded = decode_layers(codec, encode_layers(codec, [same, same], seed=0), seed=0, size=2 * 72)
    assert not torch.equal(decoded[:72], decoded[72:])


@each_codec
@pytest.mark.parametrize("packing", ["fixed", "entropy"])
def test_a_packet_cut_or_damaged_anywhere_is_refused(codec: FactorCodec, packing: str) -> None:
    payload = encode_layers(codec, layers(), seed=0, packing=packing).payload
    for cut in range(0, len(payload), 7):
        with pytest.raises(PacketError):
            decode_layers(codec, payload[:cut], seed=0, size=SIZE)
    with pytest.raises(PacketError):
        decode_layers(codec, payload + b"\0", seed=0, size=SIZE)
    for place in range(len(payload)):
        damaged = bytearray(payload)
        damaged[place] ^= 0x10
        with pytest.raises(PacketError):
            decode_layers(codec, bytes(damaged), seed=0, size=SIZE)


@each_codec
@pytest.mark.parametrize("size", [1, SIZE - 1, SIZE + 1])
def test_a_packet_of_another_size_than_the_update_is_refused(codec: FactorCodec, size: int) -> None:
    with pytest.raises(PacketError, match=f"the update has {size}"):
        decode_layers(codec, encode_layers(codec, layers(), seed=0), seed=0, size=size)


def test_a_packet_of_another_codec_is_refused() -> None:
    packet = encode_layers(FactorQuantizer(7, 2), layers(), seed=0)
    for codec in CODECS:
        with pytest.raises(PacketError, match="made by another codec"):
            decode_layers(codec, packet, seed=0, size=SIZE)


def test_a_damaged_packet_costs_no_other_device_its_own() -> None:
    codec = FactorQuantizer()
    packets = {device: encode_layers(codec, layers(), seed=device).payload for device in (4, 1)}
    packets[2] = packets[1][:-1]
    decoded = decode_each(codec, packets, {1: 1, 2: 1, 4: 4}, size=SIZE)
    assert list(decoded.updates) == [1, 4]
    assert list(decoded.lost) == [2]
    assert torch.equal(decoded.updates[4], decode_layers(codec, packets[4], seed=4, size=SIZE))


@pytest.mark.parametrize("made", [[], layers()[:1] * 2**16], ids=["none", "too many"])
def test_a_number_of_layers_that_a_packet_cannot_say_is_refused(made: list[FactoredLayer]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"layers: {len(made)}; accepted: 1 to 65535")):
        encode_layers(FactorQuantizer(), made, seed=0)


def test_more_rows_than_a_server_will_make_are_refused_before_it_makes_them() -> None:
    """A packet of equal symbols is short however many there are."""
    codec, rows = FactorQuantizer(1, 1), LARGEST_BATCH + 1
    with pytest.raises(ValueError, match="layers: factors of 16385 rows; accepted: at most 16384"):
        encode_layers(codec, [FactoredLayer(torch.zeros(rows, 1), torch.zeros(rows, 1), bias=False)], seed=0)
    own = codec.encode_factors(torch.zeros(2**20, 1), torch.zeros(2**20, 1), seed=0, packing="entropy").payload
    assert len(own) < 100
    start = struct.pack("<HIh?", 1, len(own), 0, False)
    packet = start + struct.pack("<I", zlib.crc32(start, codec.mark)) + own
    with pytest.raises(PacketError, match="factors of 1048576 rows"):
        decode_layers(codec, packet, seed=0, size=1)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), codec=st.sampled_from(CODECS), packing=st.sampled_from(["fixed", "entropy"]))
def test_any_layers_are_decoded_to_as_many_finite_entries_in_their_dtype(
    data: st.DataObject, codec: FactorCodec, packing: str
) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    made, size = [], 0
    for _ in range(data.draw(st.integers(1, 4))):
        batch, n_in, n_out = (data.draw(st.integers(1, 5)) for _ in range(3))
        unit = data.draw(st.sampled_from([0.0, 1e-3, 1.0, 100.0]))
        factors = (unit * torch.randn((batch, n), generator=draw) for n in (n_in, n_out))
        bias = data.draw(st.booleans())
        made.append(FactoredLayer(*(factor.to(dtype) for factor in factors), bias))
        size += n_in * n_out + bias * n_out
    packet = encode_layers(codec, made, seed=1, packing=packing)
    decoded = decode_layers(codec, packet, seed=1, size=size)
    assert decoded.shape == (size,)
    assert decoded.dtype == dtype
    assert bool(torch.isfinite(decoded).all())


def test_a_few_bytes_that_stand_for_very_many_symbols_are_refused_by_the_layers_that_the_model_has() -> None:
    """Sixteen thousand rows of zeros take 200 bytes, and would be decoded to gigabytes for a layer of one output."""
    wide = FactoredLayer(torch.zeros(LARGEST_BATCH, 1), torch.zeros(LARGEST_BATCH, 72), bias=False)
    packet = encode_layers(FINEST, [wide], seed=0, packing="entropy")
    with pytest.raises(PacketError, match=r"layers of sizes \[\(1, 72\)\]; the update's are \[\(9, 8\)\]"):
        decode_layers(FINEST, packet, seed=0, size=72, layers=[(9, 8)])
    assert decode_layers(FINEST, packet, seed=0, size=72, layers=[(1, 72)]).shape == (72,)
