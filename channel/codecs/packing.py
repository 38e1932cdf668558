"""Whole numbers as bytes at a fixed rate, close to log2 of the alphabet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.signedinteger[Any]]

LARGEST_ALPHABET = 2**16
"""Symbols of a quantiser: more are numbers, to be sent as such."""

LARGEST_NUMBER = 2**32 - 1
"""Alphabets that can be packed: places in an update are symbols of its size."""

_LIMB = 32  # bits
_LIMBS = 4
_TOLERANCE = 0.001  # a word that wastes no more of its bits than this is not made longer for less


class Truncated(ValueError):
    """There are fewer bytes, or other ones, than the symbols take."""


@dataclass(frozen=True)
class Word:
    """Symbols that share a number, and the bits of that number."""

    symbols: int
    bits: int

    @property
    def limbs(self) -> int:
        """Parts of 32 bits."""
        return math.ceil(self.bits / _LIMB)


@lru_cache(maxsize=256)
def word(alphabet: int) -> Word:
    r"""The word that symbols of an alphabet are put in: s symbols of B values take :math:`\lceil s \log_2 B \rceil`
    bits.

    The shortest of 1 to 4 limbs with a word that is within 0.1 % of :math:`\log_2 B` bits a symbol, and of its words
    the one that wastes least. Three values take 46/29 = 1.586 bits (log2 3 is 1.585), five 72/31 = 2.323 (2.322), seven
    59/21 = 2.810 (2.807).
    """
    if not 2 <= alphabet <= LARGEST_NUMBER:
        raise ValueError(f"alphabet = {alphabet!r}: accepted: an integer from 2 to {LARGEST_NUMBER}")
    words: list[Word] = []
    for limbs in range(1, _LIMBS + 1):
        most = int(limbs * _LIMB / math.log2(alphabet) + 1)
        every = (Word(s, bits_of(s, alphabet)) for s in range(1, most + 1))
        words += [w for w in every if w.limbs == limbs]
        # Of equals whole bytes, and then the longest that needs no more limbs.
        best = min(words, key=lambda w: (w.bits / w.symbols, w.bits % 8 > 0, w.limbs, -w.bits))
        if best.bits <= (1 + _TOLERANCE) * best.symbols * math.log2(alphabet):
            break
    return best


def bits_of(symbols: int, alphabet: int) -> int:
    """Bits of a number made of that many symbols."""
    return int(alphabet**symbols - 1).bit_length()


def packed_bits(count: int, alphabet: int) -> int:
    """Bits that `count` symbols take at the fixed rate, before they are filled up to bytes."""
    shape = word(alphabet)
    whole, rest = divmod(count, shape.symbols)
    return whole * shape.bits + bits_of(rest, alphabet)


def pack(values: NDArray[np.integer[Any]], alphabet: int) -> bytes:
    """Symbols from 0 to alphabet - 1 at the fixed rate.

    Word j of W has the symbols j, j + W, j + 2 W, ...; what is left is a shorter word. The whole bytes of all words
    come first, then the bits that are left of each, least significant first.

    Parameters
    ----------
    values : ndarray of int, shape (count,)
        The symbols.
    alphabet : int
        B, 2 to 2**32 - 1.
    """
    shape = word(alphabet)
    whole = len(values) // shape.symbols
    planes = _planes(_fold(values[: whole * shape.symbols].reshape(shape.symbols, whole), alphabet, shape.limbs))
    full, odd = divmod(shape.bits, 8)
    last = values[whole * shape.symbols :]
    bits = [_low_bits(planes[:, full], odd)] if odd else []
    bits.append(_bits(_number(last.tolist(), alphabet), bits_of(len(last), alphabet)))
    return planes[:, :full].tobytes() + np.packbits(np.concatenate(bits), bitorder="little").tobytes()


def unpack(data: bytes, count: int, alphabet: int) -> Integers:
    """The symbols that :func:`pack` made bytes of, int32 where the alphabet lets them.

    Raises
    ------
    Truncated
        If the bytes are not as many as `count` symbols take, or are no symbols.
    """
    shape = word(alphabet)
    total = packed_bits(count, alphabet)
    if len(data) != math.ceil(total / 8):
        raise Truncated(f"{len(data)} bytes for {count} symbols of {alphabet}; expected {math.ceil(total / 8)}")
    whole, rest = divmod(count, shape.symbols)
    full, odd = divmod(shape.bits, 8)
    octets = np.frombuffer(data, dtype=np.uint8)
    bits = np.unpackbits(octets[whole * full :], bitorder="little")
    end = whole * odd + bits_of(rest, alphabet)
    planes = np.zeros((whole, 4 * shape.limbs), dtype=np.uint8)
    planes[:, :full] = octets[: whole * full].reshape(whole, full)
    if odd:
        planes[:, full] = np.packbits(bits[: whole * odd].reshape(whole, odd), axis=1, bitorder="little")[:, 0]
    values: Integers = np.empty(count, dtype=np.int32 if alphabet <= 2**31 else np.int64)
    table = values[: whole * shape.symbols].reshape(shape.symbols, whole)
    left = _unfold(_limbs(planes), table, alphabet)
    number = int.from_bytes(np.packbits(bits[whole * odd : end], bitorder="little").tobytes(), "little")
    for place in range(whole * shape.symbols, count):
        number, values[place] = divmod(number, alphabet)
    if left or number or bits[end:].any():
        raise Truncated(f"a word is larger than {shape.symbols} symbols of {alphabet} make it")
    return values


def _fold(table: NDArray[np.integer[Any]], alphabet: int, limbs: int) -> NDArray[np.unsignedinteger[Any]]:
    """Numbers of the columns, whose rows are digits from the least on: shape (limbs, columns)."""
    digits = table.view(np.uint32) if table.dtype == np.int32 else table.astype(np.uint32)
    if limbs == 1:
        return _horner(digits, alphabet)[None]
    step = _digits_of_a_limb(alphabet)
    pieces = [_horner(digits[start : start + step], alphabet) for start in range(0, len(digits), step)]
    numbers = np.zeros((limbs, table.shape[1]), dtype=np.uint64)
    for piece in reversed(pieces):  # long multiplication; a product of 32 and 32 bits has room for the carry
        carry: NDArray[np.unsignedinteger[Any]] = piece
        for limb in numbers:
            limb *= alphabet**step
            limb += carry
            carry = np.right_shift(limb, _LIMB)
            limb &= 2**_LIMB - 1
    return numbers


def _unfold(numbers: NDArray[np.unsignedinteger[Any]], table: Integers, alphabet: int) -> bool:
    """The inverse of :func:`_fold`, into `table`; whether anything is left of the numbers."""
    step = len(table) if len(numbers) == 1 else _digits_of_a_limb(alphabet)
    for start in range(0, len(table) - step, step):  # long division, all but the last piece
        rest = np.zeros(numbers.shape[1], dtype=np.uint64)
        for limb in numbers[::-1]:
            rest <<= _LIMB
            rest |= limb
            np.floor_divide(rest, alphabet**step, out=limb)
            rest -= limb * alphabet**step
        _digits(rest.astype(np.uint32), table[start : start + step], alphabet)
    last = (len(table) - 1) // step * step
    left = _digits(numbers[0].astype(np.uint32), table[last:], alphabet)
    return left or bool(numbers[1:].any())


def _digits_of_a_limb(alphabet: int) -> int:
    """Digits of which every number fits into 32 bits, and so does the next power."""
    return max(s for s in range(1, _LIMB + 1) if alphabet**s < 2**_LIMB)


def _horner(digits: NDArray[np.uint32], alphabet: int) -> NDArray[np.uint32]:
    number: NDArray[np.uint32] = digits[-1].copy()
    for digit in digits[-2::-1]:
        number *= alphabet
        number += digit
    return number


def _digits(number: NDArray[np.uint32], table: Integers, alphabet: int) -> bool:
    """The digits of numbers into `table`; whether anything is left."""
    for digit in table:
        quotient = number // alphabet
        number -= quotient * alphabet
        digit[:] = number
        number = quotient
    return bool(number.any())


def _planes(numbers: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.uint8]:
    """The bytes of each number, least first: shape (numbers, 4 limbs)."""
    limbs, count = numbers.shape
    return np.ascontiguousarray(numbers.T, dtype="<u4").view(np.uint8).reshape(count, 4 * limbs)


def _limbs(planes: NDArray[np.uint8]) -> NDArray[np.unsignedinteger[Any]]:
    """The inverse of :func:`_planes`."""
    limbs = planes.shape[1] // 4
    return np.ascontiguousarray(planes.view("<u4").T, dtype=np.uint32 if limbs == 1 else np.uint64)


def _low_bits(octets: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    bits: NDArray[np.uint8] = np.unpackbits(octets[:, None], axis=1, count=count, bitorder="little").reshape(-1)
    return bits


def _number(digits: Iterable[int], alphabet: int) -> int:
    """Digits from the least on, as one number."""
    return sum(digit * alphabet**place for place, digit in enumerate(digits))


def _bits(number: int, count: int) -> NDArray[np.uint8]:
    """Bits of a number, least first."""
    octets = np.frombuffer(number.to_bytes(math.ceil(count / 8), "little"), dtype=np.uint8)
    return np.unpackbits(octets, bitorder="little")[:count]
