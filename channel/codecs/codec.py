"""What a codec is: an update as a packet of bytes, and a packet as an update again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codecs.mark import mark_of, parameters_of
from channel.codecs.packet import (
    DTYPES,
    Field,
    Header,
    Packet,
    PacketError,
    Packing,
    Values,
    most_bits,
    payload_of,
    read_header,
    read_packet,
    write_packet,
)

Restored = dict[str, NDArray[Any]]

LARGEST_SIZE = 2**32 - 1


class Codec(ABC):
    r"""Turns an update x of d entries into a packet and back.

    A codec is without state: all it draws comes from `seed`, which both sides know and which must differ between
    devices and rounds. Before it is quantised x is divided by a power of two near :math:`\|x\|_\infty`, which the
    packet says, so that subclasses see float32 numbers of magnitude at most 1 whatever x is made of.

    A subclass says what its packets hold (:meth:`fields`) and computes it (:meth:`quantise`, :meth:`restore`). A packet
    is decoded by a codec of the name and the parameters of the one that made it; to any other it is damaged.

    Attributes
    ----------
    name : str
        By which scenarios and `fedmac list` know it.
    unbiased : bool
        Whether :math:`E \hat x = x` over the seeds.
    """

    name: ClassVar[str]
    unbiased: bool = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make this codec anew."""
        return parameters_of(self)

    @cached_property
    def mark(self) -> int:
        """Where the checksums of its packets start, so that those of another codec do not match."""
        return mark_of(self.name, self.parameters)

    @abstractmethod
    def fields(self, size: int) -> Sequence[Field]:
        """What a packet of an update of `size` entries holds, in the order in which it is sent."""

    @abstractmethod
    def quantise(self, update: Tensor, seed: int) -> Values:
        """The values of the fields; `update` is float32 of shape (d,), d >= 1, at most 1 in magnitude, on the CPU."""

    @abstractmethod
    def restore(self, values: Restored, size: int, seed: int) -> Tensor:
        """The update that values stand for, float32 of shape (d,), in the units of :meth:`quantise`.

        Raises
        ------
        PacketError
            If the values cannot have come from :meth:`quantise`.
        """

    @abstractmethod
    def expected_nmse(self, update: Tensor) -> float | None:
        r""":math:`E\|\hat x - x\|^2 / \|x\|^2` over the seeds, in closed form; None where there is none.

        Parameters
        ----------
        update : Tensor of shape (d,)
            x, any units, not all zero.
        """

    def gamma(self, size: int) -> float | None:
        """The expected NMSE of an update of `size` entries, where it is (nearly) the same for every update; else None.

        :class:`~channel.codecs.error_feedback.ErrorFeedback` bounds its weight by it.
        """
        return None

    def encode(self, update: Tensor, *, seed: int, packing: Packing = "fixed") -> Packet:
        """Encode an update.

        Parameters
        ----------
        update : Tensor of shape (d,)
            float32, float64, float16 or bfloat16; all finite, d >= 1.
        seed : int
            Names the draws, >= 0; see :func:`channel.key`.
        packing : {"fixed", "entropy"}
            Symbols at a fixed rate, or entropy coded by their own frequencies where that is shorter.

        Raises
        ------
        ValueError
            If the update is not as described.
        """
        _check_form(update)
        flat = update.detach().cpu()
        exponent = _exponent(flat)
        scaled = _times_power_of_two(flat, -exponent).float()
        header = Header(packing, update.dtype, exponent, len(flat))
        return write_packet(header, self.fields(len(flat)), self.quantise(scaled, seed), self.mark)

    def decode(self, packet: Packet | bytes, *, seed: int) -> Tensor:
        """Decode what :meth:`encode` made under the same seed.

        Returns
        -------
        Tensor of shape (d,)
            In the dtype of the update, on the CPU.

        Raises
        ------
        PacketError
            If the packet is cut, damaged, or was made by another codec.
        """
        header, values = self._read(packet)
        return in_units(self.restore(values, header.size, seed), header)

    def header(self, packet: Packet | bytes) -> Header:
        """What a packet says of itself.

        Raises
        ------
        PacketError
            If the packet is cut, damaged, or was made by another codec.
        """
        header = read_header(payload_of(packet), self.mark)
        if header.size == 0:
            raise PacketError("a packet of no entries")
        return header

    def _read(self, packet: Packet | bytes) -> tuple[Header, Restored]:
        """What a packet says."""
        header = self.header(packet)
        return header, read_packet(payload_of(packet), header, self.fields(header.size))

    def bits(self, size: int, packing: Packing = "fixed") -> int:
        """Bits of a packet of an update of `size` entries: what it takes at the fixed rate, else the most it can take.

        Parameters
        ----------
        size : int
            d.
        packing : {"fixed", "entropy"}
            As at :meth:`encode`. With entropy coding how many bits symbols take depends on the update, and no more is
            certain than that they are not more than at the fixed rate; places of a known number of entries take the
            same wherever they are, within a percent.
        """
        return most_bits(self.fields(size), packing)

    def coarsened(self, size: int, bits: int, packing: Packing = "fixed") -> Codec | None:
        """This codec made coarser until every packet of an update of `size` entries takes at most `bits` bits.

        Both sides come to the same codec, for it depends on nothing else. A larger budget is never met by a coarser
        one.

        Parameters
        ----------
        size : int
            d.
        bits : int
            The budget for a packet, its header counted.
        packing : {"fixed", "entropy"}
            As at :meth:`encode`.

        Returns
        -------
        Codec or None
            Itself if it fits; None if even its coarsest does not, or if nothing of it can be made coarser.
        """
        if self.bits(size, packing) <= bits:
            return self
        count, change = self._coarser(size)
        fitting = bisect_right(range(count), bits, key=lambda i: self._changed(**change(i)).bits(size, packing))
        return self._changed(**change(fitting - 1)) if fitting else None

    def _coarser(self, size: int) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """How many coarser ones there are, and by which parameters the i-th differs; the 0-th is the coarsest.

        Their packets must not become shorter with i.
        """
        return 0, lambda i: {}

    def _changed(self, **parameters: Any) -> Self:
        return type(self)(**self.parameters | parameters)


def in_units(restored: Tensor, header: Header) -> Tensor:
    """Back in the update's units and dtype; what would overflow there becomes its largest number.

    Raises
    ------
    PacketError
        If an entry is no number: scales that no encoder makes overflow in the middle of decoding.
    """
    if bool(torch.isnan(restored).any()):
        raise PacketError("values so large that they overflow: made by another codec")
    largest = torch.finfo(header.dtype).max
    wide = restored.double() if header.dtype == torch.float64 else restored
    return _times_power_of_two(wide, header.exponent).clamp_(-largest, largest).to(header.dtype)


def _exponent(update: Tensor) -> int:
    """e with max|x| in [1/2, 1) times 2 to the e; 0 for zeros.

    Raises
    ------
    ValueError
        If an entry is not finite, which one pass for the extremes finds as well.
    """
    low, high = update.aminmax()
    top = max(-low.item(), high.item())
    if not math.isfinite(top):
        count = int((~torch.isfinite(update)).sum())
        raise ValueError(f"update: {count} of {len(update)} entries are not finite; accepted: finite numbers")
    return math.frexp(top)[1]


def _times_power_of_two(x: Tensor, exponent: int) -> Tensor:
    """x times 2 to the exponent: float64 for float64, else float32; a copy."""
    if x.dtype != torch.float64 and -126 <= exponent <= 127:
        return x.float() * 2.0**exponent
    wide = x.double()
    while exponent:  # 2 to the exponent may itself be beyond float64
        step = max(-1000, min(1000, exponent))
        wide, exponent = wide * 2.0**step, exponent - step
    return wide


def _check_form(update: Tensor) -> None:
    if update.dim() != 1 or len(update) == 0 or len(update) > LARGEST_SIZE:
        raise ValueError(f"update: shape {tuple(update.shape)}; expected (d,) with 1 <= d <= {LARGEST_SIZE}")
    if update.dtype not in DTYPES:
        raise ValueError(f"update: dtype {update.dtype}; accepted: {', '.join(str(d) for d in DTYPES)}")


def as_symbols(values: Tensor) -> NDArray[np.int32]:
    """Whole numbers in a tensor, as symbols."""
    symbols: NDArray[np.int32] = values.to(torch.int32).numpy()
    return symbols
