"""Other cells on the same frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from channel.propagation import linear_from_db
from channel.randomness import generator


@dataclass(frozen=True)
class Interference:
    r"""Signals of n neighbours, equally strong on average, each through Rayleigh fading of its own.

    Their power in an exchange is :math:`I \cdot \mathrm{Gamma}(n, 1/n)`: a sum of n exponentials of mean I/n, with
    mean I and variance :math:`I^2/n`. Given the power, what arrives is taken for Gaussian noise on top of the
    receiver's own.

    Parameters
    ----------
    mean_power : float
        I >= 0 per complex use, in the units of the noise power; see :meth:`over_noise` for a ratio in dB.
    interferers : int
        n >= 1.

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    mean_power: float
    interferers: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.mean_power < math.inf:
            raise ValueError(f"mean_power is {self.mean_power!r}; accepted: a finite number >= 0")
        if not (isinstance(self.interferers, int) and self.interferers >= 1):
            raise ValueError(f"interferers is {self.interferers!r}; accepted: a whole number >= 1")

    @classmethod
    def over_noise(cls, inr_db: float, noise_power: float, interferers: int = 1) -> Interference:
        """From the interference-to-noise ratio, dB: I = N0 10^(inr_db/10), N0 the `noise_power`."""
        if not math.isfinite(inr_db):
            raise ValueError(f"inr_db is {inr_db!r}; accepted: a finite number of dB")
        if not 0.0 < noise_power < math.inf:
            raise ValueError(f"noise_power is {noise_power!r}; accepted: a finite number > 0, which inr_db refers to")
        return cls(noise_power * float(linear_from_db(inr_db)), interferers)

    def power(self, exchange: int, seed: int) -> float:
        """Power in one exchange, per complex use.

        Parameters
        ----------
        exchange : int
            Number of the exchange, >= 0.
        seed : int
            The run's seed.
        """
        rng = generator(seed, "impairments/interference", exchange)
        return self.mean_power * float(rng.gamma(self.interferers, 1.0 / self.interferers))
