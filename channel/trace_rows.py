"""Rows of a recorded channel, each a coefficient, made into arrays with every row checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]
Mask = NDArray[np.bool_]

REQUIRED = ("round", "device", "real", "imag")
COLUMNS = (*REQUIRED, "subband", "antenna")
AXES = ("round", "subband", "device", "antenna")
MOST_COEFFICIENTS = 2**27
"""2 GiB of them: a trace is kept in memory."""
LEAVE_OUT = "leave the row out where a device could not be reached"


@dataclass(frozen=True)
class Recording:
    """Gains as recorded.

    Attributes
    ----------
    gains : ndarray of complex128, shape (R, S, N, M)
        Of R rounds, S subbands, N devices and M antennas; 0 where a device was not reached.
    reached : ndarray of bool, shape (R, N)
        Where there are gains.
    first_round : int
        What the file calls the first of the rounds.
    source : str
        The file, for messages.

    Raises
    ------
    ValueError
        A device that is never reached.
    """

    gains: Complex
    reached: Mask
    first_round: int
    source: str

    def __post_init__(self) -> None:
        never = np.flatnonzero(~self.reached.any(axis=0))
        if never.size:
            raise ValueError(
                f"{self.source}: device {never[0]} of 0 to {self.reached.shape[1] - 1} is never reached; accepted: "
                "devices that count from 0, each with a gain in some round"
            )


@dataclass(frozen=True)
class Rows:
    """Columns of a file.

    Attributes
    ----------
    columns : mapping of str to ndarray, each of shape (n,)
        Those of COLUMNS that the file has.
    numbers : ndarray of int, shape (n,)
        Where each row is in the file.
    unit : str
        What `numbers` count: ``"line"`` or ``"index"``.
    source : str
        The file, for messages.
    """

    columns: Mapping[str, Real]
    numbers: NDArray[np.int64]
    unit: str
    source: str

    def recording(self) -> Recording:
        """The rows, whatever their order, as arrays.

        Raises
        ------
        ValueError
            A row that cannot be; the message names where it is.
        """
        if not len(self.numbers):
            raise ValueError(f"{self.source}: has no rows; accepted: at least one gain")
        values = self._gains()
        keys = {name: self._whole(name) for name in AXES}
        first_round = int(keys["round"].min())
        keys["round"] = keys["round"] - first_round
        shape = self._shape(keys)
        gains = np.zeros(shape, dtype=np.complex128)
        gains.reshape(-1)[self._places(keys, shape)] = values
        reached = self._complete(gains, keys)
        return Recording(gains, reached, first_round, self.source)

    def refuse(self, bad: Mask, name: str, accepted: str) -> None:
        """Raise for the first row marked bad, if there is one."""
        if bad.any():
            row = int(np.argmax(bad))
            value = "0" if name == "gain" else f"{self.columns[name][row]:g}"
            raise ValueError(f"{self.source}, {self.unit} {self.numbers[row]}: {name} is {value}; accepted: {accepted}")

    def _gains(self) -> Complex:
        real, imag = self.columns["real"], self.columns["imag"]
        for name in ("real", "imag"):
            self.refuse(~np.isfinite(self.columns[name]), name, f"a finite number; {LEAVE_OUT}")
        self.refuse((real == 0) & (imag == 0), "gain", f"real and imag that are not both 0; {LEAVE_OUT}")
        return np.asarray(real + 1j * imag, dtype=np.complex128)

    def _whole(self, name: str) -> NDArray[np.int64]:
        if name not in self.columns:
            return np.zeros(len(self.numbers), dtype=np.int64)
        values = self.columns[name]
        whole = (values >= 0) & (values < 2**53) & (values == np.floor(values))
        self.refuse(~whole, name, "a whole number >= 0")
        return values.astype(np.int64)

    def _shape(self, keys: Mapping[str, NDArray[np.int64]]) -> tuple[int, ...]:
        shape = tuple(int(keys[name].max()) + 1 for name in AXES)
        if math.prod(shape) > MOST_COEFFICIENTS:
            raise ValueError(
                f"{self.source}: rounds x subbands x devices x antennas are {' x '.join(map(str, shape))}; accepted: "
                f"at most {MOST_COEFFICIENTS} coefficients in all, with numbers that count from 0"
            )
        return shape

    def _places(self, keys: Mapping[str, NDArray[np.int64]], shape: tuple[int, ...]) -> NDArray[np.int64]:
        """Index of each row's coefficient in the flat array."""
        places = np.ravel_multi_index(tuple(keys[name] for name in AXES), shape).astype(np.int64)
        order = np.argsort(places, kind="stable")
        repeated = np.zeros(len(places), dtype=np.bool_)
        repeated[order[1:]] = places[order[1:]] == places[order[:-1]]
        accepted = "one row for each round, device, subband and antenna, and this is the second of the same"
        self.refuse(repeated, "device", accepted)
        return places

    def _complete(self, gains: Complex, keys: Mapping[str, NDArray[np.int64]]) -> Mask:
        """Where devices are reached: with all subbands and antennas."""
        _, subbands, _, antennas = gains.shape
        there = np.count_nonzero(gains, axis=(1, 3))
        partial = (there > 0) & (there < subbands * antennas)
        accepted = (
            f"in each round either no row or one for each of {subbands} subbands and {antennas} antennas (which count "
            "from 0), and some are missing"
        )
        self.refuse(partial[keys["round"], keys["device"]], "device", accepted)
        return np.asarray(there > 0)
