"""Sparsification: a few entries as they are, the others not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codecs.codec import Codec, Restored
from channel.codecs.packet import Field, PacketError, Values
from channel.randomness import generator


def number_kept(size: int, fraction: float) -> int:
    r""":math:`K = \lceil \text{fraction} \cdot d \rceil`, at least one."""
    product = fraction * size
    return max(1, math.ceil(product - max(1e-9, product * 2**-50)))  # 0.07 * 100 is 7.000000000000001


def fewer_kept(size: int, fraction: float) -> tuple[int, Callable[[int], dict[str, Any]]]:
    """Fractions that keep fewer entries, for :meth:`Codec.coarsened`: one, two, ... of them."""
    return number_kept(size, fraction) - 1, lambda i: {"fraction": (i + 1) / size}


class TopK(Codec):
    r"""The K entries of the largest magnitude, exactly; of equals the first.

    It is biased, :math:`\|\hat x - x\|^2 = \|x\|^2 - \sum_{\text{kept}} x_i^2 \le (1 - K/d) \|x\|^2`, and needs error
    feedback (:class:`~channel.codecs.error_feedback.ErrorFeedback`).

    An entry that is kept takes 32 bits for its value and :math:`\log_2 d` for its place, packed like any symbol of an
    alphabet of d. With entropy coding the places cost what the mask does,
    :math:`\log_2 {d \choose K} \approx d\, H(K/d)` bits.

    Parameters
    ----------
    fraction : float
        K / d in (0, 1]; K is rounded up.

    Raises
    ------
    ValueError
        If `fraction` is not as described.

    References
    ----------
    A. F. Aji, K. Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017.
    S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", NeurIPS 2018.

    Examples
    --------
    >>> codec = TopK(fraction=0.25)
    >>> codec.decode(codec.encode(torch.tensor([1.0, -3.0, 2.0, 0.5]), seed=7), seed=7)
    tensor([ 0., -3.,  0.,  0.])
    """

    name: ClassVar[str] = "top-k"
    unbiased = False

    def __init__(self, fraction: float = 0.01) -> None:
        check_fraction(fraction)
        self.fraction = fraction

    def fields(self, size: int) -> Sequence[Field]:
        """A value and a place for each entry that is kept."""
        kept = number_kept(size, self.fraction)
        return Field("values", kept), Field("places", kept, max(2, size), rising=True)

    def _coarser(self, size: int) -> tuple[int, Callable[[int], dict[str, Any]]]:
        return fewer_kept(size, self.fraction)

    def quantise(self, update: Tensor, seed: int) -> Values:
        """Values and places, in the order of the update."""
        entries = update.numpy()
        places = largest(np.abs(entries), number_kept(len(update), self.fraction))
        return {"values": entries[places], "places": places}

    def restore(self, values: Restored, size: int, seed: int) -> Tensor:
        """Values at their places, zeros elsewhere."""
        check_places(values["places"], size)
        return placed(values["values"], values["places"], size)

    def expected_nmse(self, update: Tensor) -> float:
        """The share of the square that is not kept: there is no chance in it."""
        squares = update.double().square()
        kept = squares.topk(number_kept(len(update), self.fraction)).values
        return max(0.0, 1 - float(kept.sum() / squares.sum()))


class RandK(Codec):
    r"""K entries drawn by the seed, times d/K: unbiased, :math:`E\|\hat x - x\|^2 = (d/K - 1) \|x\|^2` for any update.

    Both sides know the seed, so places are not sent: an entry that is kept takes 32 bits.

    Parameters
    ----------
    fraction : float
        K / d in (0, 1]; K is rounded up.

    Raises
    ------
    ValueError
        If `fraction` is not as described.

    References
    ----------
    S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with memory", NeurIPS 2018.
    """

    name: ClassVar[str] = "rand-k"

    def __init__(self, fraction: float = 0.01) -> None:
        check_fraction(fraction)
        self.fraction = fraction

    def fields(self, size: int) -> Sequence[Field]:
        """A value for each entry that is kept."""
        return (Field("values", number_kept(size, self.fraction)),)

    def _coarser(self, size: int) -> tuple[int, Callable[[int], dict[str, Any]]]:
        return fewer_kept(size, self.fraction)

    def quantise(self, update: Tensor, seed: int) -> Values:
        """Values, in the order of the update."""
        return {"values": update.numpy()[self._places(len(update), seed)]}

    def restore(self, values: Restored, size: int, seed: int) -> Tensor:
        """Values times d/K at their places, zeros elsewhere."""
        scale = np.float32(size / number_kept(size, self.fraction))
        with np.errstate(over="ignore"):  # of values that no encoder made; they become the largest number there is
            scaled = values["values"] * scale
        return placed(scaled, self._places(size, seed), size)

    def gamma(self, size: int) -> float:
        """d/K - 1."""
        return size / number_kept(size, self.fraction) - 1

    def expected_nmse(self, update: Tensor) -> float:
        """d/K - 1."""
        return self.gamma(len(update))

    def _places(self, size: int, seed: int) -> NDArray[np.int64]:
        kept = number_kept(size, self.fraction)
        return np.sort(generator(seed, "kept entries").choice(size, kept, replace=False, shuffle=False))


def largest(entries: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Places of the `count` largest, in order; of those that equal the least of them, the first ones."""
    least = np.partition(entries, -count)[-count]
    chosen = entries > least
    equal = np.flatnonzero(entries == least)
    chosen[equal[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


def check_places(places: NDArray[np.int64], size: int) -> None:
    """Refuse places beyond the update: an alphabet has two letters at least, an update may have one entry."""
    if places[-1] >= size:
        raise PacketError(f"place {places[-1]} of {size}: made by another codec")


def placed(values: NDArray[np.float32], places: NDArray[np.int64], size: int) -> Tensor:
    """Values at their places, zeros elsewhere."""
    update = np.zeros(size, dtype=np.float32)
    update[places] = values
    return torch.from_numpy(update)


def check_fraction(fraction: float, largest: float = 1) -> None:
    """Refuse what is not a share of the entries, at most `largest`."""
    if isinstance(fraction, bool) or not isinstance(fraction, float | int) or not 0 < fraction <= largest:
        raise ValueError(f"fraction = {fraction!r}: accepted: a number in (0, {largest:g}]")
