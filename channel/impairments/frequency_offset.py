"""Oscillators of devices that run a little fast or slow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.impairments.resource_grid import ResourceGrid
from channel.randomness import generator

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


@dataclass(frozen=True)
class FrequencyOffset:
    r"""A carrier offset :math:`\Delta f \sim N(0, s_f^2)` of each device, the same for the whole run.

    The phase runs as :math:`2\pi\Delta f\,t`, t from the latest pilots, which set it to zero. A slot of duration T that
    begins at t arrives with what its symbols have in common,

    .. math:: \frac{1}{T}\int_t^{t+T} e^{j 2\pi\Delta f u}\,du
        = \mathrm{sinc}(\Delta f T)\,e^{j 2\pi\Delta f (t + T/2)}, \qquad \mathrm{sinc}(x) = \sin(\pi x)/(\pi x),

    a loss of power of :math:`\mathrm{sinc}^2(\Delta f T)`; the rest averages to zero over the slot, is
    noise to the sum and is left out: take slots that are short against :math:`1/s_f`.

    Parameters
    ----------
    std_hz : float
        s_f >= 0, Hz; see :meth:`from_clock` for parts per million.
    pilot_slots : int, optional
        Pilots are sent at the beginning of every so many slots (>= 1); None: at the beginning of the exchange only.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    std_hz: float
    pilot_slots: int | None = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.std_hz < math.inf:
            raise ValueError(f"std_hz is {self.std_hz!r}; accepted: a finite number of Hz >= 0")
        if self.pilot_slots is not None and self.pilot_slots < 1:
            raise ValueError(f"pilot_slots is {self.pilot_slots!r}; accepted: a whole number >= 1, or None")

    @classmethod
    def from_clock(cls, std_ppm: float, carrier_hz: float, pilot_slots: int | None = 1) -> FrequencyOffset:
        """From the accuracy of a clock, parts per million: s_f = 1e-6 std_ppm f_c."""
        for name, value in (("std_ppm", std_ppm), ("carrier_hz", carrier_hz)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}; accepted: a finite number >= 0")
        return cls(1e-6 * std_ppm * carrier_hz, pilot_slots)

    def rotation(self, exchange: int, devices: int, grid: ResourceGrid, seed: int) -> Complex:
        """Factors that the channel takes on unknown to anybody; parameters as :meth:`PhaseError.rotation`.

        Returns
        -------
        ndarray of complex128, shape (S, N)
        """
        slots = grid.slot_of_block if self.pilot_slots is None else grid.slot_of_block % self.pilot_slots
        middle = (slots + 0.5) * grid.slot_seconds
        offset = self.offsets(devices, seed)
        ramp = np.exp(2j * math.pi * middle[:, None] * offset)
        return np.asarray(np.sinc(offset * grid.slot_seconds) * ramp, dtype=np.complex128)

    def offsets(self, devices: int, seed: int) -> Real:
        """Carrier offset of each device, Hz, shape (N,)."""
        return self.std_hz * generator(seed, "impairments/frequency-offset").standard_normal(devices)


def frequency_offset_loss(offset_hz: ArrayLike, slot_seconds: float) -> Real:
    r"""Share of a slot's power that adds up in phase, :math:`\mathrm{sinc}^2(\Delta f T)`, elementwise."""
    return np.square(np.sinc(np.asarray(offset_hz, dtype=np.float64) * slot_seconds))
