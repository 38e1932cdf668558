"""Entropy-coded dithered quantisation after a rotation: the fewest bits of the scalar quantisers at two and more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import scipy  # its parts load when first used
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codecs.buckets import rounded_up
from channel.codecs.codec import Codec, Restored
from channel.codecs.dithered import dither
from channel.codecs.entropy import MOST_LOST_BITS, most_bytes_of_code
from channel.codecs.hadamard import Block, RandomizedHadamard, blocks, check_power_of_two, joined
from channel.codecs.packet import Field, PacketError, Packing, Values, fixed_bits

SMALLEST_STEP, LARGEST_STEP = 1e-3, 1e3
FEWEST_BITS, MOST_BITS = 0.01, 12.0

_PER_OCTAVE = 32  # steps that are tried


class RotatedDitheredQuantizer(Codec):
    r"""Each bucket of n entries rotated, quantised with dither, and range coded as the Gaussian numbers that it has.

    With T of :class:`~channel.codecs.hadamard.RandomizedHadamard` (k = n), u uniform on [-1/2, 1/2),
    :math:`\sigma = \|x\| / \sqrt n` and a step of c sigma,

    .. math:: v = T x, \qquad q = \mathrm{rint}\Big(\frac{v}{c \sigma} + u\Big), \qquad
              \hat x = T^T c \sigma (q - u), \qquad \frac{E\|\hat x - x\|^2}{\|x\|^2} = \frac{c^2}{12},

    an error that is independent of x: no other is so well averaged over devices. Given u, which both sides know, q is
    a Gaussian number of mean u and standard deviation 1/c rounded to a whole one; its code takes (ECDQ)

    .. math:: H(q|u) = h(z + c u) - \log_2 c \quad\text{bits},\qquad z \sim N(0, 1),

    and a bucket takes 32 more for sigma. The packet's `packing` changes nothing: the symbols are coded always. How
    many bits they take depends on the update and the seed, see :meth:`bits`. The last bucket has as many entries as
    the next power of two >= what is left; the error of its filling is cut off.

    Parameters
    ----------
    bits : float, optional
        H(q|u), 0.01 to 12; 2 if neither it nor `step` is given.
    step : float, optional
        c, 0.001 to 1000; instead of `bits`.
    bucket : int
        n, a power of two.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    References
    ----------
    R. Zamir, M. Feder, "On universal quantization by randomized uniform/lattice quantizers", IEEE Trans. Inf. Theory
    38(2), 1992. R. Bamler, "Understanding entropy coding with asymmetric numeral systems (constriction)", 2022.

    Examples
    --------
    >>> codec = RotatedDitheredQuantizer(bits=2)
    >>> packet = codec.encode(torch.linspace(-1, 1, 4096), seed=7)
    >>> round(packet.bits / 4096, 1), round(codec.expected_nmse(torch.ones(4096)), 4)
    (2.0, 0.0976)
    """

    name: ClassVar[str] = "rotated-dithered"

    def __init__(self, bits: float | None = None, step: float | None = None, bucket: int = 4096) -> None:
        if bits is not None and step is not None:
            raise ValueError(f"bits = {bits!r}, step = {step!r}: accepted: one of them")
        if bits is not None and not FEWEST_BITS <= bits <= MOST_BITS:
            raise ValueError(f"bits = {bits!r}: accepted: a number from {FEWEST_BITS} to {MOST_BITS}")
        if step is not None and not SMALLEST_STEP <= step <= LARGEST_STEP:
            raise ValueError(f"step = {step!r}: accepted: a number from {SMALLEST_STEP} to {LARGEST_STEP}")
        check_power_of_two(bucket)
        self.step = step if step is not None else step_for_rate(2 if bits is None else bits)
        self.bucket = bucket

    def fields(self, size: int) -> Sequence[Field]:
        """A scale for each bucket, and the symbols' code."""
        places = blocks(size, self.bucket)
        symbols = sum(place.rows * place.width for place in places)
        code = 4 * math.ceil(symbols * rate(self.step) / 32)
        return Field("scales", sum(place.rows for place in places)), Field("code", code, coded=True)

    def bits(self, size: int, packing: Packing = "fixed") -> int:
        """What a packet takes on average ("fixed"), and the most that it can take ("entropy"): :func:`most_rate`.

        The average is over seeds, for any update; half of all packets take more, by less than 1 % from some ten
        thousand entries on. The bound holds for updates that are made to fit the seed, too.
        """
        if packing == "fixed":
            return super().bits(size)
        places = blocks(size, self.bucket)
        symbols = sum(place.rows * place.width * most_rate(self.step, self._limit(place)) for place in places)
        code = Field("code", most_bytes_of_code(symbols), coded=True)
        return fixed_bits((Field("scales", sum(place.rows for place in places)), code))

    def coarsened(self, size: int, bits: int, packing: Packing = "fixed") -> Codec | None:
        """With a larger step, so that the most a packet can take fits: :meth:`bits` of "entropy", in either packing.

        A budget of 4.2 bits an entry is met by a codec that takes 4 on average, 2.84 by one that takes 2, 2.68 by one
        that takes 1.3; none meets less than 2.66.
        """
        return super().coarsened(size, bits, "entropy")

    def _coarser(self, size: int) -> tuple[int, Callable[[int], dict[str, Any]]]:
        """Steps that are larger by a 32nd of an octave each."""
        count = max(0, math.floor(_PER_OCTAVE * math.log2(LARGEST_STEP / self.step)))
        return count, lambda i: {"step": self.step * 2 ** ((count - i) / _PER_OCTAVE)}

    def quantise(self, update: Tensor, seed: int) -> Values:
        """Scales sigma and the code of q, bucket after bucket; there is none for a bucket of zeros."""
        import constriction

        encoder = constriction.stream.queue.RangeEncoder()
        scales = []
        for place in blocks(len(update), self.bucket):
            rows = place.cut(update)
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
            scale = rounded_up(norms, math.sqrt(place.width))
            scales.append(scale)
            v = self._transform(place, seed).forward(rows) / scale[:, None]
            for row, u in self._coded(place, scale, seed):
                limit = self._limit(place)
                q = (v[row] / self.step + u).round_().clamp_(-limit, limit)
                encoder.encode(q.numpy().astype(np.int32), *self._model(place, u))
        code: NDArray[np.uint32] = encoder.get_compressed()
        return {"scales": torch.cat(scales).numpy(), "code": code.astype("<u4").view(np.uint8)}

    def restore(self, values: Restored, size: int, seed: int) -> Tensor:
        """T' c sigma (q - u)."""
        import constriction

        if len(values["code"]) % 4 or (values["scales"] < 0).any():
            raise PacketError("no range code of symbols with scales >= 0: made by another codec")
        decoder = constriction.stream.queue.RangeDecoder(values["code"].view("<u4").astype(np.uint32))
        places = blocks(size, self.bucket)
        scales = torch.split(torch.from_numpy(values["scales"]), [place.rows for place in places])
        parts = []
        for place, scale in zip(places, scales, strict=True):
            v = torch.zeros(place.rows, place.width)
            for row, u in self._coded(place, scale, seed):
                try:
                    q = decoder.decode(*self._model(place, u))
                except (AssertionError, ValueError) as error:
                    raise PacketError(f"no range code of these symbols: {error}") from error
                v[row] = (torch.from_numpy(q).float() - u) * self.step
            parts.append(self._transform(place, seed).adjoint(v * scale[:, None]))
        if not decoder.maybe_exhausted():
            raise PacketError("a longer range code than of these symbols: made by another codec")
        return joined(parts, places)

    def expected_nmse(self, update: Tensor) -> float:
        """c^2/12, less what falls on the filling of the last bucket."""
        total = 0.0
        for place in blocks(len(update), self.bucket):
            energy = place.cut(update.double()).square().sum(dim=1)
            total += float((energy * place.entries / place.width).sum())
        return self.step**2 / 12 * total / float(update.double().square().sum())

    def gamma(self, size: int) -> float:
        """The expected NMSE of an update whose entries have equal variance."""
        return self.expected_nmse(torch.ones(size))

    def _coded(self, place: Block, scale: Tensor, seed: int) -> Iterator[tuple[int, Tensor]]:
        """The buckets that are not zero, with their dither."""
        dithers = dither((place.rows, place.width), seed, f"dither/{place.width}")
        return ((row, dithers[row]) for row in range(place.rows) if scale[row] > 0)

    def _limit(self, place: Block) -> int:
        """The largest |q|, as |v| <= sqrt(n) sigma."""
        return math.ceil(math.sqrt(place.width) / self.step) + 1

    def _model(self, place: Block, u: Tensor) -> tuple[object, NDArray[np.float64], NDArray[np.float64]]:
        """Of q given u, with its means and standard deviations."""
        import constriction

        limit = self._limit(place)
        family = constriction.stream.model.QuantizedGaussian(-limit, limit)
        return family, u.double().numpy(), np.full(len(u), 1 / self.step)

    def _transform(self, place: Block, seed: int) -> RandomizedHadamard:
        return RandomizedHadamard(place.rows, place.width, place.width, seed)


@lru_cache(maxsize=64)
def rate(step: float) -> float:
    r"""H(q|u) in bits of a standard normal z, with :math:`q = \mathrm{rint}(z/c + u)`.

    As u is uniform, it is the mean over all places x of a cell of c's width,
    :math:`\frac1c \int -P \log_2 P\, dx` with :math:`P = \Phi(x + c/2) - \Phi(x - c/2)`.

    Parameters
    ----------
    step : float
        c.
    """
    half = step / 2
    entr, ndtr = scipy.special.entr, scipy.special.ndtr

    def surprise(x: float) -> float:
        return float(entr(ndtr(half - x) - ndtr(-half - x)))

    area, _ = scipy.integrate.quad(surprise, max(0.0, half - 10), half + 10, epsabs=1e-12, limit=200)
    return 2 * area / step / math.log(2)


def most_rate(step: float, limit: int = 0) -> float:
    r"""Bits a symbol that the code of a bucket takes at most, whatever the update and the dither are.

    The cell of z = v/sigma is of width c and holds z, if only at its edge, so that its symbol takes at most
    :math:`g(z^2) = -\log_2 (\Phi(|z| + c) - \Phi(|z|))` bits. g is concave, so its mean over a bucket, where the mean
    of :math:`z^2` is 1, is at most

    .. math:: g(1) = -\log_2 (\Phi(1 + c) - \Phi(1)),

    2.66 bits even for large c. On top comes what the range coder loses.

    Parameters
    ----------
    step : float
        c.
    limit : int
        The largest symbol: of its 2^24 parts the coder's model gives one to each symbol beforehand.
    """
    edge = 1 + 1e-4  # for the rounding of float32
    shared = math.log2(1 - (2 * limit + 2) / 2**24)
    ndtr = scipy.special.ndtr
    return -math.log2(ndtr(-edge) - ndtr(-edge - step)) - shared + MOST_LOST_BITS


@lru_cache(maxsize=64)
def step_for_rate(bits: float) -> float:
    """The step c, in standard deviations, at which :func:`rate` is `bits`."""
    return float(scipy.optimize.brentq(lambda c: rate(c) - bits, SMALLEST_STEP, LARGEST_STEP, xtol=1e-9))
