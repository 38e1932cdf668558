"""Small-scale fading: unit-power complex coefficients of every device of a scenario, block by block."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from channel.propagation import SPEED_OF_LIGHT
from channel.randomness import complex_normal, generator, key

Complex = NDArray[np.complex128]
Real = NDArray[np.float64]


class Fading(ABC):
    """A process of complex coefficients g with E|g|^2 = 1, constant over one exchange (block fading)."""

    name: ClassVar[str]

    @abstractmethod
    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Coefficients of all devices of the scenario in one block.

        Parameters
        ----------
        round : int
            Number of the block (exchange), >= 0.
        devices : int
            N, all devices of the scenario. They are drawn together and indexed afterwards, so that a device's
            channel does not depend on who else takes part.
        seed : int
            The run's seed.

        Returns
        -------
        ndarray of complex128, shape (N,)
        """

    def response(self, round: int, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        """Coefficients of every device in every subband at every receive antenna.

        Subbands and antennas are far enough apart to fade independently here. Sources that know how they go together
        (a cell of :mod:`channel.three_gpp`, a recorded trace) say so themselves.

        Parameters
        ----------
        round, devices, seed
            See :meth:`coefficients`.
        subbands : int
            S >= 1 parts of the band, flat each.
        antennas : int
            M >= 1 of the receiver.

        Returns
        -------
        ndarray of complex128, shape (S, N, M)
        """
        drawn = self.coefficients(round, subbands * devices * antennas, seed)
        return drawn.reshape(subbands, devices, antennas)

    def sample(self, count: int, devices: int, subbands: int, antennas: int, seed: int) -> Iterator[Complex]:
        """Responses (S, N, M) that the run might have had, for a look at their statistics beforehand."""
        for draw in range(count):
            yield self.response(draw, devices, subbands, antennas, key(seed, "statistics"))

    def reachable(self, round: int, devices: int, seed: int) -> NDArray[np.bool_]:
        """Devices that there is a channel to at all, shape (N,)."""
        return np.ones(devices, dtype=np.bool_)

    def mean_power(self, round: int, devices: int, seed: int) -> Real:
        """E|g|^2 of each device over small-scale fading, shape (N,); sources with path loss of their own say theirs."""
        return np.ones(devices)

    def positions(self, round: int, devices: int, seed: int) -> Real | None:
        """Places in the plane, the receiver at 0, shape (N, 2), m; None from sources that place no devices."""
        return None

    def line_of_sight(self, round: int, devices: int, seed: int) -> NDArray[np.bool_] | None:
        """Who sees the receiver, shape (N,); None from sources that do not say."""
        return None

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


class AWGN(Fading):
    """No fading: every coefficient is 1, the noise is all there is."""

    name = "none"

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Ones, shape (N,)."""
        return np.ones(devices, dtype=np.complex128)


class Rayleigh(Fading):
    """g ~ CN(0, 1), independent over devices and blocks: no line of sight."""

    name = "rayleigh"

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Independent draws, shape (N,)."""
        return complex_normal(generator(seed, "fading/rayleigh", round), (devices,))


class Rician(Fading):
    r"""A line of sight K times the scattered power, :math:`g = (\sqrt K e^{j\theta} + CN(0, 1))/\sqrt{K+1}`.

    Parameters
    ----------
    k_factor_db : float
        K in dB; the phase theta is uniform and independent over devices and blocks.
    """

    name = "rician"

    def __init__(self, k_factor_db: float = 6.0) -> None:
        if not math.isfinite(k_factor_db):
            raise ValueError(f"k_factor_db is {k_factor_db!r}; accepted: a finite number of dB")
        self.k_factor_db = k_factor_db

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Independent draws, shape (N,)."""
        rng = generator(seed, "fading/rician", round)
        k = 10.0 ** (self.k_factor_db / 10.0)
        scattered = complex_normal(rng, (devices,))
        sight = np.exp(2j * math.pi * rng.random(devices))
        mixed: Complex = math.sqrt(k / (k + 1.0)) * sight + math.sqrt(1.0 / (k + 1.0)) * scattered
        return mixed


class GaussMarkov(Fading):
    r"""Rayleigh fading with memory, :math:`g_{t+1} = \rho g_t + \sqrt{1-\rho^2}\,CN(0, 1)`.

    Autocorrelation over l blocks is :math:`\rho^l`. The innovation of each block has its own name, and the
    latest two states are kept: consecutive blocks, and the one before each, cost O(N), and a block's value is
    the same whatever was asked for before (going back further starts again from block 0).

    Parameters
    ----------
    correlation : float
        rho in [0, 1].
    """

    name = "gauss-markov"

    def __init__(self, correlation: float = 0.9) -> None:
        if not 0.0 <= correlation <= 1.0:
            raise ValueError(f"correlation is {correlation!r}; accepted: 0 <= correlation <= 1")
        self.correlation = correlation
        self._process = (0, 0)
        self._states: dict[int, Complex] = {}

    @classmethod
    def from_doppler(cls, speed_mps: float, carrier_hz: float, interval_s: float) -> GaussMarkov:
        r"""Correlation after Jakes, :math:`\rho = J_0(2\pi f_D T)` with :math:`f_D = v f_c/c`.

        Parameters
        ----------
        speed_mps : float
            Speed of the devices, m/s.
        carrier_hz : float
            Carrier frequency, Hz.
        interval_s : float
            Time T between blocks, s.

        Raises
        ------
        ValueError
            rho < 0: blocks are so far apart that J0 swings; an AR(1) process has no such correlation, take
            ``Rayleigh()``.
        """
        from scipy.special import j0

        rho = float(j0(2.0 * math.pi * speed_mps * carrier_hz / SPEED_OF_LIGHT * interval_s))
        if not rho >= 0.0:
            raise ValueError(
                f"speed_mps={speed_mps}, carrier_hz={carrier_hz}, interval_s={interval_s} give the "
                f"correlation {rho:.3f}; accepted: >= 0. Blocks so far apart are as good as "
                "independent: use Rayleigh()"
            )
        return cls(rho)

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """State of the process at this block, shape (N,)."""
        if self._process != (seed, devices):
            self._process, self._states = (seed, devices), {}
        if round not in self._states:
            self._states = self._latest_two(round, devices, seed)
        return self._states[round].copy()

    def _latest_two(self, round: int, devices: int, seed: int) -> dict[int, Complex]:
        """States of this block and the one before it, from the latest that is known."""
        block = max((known for known in self._states if known < round), default=0)
        state = self._states[block] if block in self._states else self._innovation(0, devices, seed)
        states = {block: state}
        rho, fresh = self.correlation, math.sqrt(1.0 - self.correlation**2)
        while block < round:
            block += 1
            state = rho * state + fresh * self._innovation(block, devices, seed)
            states = {block - 1: states[block - 1], block: state}
        return states

    def _innovation(self, block: int, devices: int, seed: int) -> Complex:
        return complex_normal(generator(seed, "fading/gauss-markov", block), (devices,))


FADINGS: dict[str, type[Fading]] = {fading.name: fading for fading in (AWGN, Rayleigh, Rician, GaussMarkov)}
"""Fading processes by the name they go by in a scenario."""
