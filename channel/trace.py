"""Replays a recorded channel: how measurements, ns-3 or ray tracing come in."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.fading import Fading
from channel.trace_file import read_recording, write_recording
from channel.trace_rows import Recording

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


class TraceEnds(ValueError):
    """A trace has fewer rounds than a run has exchanges."""


class GainTrace(Fading):
    """Gains from a file, path loss and all: with it, the channel's own power gain is 1.

    **CSV** with a header and the columns ``round,device,real,imag``, and if need be ``subband`` and ``antenna``, a row
    for each coefficient in any order. **NPZ** with arrays of those names, or with one complex array ``gains`` of shape
    (R, N) or (R, S, N, M): rounds, subbands, devices, antennas; and if need be ``reachable``, bool (R, N).

    Devices, subbands and antennas count from 0. Rounds are exchanges of the run, of which the first is the file's
    round 0 or 1, whichever it begins with. A device without a row in a round could not be reached then: its gain is 0.
    A trace of one subband is of a flat channel, and serves any number of subbands.

    Parameters
    ----------
    path : str or path
        The file; read, and checked, at once.
    first_round : int, optional
        The file's name of the run's first exchange, where that is not the first one recorded; rounds before are left
        out. An array ``gains`` counts from 0.

    Raises
    ------
    ValueError
        NaN, infinite or zero gains, a row twice, missing columns, negative ids, devices that are never reached, or
        rounds that begin neither with 0 nor with 1 without a `first_round`; the message names file and line or index.
    """

    name = "trace"

    def __init__(self, path: str | PathLike[str], first_round: int | None = None) -> None:
        self.path = Path(path)
        self.first_round = first_round
        recording = read_recording(self.path)
        self._gains, self._reached = _from_round(recording, first_round)

    @property
    def rounds(self) -> int:
        """Exchanges that the trace is long enough for."""
        return len(self._gains)

    @property
    def devices(self) -> int:
        """N of the trace; a run may use the first of them only."""
        return int(self._gains.shape[2])

    def check(self, rounds: int, devices: int, subbands: int = 1, antennas: int = 1) -> None:
        """Whether the trace is enough for a run.

        Parameters
        ----------
        rounds : int
            Exchanges of the run.
        devices, subbands, antennas : int
            N, S and M of the run.

        Raises
        ------
        TraceEnds
            Fewer rounds.
        ValueError
            Fewer devices, or other numbers of subbands or antennas.
        """
        _, recorded_subbands, recorded_devices, recorded_antennas = self._gains.shape
        if rounds > self.rounds:
            raise TraceEnds(
                f"{self.path}: the trace has {self.rounds} rounds; accepted: {rounds} or more, as the run has"
            )
        if devices > recorded_devices:
            raise ValueError(
                f"{self.path}: the trace has {recorded_devices} devices; accepted: {devices} or more, as the run has"
            )
        if subbands != recorded_subbands != 1:
            raise ValueError(f"subbands is {subbands}; accepted: {recorded_subbands}, as the trace {self.path} has")
        if antennas != recorded_antennas:
            raise ValueError(f"antennas is {antennas}; accepted: {recorded_antennas}, as the trace {self.path} has")

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Gains of one exchange over a flat channel to one antenna, shape (N,)."""
        return self.response(round, devices, 1, 1, seed)[0, :, 0]

    def response(self, round: int, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        """Gains of one exchange, shape (S, N, M); exchanges count from 1, and nothing is random.

        Raises
        ------
        ValueError
            An exchange that the trace does not have.
        """
        self.check(self._index(round) + 1, devices, subbands, antennas)
        recorded = self._gains[self._index(round), :, :devices]
        return np.broadcast_to(recorded, (subbands, *recorded.shape[1:])).copy()

    def sample(self, count: int, devices: int, subbands: int, antennas: int, seed: int) -> Iterator[Complex]:
        """Responses (S, N, M) of recorded rounds, evenly spread over the trace."""
        for draw in range(count):
            yield self.response(1 + draw * self.rounds // count, devices, subbands, antennas, seed)

    def reachable(self, round: int, devices: int, seed: int) -> NDArray[np.bool_]:
        """Devices with a gain in this exchange, shape (N,)."""
        self.check(self._index(round) + 1, devices, self._gains.shape[1], self._gains.shape[3])
        return self._reached[self._index(round), :devices].copy()

    def mean_power(self, round: int, devices: int, seed: int) -> Real:
        """Mean of each device's squared gains over the rounds in which it was reached, shape (N,)."""
        self.check(0, devices, self._gains.shape[1], self._gains.shape[3])
        power = np.mean(np.abs(self._gains[:, :, :devices]) ** 2, axis=(1, 3)).sum(axis=0)
        rounds = self._reached[:, :devices].sum(axis=0)
        return np.asarray(np.divide(power, rounds, out=np.zeros(devices), where=rounds > 0))

    @staticmethod
    def _index(round: int) -> int:
        if round < 1:
            raise ValueError(f"round is {round!r}; accepted: exchanges of a run, which count from 1")
        return round - 1


def write_trace(path: str | PathLike[str], gains: ArrayLike, reachable: ArrayLike | None = None) -> None:
    """Write gains that :class:`GainTrace` replays, CSV or NPZ by the name's ending.

    Parameters
    ----------
    path : str or path
        Ends in .csv or .npz.
    gains : array of complex, shape (R, N) or (R, S, N, M)
        Of rounds, subbands, devices and antennas; finite and not 0.
    reachable : array of bool, shape (R, N), optional
        False where a device could not be reached; its gains do not matter there.

    Raises
    ------
    ValueError
        Another ending or shape, or gains that a trace cannot have.
    """
    write_recording(Path(path), gains, reachable)


def _from_round(recording: Recording, first: int | None) -> tuple[Complex, NDArray[np.bool_]]:
    """Gains and who was reached from the round on that the file calls `first`."""
    begin, end = recording.first_round, recording.first_round + len(recording.gains)
    if first is None and begin > 1:
        raise ValueError(
            f"{recording.source}: rounds begin with {begin}; accepted: 0 or 1, or first_round, which says with "
            "which of them the run begins"
        )
    start = begin if first is None else first
    if not 0 <= start < end:
        raise ValueError(f"first_round is {first!r}; accepted: 0 to {end - 1}, the last round of {recording.source}")
    unrecorded = max(0, begin - start)  # rounds before the first one recorded: nobody was reached
    gains = np.pad(recording.gains[max(0, start - begin) :], [(unrecorded, 0), (0, 0), (0, 0), (0, 0)])
    return gains, np.pad(recording.reached[max(0, start - begin) :], [(unrecorded, 0), (0, 0)])
