"""Analog-to-digital conversion at the receiver."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Real = NDArray[np.float64]
MOST_BITS = 16
LARGEST_LOADING = 8.0  # Gaussian samples beyond 8 standard deviations: one in 10^15


@dataclass(frozen=True)
class ADC:
    r"""A uniform quantiser of in-phase and quadrature samples behind an automatic gain control.

    2^bits levels :math:`\pm\Delta/2, \pm 3\Delta/2, \dots` of step :math:`\Delta = 2 L/2^{bits}` over
    :math:`\pm L`, L = loading times the root mean square of what arrives; samples beyond go to the outermost levels.

    Parameters
    ----------
    bits : int
        1 to 16, for each of I and Q.
    loading : float, optional
        L over the root mean square, > 0. By default the one of least error for Gaussian samples, found numerically
        (J. Max, "Quantizing for minimum distortion", IRE Trans. Inf. Theory 6(1), 1960, table II).

    Raises
    ------
    ValueError
        A parameter outside the above.
    """

    bits: int
    loading: float | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and 1 <= self.bits <= MOST_BITS):
            raise ValueError(f"bits is {self.bits!r}; accepted: a whole number from 1 to {MOST_BITS}")
        if self.loading is not None and not 0.0 < self.loading < math.inf:
            raise ValueError(f"loading is {self.loading!r}; accepted: a finite number > 0, or None for the best")

    @property
    def step(self) -> float:
        """Delta, in root mean squares of the signal."""
        loading = best_loading(self.bits) if self.loading is None else self.loading
        return math.ldexp(loading, 1 - self.bits)

    def receive(self, received: Tensor) -> Tensor:
        """Quantise what arrives.

        Parameters
        ----------
        received : Tensor, real, shape (m,)
            Real entries of the complex samples, of any scale. For several antennas: one call each.

        Returns
        -------
        Tensor, shape (m,)
            In the scale of the samples; nothing but zeros stays so.
        """
        scale = float(received.double().square().mean().sqrt())
        if scale == 0.0:
            return received.clone()
        step, outermost = self.step * scale, 2 ** (self.bits - 1) - 0.5
        return ((received / step).floor() + 0.5).clamp(-outermost, outermost) * step

    def gain(self) -> float:
        """E[x Q(x)] of unit Gaussian samples: what is left of the signal; 1 - mean squared error at best loading."""
        return _gaussian_moments(self.step, self.bits)[0]

    def mean_squared_error(self) -> float:
        """E[(Q(x) - x)^2] of unit Gaussian samples."""
        cross, power = _gaussian_moments(self.step, self.bits)
        return 1.0 - 2.0 * cross + power


@lru_cache(maxsize=MOST_BITS)
def best_loading(bits: int) -> float:
    """Loading of least mean squared error of unit Gaussian samples."""
    from scipy.optimize import minimize_scalar

    def error(loading: float) -> float:
        return ADC(bits, loading).mean_squared_error()

    found = minimize_scalar(error, bounds=(0.5, LARGEST_LOADING), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def _gaussian_moments(step: float, bits: int) -> tuple[float, float]:
    """E[x Q(x)] and E[Q(x)^2] of unit Gaussian samples, from the density and the tails at the thresholds."""
    from scipy.special import erfc

    thresholds = step * np.arange(2 ** (bits - 1))
    levels = thresholds + step / 2.0
    density = np.exp(-(thresholds**2) / 2.0) / math.sqrt(2.0 * math.pi)
    above: Real = 0.5 * erfc(thresholds / math.sqrt(2.0))
    mass = above - np.append(above[1:], 0.0)
    mean = density - np.append(density[1:], 0.0)
    return 2.0 * float(levels @ mean), 2.0 * float(levels**2 @ mass)
