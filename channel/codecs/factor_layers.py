"""The update of a whole network as the factors of its dense layers: one packet of a packet for each layer."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from channel.codecs.ceo import DecodedRound, Refuse
from channel.codecs.codec import in_units
from channel.codecs.factor_codec import FactorCodec, exponent_of
from channel.codecs.packet import Packet, PacketError, Packing, payload_of
from channel.randomness import key

_COUNT = struct.Struct("<H")  # layers
_LAYER = struct.Struct("<Ih?")  # bytes of its packet, exponent of its errors, whether it has a bias
_CHECKSUM = struct.Struct("<I")

LARGEST_BATCH = 2**14
"""Rows of a factor. Where all symbols are the same a few coded bytes stand for as many as a sender likes to say."""


@dataclass(frozen=True)
class FactoredLayer:
    """A dense layer's part of an update: :math:`X^T D` for its weight, the sum of D's rows for its bias.

    Attributes
    ----------
    inputs : Tensor of shape (B, n_in)
        X.
    errors : Tensor of shape (B, n_out)
        D, times minus the learning rate where the update is that of a gradient step.
    bias : bool
        Whether it has one.
    """

    inputs: Tensor
    errors: Tensor
    bias: bool


def encode_layers(
    codec: FactorCodec, layers: Sequence[FactoredLayer], *, seed: int, packing: Packing = "fixed"
) -> Packet:
    """Encode an update by the factors of its layers.

    The packet holds how many layers there are (16 bits), for each the length of its packet, the exponent of its errors
    and whether it has a bias (56 bits), a checksum of this (32 bits), and the packets of
    :meth:`~channel.codecs.factor_codec.FactorCodec.encode_factors`. The update of a bias costs nothing more: it is the
    sum of the rows of the decoded D, for which the server needs D's exponent beside that of the product.

    Parameters
    ----------
    codec : FactorCodec
        Of every layer.
    layers : sequence of FactoredLayer
        In the order of the update, 1 to 65535.
    seed : int
        Of the device in this exchange; each layer has its own of it.
    packing : {"fixed", "entropy"}
        As at :meth:`~channel.codecs.factor_codec.FactorCodec.encode_factors`.

    Raises
    ------
    ValueError
        If there are no layers or too many, or more than 16384 rows, or the factors of one cannot be encoded.
    """
    if not 1 <= len(layers) < 2**16:
        raise ValueError(f"layers: {len(layers)}; accepted: 1 to {2**16 - 1}")
    if (rows := max(len(layer.inputs) for layer in layers)) > LARGEST_BATCH:
        raise ValueError(f"layers: factors of {rows} rows; accepted: at most {LARGEST_BATCH}")
    head, packets = [_COUNT.pack(len(layers))], []
    for number, layer in enumerate(layers):
        own = codec.encode_factors(layer.inputs, layer.errors, seed=key(seed, "layer", number), packing=packing)
        packets.append(own.payload)
        head.append(_LAYER.pack(len(own.payload), exponent_of(layer.errors), layer.bias))
    start = b"".join(head)
    return Packet(b"".join([start, _CHECKSUM.pack(zlib.crc32(start, codec.mark)), *packets]))


def decode_layers(
    codec: FactorCodec,
    packet: Packet | bytes,
    *,
    seed: int,
    size: int,
    layers: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Decode what :func:`encode_layers` made under the same seed.

    Parameters
    ----------
    codec : FactorCodec
        Of every layer.
    packet : Packet or bytes
        What arrived.
    seed : int
        As at :func:`encode_layers`.
    size : int
        Entries of the update.
    layers : sequence of (int, int), optional
        n_in and n_out of each layer, if known. It bounds what decoding takes: a few entropy-coded bytes can stand for
        very many equal symbols.

    Returns
    -------
    Tensor of shape (size,)
        For each layer the update of its weight, by rows of ``nn.Linear.weight`` (n_out, n_in), and of its bias; in the
        dtype of the factors.

    Raises
    ------
    PacketError
        If any part of the packet is cut, damaged, or made by another codec, or its layers do not make `size` entries.
    """
    parts_of_packet = _split(payload_of(packet), codec.mark)
    shapes = [codec.shape(payload) for payload, _, _ in parts_of_packet]
    if layers is not None and [shape[1:] for shape in shapes] != list(layers):
        raise PacketError(f"layers of sizes {[shape[1:] for shape in shapes][:8]}; the update's are {list(layers)[:8]}")
    weights = sum(inputs * outputs for _, inputs, outputs in shapes)
    if weights > size:
        raise PacketError(f"layers of {weights} weights; the update has {size} entries")
    if (rows := max(batch for batch, _, _ in shapes)) > LARGEST_BATCH:
        raise PacketError(f"factors of {rows} rows; the most that a packet may have are {LARGEST_BATCH}")
    parts = []
    for number, (payload, exponent, bias) in enumerate(parts_of_packet):
        header, inputs, errors = codec.decode_factors(payload, seed=key(seed, "layer", number))
        parts.append(in_units(errors.T @ inputs, header).reshape(-1))
        if bias:
            parts.append(in_units(errors.sum(dim=0), replace(header, exponent=exponent)))
    update = torch.cat(parts)
    if len(update) != size:
        raise PacketError(f"layers of {len(update)} entries; the update has {size}")
    return update


def decode_each(
    codec: FactorCodec,
    packets: Mapping[int, Packet | bytes],
    seeds: Mapping[int, int],
    *,
    size: int,
    layers: Sequence[tuple[int, int]] | None = None,
    refuse: Refuse | None = None,
) -> DecodedRound:
    """Decode the packets of a round, by device, each on its own; a damaged one is lost, and who is refused left out."""
    updates: dict[int, Tensor] = {}
    lost: dict[int, str] = {}
    refused: dict[int, str] = {}
    for device in sorted(packets):
        try:
            update = decode_layers(codec, packets[device], seed=seeds[device], size=size, layers=layers)
        except PacketError as error:
            lost[device] = str(error)
            continue
        if refuse is not None and (reason := refuse(update)) is not None:
            refused[device] = reason
        else:
            updates[device] = update
    return DecodedRound(updates, lost, {}, refused)


def layers_bits(codec: FactorCodec, batch: int, layers: Sequence[tuple[int, int]]) -> int:
    """Bits of a packet at the fixed rate, for layers of these (n_in, n_out) and a batch of B rows."""
    head = _COUNT.size + len(layers) * _LAYER.size + _CHECKSUM.size
    return 8 * head + sum(codec.bits(batch, inputs, outputs) for inputs, outputs in layers)


def _split(payload: bytes, mark: int) -> list[tuple[bytes, int, bool]]:
    """Each layer's packet, the exponent of its errors, and whether it has a bias."""
    if len(payload) < _COUNT.size:
        raise PacketError(f"{len(payload)} bytes are no packet of layers")
    end = _COUNT.size + _COUNT.unpack(payload[: _COUNT.size])[0] * _LAYER.size
    said = payload[end : end + _CHECKSUM.size]
    if end == _COUNT.size or said != _CHECKSUM.pack(zlib.crc32(payload[:end], mark)):
        raise PacketError("the checksum does not match: the packet is cut, damaged, or made by another codec")
    layers, position = [], end + _CHECKSUM.size
    for length, exponent, bias in _LAYER.iter_unpack(payload[_COUNT.size : end]):
        layers.append((payload[position : position + length], exponent, bias))
        position += length
    if position != len(payload):
        raise PacketError(f"{len(payload)} bytes; the layers' packets end at {position}")
    return layers
