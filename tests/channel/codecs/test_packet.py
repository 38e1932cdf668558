"""The packet: its fields come back as they were, or it is an error."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from channel.codecs.codec import in_units
from channel.codecs.packet import (
    DTYPES,
    OVERHEAD_BITS,
    Field,
    Header,
    PacketError,
    Packing,
    fixed_bits,
    most_bits,
    read_header,
    read_packet,
    write_packet,
)

FIELDS = (
    Field("scales", 3),
    Field("symbols", 400, alphabet=7),
    Field("places", 5, alphabet=90, rising=True),
    Field("stream", 4, coded=True),
)
VALUES = {
    "scales": np.array([0.25, -1e-30, 3e38], dtype=np.float32),
    "symbols": np.arange(400) % 80 // 70 * (np.arange(400) % 7),  # mostly zeros: what entropy coding is for
    "places": np.array([0, 1, 17, 88, 89]),
    "stream": np.frombuffer(b"any bytes", dtype=np.uint8),
}
every_packing = pytest.mark.parametrize("packing", ["fixed", "entropy"])


def header(packing: Packing = "fixed") -> Header:
    return Header(packing, torch.bfloat16, -33, 90)


def signed(body: bytes) -> bytes:
    """With a checksum that is right."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@every_packing
def test_reading_gives_what_was_written(packing: Packing) -> None:
    packet = write_packet(header(packing), FIELDS, VALUES)
    found = read_packet(packet.payload, read_header(packet.payload), FIELDS)
    assert list(found) == [field.name for field in FIELDS]
    for name, values in VALUES.items():
        assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("exponent", [-1074, 0, 1024])
@every_packing
def test_header_says_what_the_packet_is(packing: Packing, dtype: torch.dtype, exponent: int) -> None:
    sent = Header(packing, dtype, exponent, 2**32 - 1)
    packet = write_packet(sent, (), {})
    assert read_header(packet.payload) == sent
    assert packet.size == 2**32 - 1


def test_entropy_coding_that_is_longer_is_not_used_and_the_packet_says_so() -> None:
    fields, values = (Field("symbols", 30, alphabet=500),), {"symbols": np.arange(30)}
    sent, fixed = (write_packet(header(packing), fields, values) for packing in ("entropy", "fixed"))
    assert sent == fixed
    assert read_header(sent.payload).packing == "fixed"
    assert read_header(write_packet(header("entropy"), FIELDS, VALUES).payload).packing == "entropy"


def test_most_bits_are_those_of_the_fixed_rate_but_for_places() -> None:
    places = Field("places", 1000, alphabet=10**6, rising=True)
    assert most_bits(FIELDS, "entropy") == most_bits(FIELDS, "fixed") == fixed_bits(FIELDS)
    assert most_bits((FIELDS[0], places), "fixed") == fixed_bits((FIELDS[0], places))
    # log2 of the ways to choose 1,000 of a million is 11,401.
    assert most_bits((places,), "entropy") == pytest.approx(OVERHEAD_BITS + 32 + 11_401, rel=0.02)


@every_packing
def test_packet_of_another_mark_is_refused(packing: Packing) -> None:
    payload = write_packet(header(packing), FIELDS, VALUES, mark=7).payload
    assert read_header(payload, mark=7) == header(packing)
    for mark in (0, 6, 2**32 - 1):
        with pytest.raises(PacketError, match="made by another codec"):
            read_header(payload, mark)


def test_bits_are_those_of_the_payload() -> None:
    packet = write_packet(header(), FIELDS[:3], VALUES)
    assert packet.bits == 8 * len(packet.payload)
    assert packet.bits == OVERHEAD_BITS + 8 * sum(-(-field.bits // 8) for field in FIELDS[:3])


@every_packing
def test_every_cut_and_every_flipped_bit_is_found(packing: Packing) -> None:
    payload = write_packet(header(packing), FIELDS, VALUES).payload
    damaged = [payload[:length] for length in range(len(payload))]
    for place in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for data in [*damaged, payload + b"\0", b""]:
        with pytest.raises(PacketError):
            read_packet(data, read_header(data), FIELDS)


@every_packing
def test_other_fields_are_refused(packing: Packing) -> None:
    payload = write_packet(header(packing), FIELDS, VALUES).payload
    for fields in (FIELDS[:-1], FIELDS[1:], (*FIELDS, Field("more", 1)), (Field("symbols", 10**9, alphabet=7),)):
        with pytest.raises(PacketError):
            read_packet(payload, header(packing), fields)


@pytest.mark.parametrize("place", [0, 1])
def test_unknown_packing_or_dtype_is_refused(place: int) -> None:
    body = bytearray(write_packet(header(), (), {}).payload[:-4])
    body[place] = 9
    with pytest.raises(PacketError, match="made by something else"):
        read_header(signed(bytes(body)))


def test_unit_beyond_any_dtype_is_refused() -> None:
    payload = write_packet(Header("fixed", torch.float64, 2000, 1), (), {}).payload
    with pytest.raises(PacketError, match="exponent 2000: made by something else"):
        read_header(payload)


def test_numbers_that_are_not_finite_are_refused() -> None:
    fields = (Field("scales", 2),)
    payload = write_packet(header(), fields, {"scales": np.array([1, np.nan], dtype=np.float32)}).payload
    with pytest.raises(PacketError, match="scales: not all are finite"):
        read_packet(payload, header(), fields)


def test_places_that_do_not_rise_are_refused() -> None:
    fields = (FIELDS[2],)
    payload = write_packet(header(), fields, {"places": np.array([3, 5, 5, 6, 7])}).payload
    with pytest.raises(PacketError, match="places: not rising"):
        read_packet(payload, header(), fields)


def test_values_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match=r"symbols: shape \(39,\); expected \(400,\)"):
        write_packet(header(), FIELDS, VALUES | {"symbols": np.zeros(39, dtype=np.int64)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_exponent_that_a_packet_can_say_gives_finite_numbers(dtype: torch.dtype) -> None:
    parts = torch.tensor([0.5, 0.0, -1.0], dtype=dtype)
    largest = torch.finfo(dtype).max
    for exponent in (2050, 2**15 - 1):
        great = in_units(parts, Header("fixed", dtype, exponent, 3))
        assert great.tolist() == [largest, 0.0, -largest]
    assert in_units(parts, Header("fixed", dtype, -(2**15), 3)).tolist() == [0.0, 0.0, 0.0]
    # 2 to the exponent is beyond float64, or below its normal numbers, and the product is not
    assert in_units(2.0**-30 * parts.double(), Header("fixed", torch.float64, 1040, 3))[0] == 2.0**1009
    assert in_units(2.0**30 * parts.double(), Header("fixed", torch.float64, -1090, 3))[0] == 2.0**-1061
