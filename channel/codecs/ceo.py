"""The CEO problem: a round whose later packets are decoded with what the earlier ones said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from channel.codecs.buckets import Bucket
from channel.codecs.codec import Codec
from channel.codecs.dithered import DitheredQuantizer
from channel.codecs.nested import NestedDitheredQuantizer
from channel.codecs.packet import Packet, PacketError

NO_SIDE_INFORMATION = "no side information: no packet of the first group was decoded"
"""Why a packet of the second group is lost that is as it should be."""

Refuse = Callable[[Tensor], str | None]
"""Why an update is not to be believed, or None if it is."""


@dataclass(frozen=True)
class DecodedRound:
    """What the packets of a round said.

    Attributes
    ----------
    updates : mapping of int to Tensor of shape (d,)
        By device, in the order in which they were decoded.
    lost : mapping of int to str
        Devices whose packets were left out, and why.
    suspected_wraps : mapping of int to int
        Entries that may have wrapped, by device of the second group; see
        :meth:`~channel.codecs.nested.NestedDitheredQuantizer.decode_and_count`.
    refused : mapping of int to str
        Devices whose packets were decoded and not believed, and why.
    """

    updates: Mapping[int, Tensor]
    lost: Mapping[int, str]
    suspected_wraps: Mapping[int, int]
    refused: Mapping[int, str] = field(default_factory=dict)


def codecs_of_groups(
    devices: Iterable[int], *, levels: int = 3, ratio: int = 3, alpha: float = 1.0, bucket: Bucket = 512
) -> dict[int, Codec]:
    """Codecs of a round by device: plain for the first half of the devices by id, nested for the others.

    An odd one is in the first group. With levels = ratio = 3 an entry takes (log2 7 + log2 3)/2 = 2.196 bits on
    average over an even number of devices.

    Parameters
    ----------
    devices : iterable of int
        All that send in this round, whether they are heard or not: each must come to the same groups.
    levels, ratio, alpha, bucket
        As of :class:`~channel.codecs.nested.NestedDitheredQuantizer`; the plain quantiser has the same levels.
    """
    plain = DitheredQuantizer(levels, bucket)
    nested = NestedDitheredQuantizer(levels, ratio, alpha, bucket)
    ordered = sorted(set(devices))
    last = last_of_first_group(ordered)
    return {device: plain if device <= last else nested for device in ordered}


def last_of_first_group(devices: Iterable[int]) -> int:
    """The last of the first half of the devices by number, an odd one in the first; -1 if there are none."""
    ordered = sorted(set(devices))
    return ordered[math.ceil(len(ordered) / 2) - 1] if ordered else -1


def decode_in_order(
    packets: Mapping[int, Packet | bytes],
    codec_of: Callable[[int], Codec],
    seeds: Mapping[int, int],
    *,
    size: int,
    refuse: Refuse | None = None,
) -> DecodedRound:
    """Decode a round: plain packets, then nested ones, each by device id, the running mean as side information.

    The side information of a nested packet is the mean of all updates decoded before it, plain and nested. The order
    is one of ids and not of arrival, so the result is too.

    Parameters
    ----------
    packets : mapping of int to Packet or bytes
        What arrived, by device.
    codec_of : callable
        The codec of a device, for example ``codecs_of_groups(devices).__getitem__``.
    seeds : mapping of int to int
        Under which each device encoded.
    size : int
        d, the entries that an update has: a packet of another size counts as damaged.
    refuse : callable, optional
        Says of each update as it is decoded whether it is to be left out, of the side information as well.

    Raises
    ------
    ValueError
        If the seed of a device is not given.
    """
    missing = sorted(set(packets) - set(seeds))
    if missing:
        raise ValueError(f"seeds: none for devices {missing}; expected one for each packet")
    codecs = {device: codec_of(device) for device in packets}
    updates: dict[int, Tensor] = {}
    lost: dict[int, str] = {}
    suspected: dict[int, int] = {}
    refused: dict[int, str] = {}
    mean = torch.zeros(size, dtype=torch.float64)
    for device in sorted(packets, key=lambda d: (isinstance(codecs[d], NestedDitheredQuantizer), d)):
        codec, packet, seed = codecs[device], packets[device], seeds[device]
        try:
            _check_size(codec.header(packet).size, size)
            if not isinstance(codec, NestedDitheredQuantizer):
                update = codec.decode(packet, seed=seed)
            elif updates:
                update, wraps = codec.decode_and_count(packet, seed=seed, side_information=mean)
            else:
                lost[device] = NO_SIDE_INFORMATION
                continue
        except PacketError as error:
            lost[device] = str(error)
            continue
        if refuse is not None and (reason := refuse(update)) is not None:
            refused[device] = reason
            continue
        updates[device] = update
        if isinstance(codec, NestedDitheredQuantizer):
            suspected[device] = wraps
        count = len(updates)
        mean.mul_((count - 1) / count).add_(update.double() / count)  # divided first: cannot overflow
    return DecodedRound(updates, lost, suspected, refused)


def _check_size(sent: int, size: int) -> None:
    if sent != size:
        raise PacketError(f"a packet of {sent} entries; the update has {size}")
