"""Nested dithered quantisation: a finer step for the same bits, by what the receiver knows already."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from channel.codecs.buckets import Bucket, check_bucket, in_buckets, number_of_buckets, out_of_buckets, rounded_up
from channel.codecs.codec import Codec, Restored, as_symbols, in_units
from channel.codecs.dithered import dither
from channel.codecs.nested_error import error_with_wraps, error_without_wraps, where_positive, wrap_chance
from channel.codecs.packet import Field, Header, Packet, PacketError, Values
from channel.codecs.packing import LARGEST_ALPHABET


class NestedDitheredQuantizer(Codec):
    r"""NDQSG: dithered quantisation modulo a coarser step, resolved by side information y at the receiver.

    In each bucket of n entries, with the steps :math:`\Delta_1 = \|x\|_\infty / M_1` and
    :math:`\Delta_2 = \rho \Delta_1`, the quantiser :math:`Q_\Delta(t) = \Delta\, \mathrm{rint}(t/\Delta)` and a dither
    u, uniform on :math:`[-\Delta_1/2, \Delta_1/2)`, that both sides know,

    .. math:: t = \alpha x + u, \qquad s = Q_{\Delta_1}(t) - Q_{\Delta_2}(t), \qquad
              r = s - u - \alpha y, \qquad \hat x = y + \alpha (r - Q_{\Delta_2}(r)).

    Only :math:`s/\Delta_1`, one of rho values, is sent: an entry takes :math:`\log_2 \rho` bits, a bucket 32 more for
    :math:`\Delta_1`. With z = x - y and e uniform on :math:`[-\Delta_1/2, \Delta_1/2]`, independent of x and y,
    :math:`r - Q_{\Delta_2}(r) = \alpha z + e` if this is less than :math:`\Delta_2/2` in magnitude, and then

    .. math:: E(\hat x - x)^2 = (1 - \alpha^2)^2 z^2 + \alpha^2 \Delta_1^2 / 12.

    Otherwise the entry *wraps* and is wrong by a multiple of :math:`\alpha\Delta_2`; no entry with
    :math:`\alpha|z| \le (\Delta_2 - \Delta_1)/2` can. Without wraps alpha = 1 is unbiased, with the error of
    :class:`~channel.codecs.dithered.DitheredQuantizer` of M_1 levels; alpha < 1 is drawn towards y. The encoder does
    not know y, the decoder not x: whether y is good enough must be known beforehand (:meth:`wrap_probability`).

    Parameters
    ----------
    levels : float
        M_1, 1 to 65,536; need not be whole, for symbols count modulo rho.
    ratio : int
        rho, odd and >= 3.
    alpha : float
        0 < alpha <= 1; see :meth:`wyner_ziv_alpha`.
    bucket : int or "whole"
        n; "whole" for one bucket.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    References
    ----------
    A. Abdi, F. Fekri, "Nested dithered quantization for communication reduction in distributed training",
    arXiv:1904.01197. R. Zamir, S. Shamai, U. Erez, "Nested linear/lattice codes for structured multiterminal
    binning", IEEE Trans. Inf. Theory 48(6), 2002.

    Examples
    --------
    >>> codec = NestedDitheredQuantizer(levels=3, ratio=3)
    >>> x = torch.linspace(-1, 1, 1024)
    >>> packet = codec.encode(x, seed=7)
    >>> decoded = codec.decode(packet, seed=7, side_information=x + 0.1)
    >>> packet.bits == codec.bits(1024), bool((decoded - x).abs().max() < 0.17)
    (True, True)
    """

    name: ClassVar[str] = "nested"

    def __init__(self, levels: float = 3, ratio: int = 3, alpha: float = 1.0, bucket: Bucket = 512) -> None:
        _check_number("levels", levels, 1, LARGEST_ALPHABET, "a number from 1 to 65,536")
        if isinstance(ratio, bool) or not isinstance(ratio, int) or not 3 <= ratio < LARGEST_ALPHABET or ratio % 2 == 0:
            raise ValueError(f"ratio = {ratio!r}: accepted: an odd integer from 3 to 65,535")
        _check_number("alpha", alpha, math.ulp(0.0), 1, "a number above 0 and up to 1")
        check_bucket(bucket)
        self.levels = levels
        self.ratio = ratio
        self.alpha = alpha
        self.bucket = bucket
        self.unbiased = alpha == 1

    @staticmethod
    def wyner_ziv_alpha(step: float, deviation: float) -> float:
        r"""Zamir's :math:`\alpha = \sqrt{1 - \Delta_1^2 / (12 \sigma_z^2)}`, where the error is that of alpha = 1.

        The error is :math:`\Delta_1^2/12` again, but fewer entries wrap. The error alone is least at
        :math:`\alpha^2 = 1 - \Delta_1^2 / (24 \sigma_z^2)`.

        Parameters
        ----------
        step : float
            Delta_1, > 0.
        deviation : float
            sigma_z, the root mean square of x - y, > 0.

        Returns
        -------
        float
            0 if y alone is at least as good as what would be sent: :math:`\sigma_z^2 \le \Delta_1^2/12`.
        """
        for name, value in (("step", step), ("deviation", deviation)):
            _check_number(name, value, math.ulp(0.0), math.inf, "a number above 0")
        return math.sqrt(max(0.0, 1 - (step / deviation) ** 2 / 12))

    def fields(self, size: int) -> Sequence[Field]:
        """A step for each bucket, a symbol for each entry."""
        return Field("steps", number_of_buckets(size, self.bucket)), Field("symbols", size, self.ratio)

    def quantise(self, update: Tensor, seed: int) -> Values:
        """Steps, and symbols counted from -(rho - 1)/2."""
        rows = in_buckets(update, self.bucket)
        steps = rounded_up(rows.abs().amax(dim=1), self.levels)
        fine = (self.alpha * rows / where_positive(steps)[:, None] + dither(rows.shape, seed)).round_()
        # For odd rho, Q_2(t) is a function of Q_1(t): taken of the whole number, no tie can tell them apart.
        symbols = torch.remainder(fine + self.ratio // 2, self.ratio)
        return {"steps": steps.numpy(), "symbols": as_symbols(out_of_buckets(symbols, len(update)))}

    def restore(self, values: Restored, size: int, seed: int, side_information: Tensor | None = None) -> Tensor:
        """y + alpha (r - Q_2(r)); `side_information` is y, float64 of shape (d,), in the units of :meth:`quantise`."""
        if side_information is None:
            raise ValueError(_NEEDED)
        return self._estimate(side_information, *self._remainders(values, size, seed, side_information))

    def decode(self, packet: Packet | bytes, *, seed: int, side_information: Tensor | None = None) -> Tensor:
        """Decode what :meth:`encode` made under the same seed.

        Parameters
        ----------
        packet : Packet or bytes
            What arrived.
        seed : int
            As at :meth:`encode`.
        side_information : Tensor of shape (d,)
            y, in the units of the update: as a rule the mean of the updates decoded so far in this round.

        Raises
        ------
        PacketError
            If the packet is cut, damaged, or was made by another codec.
        ValueError
            If there is no side information, or none of d finite numbers.
        """
        return self.decode_and_count(packet, seed=seed, side_information=side_information)[0]

    def decode_and_count(
        self, packet: Packet | bytes, *, seed: int, side_information: Tensor | None
    ) -> tuple[Tensor, int]:
        r"""What :meth:`decode` returns, and how many entries may have wrapped as far as the receiver can tell.

        Those whose :math:`r - Q_{\Delta_2}(r)` is within :math:`\Delta_1/2` of :math:`\pm\Delta_2/2`: the ones that
        wrapped by little are among them, and about as many that came close and did not. If y tells nothing, it is one
        entry in rho. What wrapped by more is not seen here; :meth:`wraps` counts all, but has to know x.
        """
        header, values = self._read(packet)
        y = _scaled(side_information, header)
        steps, remainders = self._remainders(values, header.size, seed, y)
        suspected = int(((remainders.abs() > (self.ratio - 1) / 2) & (steps > 0)).sum())
        return in_units(self._estimate(y, steps, remainders), header), suspected

    def wraps(self, update: Tensor, side_information: Tensor, *, seed: int) -> int:
        """How many entries of `update` wrap if it is encoded under `seed` and decoded with `side_information`."""
        header, values = self._read(self.encode(update, seed=seed))
        y = _scaled(side_information, header)
        steps, remainders = self._remainders(values, header.size, seed, y)
        x = _scaled(update, header)
        # alpha z + e = remainder + k Delta_2, and |e| <= Delta_1/2 is too little to hide k.
        turns = ((self.alpha * (x - y) / where_positive(steps) - remainders) / self.ratio).round_()
        return int(((turns != 0) & (steps > 0)).sum())

    def wrap_probability(self, update: Tensor, side_information: Tensor) -> float:
        """Share of the entries that wrap, in expectation over the seeds."""
        steps, z = self._errors(update, side_information)
        return float(wrap_chance(z, steps, self.alpha, self.ratio).mean())

    def expected_nmse(self, update: Tensor, side_information: Tensor | None = None) -> float | None:
        r""":math:`\sum [(1-\alpha^2)^2 z^2 + \alpha^2 \Delta_1^2/12] / \|x\|^2`: the error if no entry wraps.

        Parameters
        ----------
        update : Tensor of shape (d,)
            x, any units, not all zero.
        side_information : Tensor of shape (d,), optional
            y. Does not matter if alpha = 1; otherwise there is no closed form without it, and None is returned.
        """
        if side_information is None and self.alpha < 1:
            return None
        steps, z = self._errors(update, update if side_information is None else side_information)
        return _relative(error_without_wraps(z, steps, self.alpha), update)

    def expected_nmse_with_wraps(self, update: Tensor, side_information: Tensor) -> float:
        r""":math:`E\|\hat x - x\|^2 / \|x\|^2` over the seeds, in closed form, whatever wraps."""
        steps, z = self._errors(update, side_information)
        return _relative(error_with_wraps(z, steps, self.alpha, self.ratio), update)

    def _read(self, packet: Packet | bytes) -> tuple[Header, Restored]:
        header, values = super()._read(packet)
        if not ((values["steps"] >= 0) & (values["steps"] <= 1)).all():
            raise PacketError("a step is negative or above 1: made by another codec")
        return header, values

    def _remainders(self, values: Restored, size: int, seed: int, y: Tensor) -> tuple[Tensor, Tensor]:
        """Delta_1 and (r - Q_2(r)) / Delta_1 of each entry."""
        rows = number_of_buckets(size, self.bucket)
        width = self._width(size)
        steps = self._of_entries(torch.from_numpy(values["steps"]).double(), size)
        u = out_of_buckets(dither((rows, width), seed), size)
        symbols = torch.from_numpy(values["symbols"].astype(np.float64)) - self.ratio // 2
        r = symbols - u - self.alpha * y / where_positive(steps)
        return steps, r - self.ratio * (r / self.ratio).round()

    def _estimate(self, y: Tensor, steps: Tensor, remainders: Tensor) -> Tensor:
        return torch.where(steps > 0, y + self.alpha * steps * remainders, 0.0)

    def _errors(self, update: Tensor, side_information: Tensor) -> tuple[Tensor, Tensor]:
        """Delta_1 and z = x - y of each entry, in the units of the update."""
        x = update.double()
        steps = in_buckets(x, self.bucket).abs().amax(dim=1) / self.levels
        return self._of_entries(steps, len(x)), x - _checked(side_information, len(x))

    def _of_entries(self, steps: Tensor, size: int) -> Tensor:
        return steps.repeat_interleave(self._width(size))[:size]

    def _width(self, size: int) -> int:
        """Entries of a bucket; a larger one than the update has no more than that."""
        return size if self.bucket == "whole" else min(self.bucket, size)


_NEEDED = "side_information: None; nested packets are decoded with an estimate y of the update, a tensor of shape (d,)"

_FARTHEST = 2.0**512
"""Of y, in units of x: what lies beyond tells nothing about x, and could overflow when divided by a step."""


def _checked(side_information: Tensor | None, size: int) -> Tensor:
    if side_information is None:
        raise ValueError(_NEEDED)
    if side_information.shape != (size,):
        raise ValueError(f"side_information: shape {tuple(side_information.shape)}; the update's is {(size,)}")
    if not bool(torch.isfinite(side_information).all()):
        count = int((~torch.isfinite(side_information)).sum())
        raise ValueError(f"side_information: {count} of {size} entries are not finite; accepted: finite numbers")
    return side_information.detach().cpu().double()


def _scaled(side_information: Tensor | None, header: Header) -> Tensor:
    """In the units of a packet's values."""
    scaled = torch.ldexp(_checked(side_information, header.size), torch.tensor(-header.exponent))
    return scaled.clamp_(-_FARTHEST, _FARTHEST)


def _relative(errors: Tensor, update: Tensor) -> float:
    return float(errors.sum() / update.double().square().sum())


def _check_number(name: str, value: float, least: float, most: float, accepted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} = {value!r}: accepted: {accepted}")
