"""The combiner of least error, by descent on what is left once power control has done its best."""

from __future__ import annotations

import numpy as np

from channel.power.combining import CombiningProblem, Complex, Real


def least_error_combiner(problem: CombiningProblem, start: Complex, iterations: int) -> tuple[Complex, float]:
    r"""A minimum of the error over the unscaled combiner F = a f near a start.

    For a given F the best amplitudes are :math:`\min(\sqrt{P_i}, w_i/|F^H h_i|)`, whence

    .. math:: e(F) = \sum_i \max\bigl(0,\; w_i - \sqrt{P_i} |F^H h_i|\bigr)^2 + \sigma^2 \|F\|^2,

    which is smooth wherever no device is orthogonal to F, and is descended by L-BFGS. Its minima are those where
    alternating between combiner and power control stops too; getting there by alternation takes hundreds of sweeps at
    high SNR.

    Parameters
    ----------
    problem : CombiningProblem
        Some device is wanted.
    start : ndarray of complex128, shape (M,)
        Any factor: the descent begins at the best one.
    iterations : int
        Most steps of the descent.

    Returns
    -------
    combiner : ndarray of complex128, shape (M,)
    error : float
    """
    from scipy.optimize import minimize

    descent = _Descent(problem)
    combiner = descent.best_scale(start / np.linalg.norm(start)) * start / np.linalg.norm(start)
    found = minimize(
        descent.value_and_slope,
        np.concatenate([combiner.real, combiner.imag]),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": iterations, "ftol": 1e-10, "gtol": 0.0, "maxcor": 20},
    )
    return _complex(found.x) / descent.unit, float(found.fun) * descent.silence


class _Descent:
    """e(F) over that of silence, in units in which the best heard antenna of a device at full power is 1."""

    def __init__(self, problem: CombiningProblem) -> None:
        scaled = problem.scaled
        self.unit = float(np.abs(scaled).max())
        self.rows = scaled.conj() / self.unit
        self.shares = problem.weights[problem.wanted] ** 2
        self.silence = float(self.shares.sum())
        self.shares = self.shares / self.silence
        self.noise = problem.noise_power / self.unit / self.unit / self.silence

    def value_and_slope(self, parts: Real) -> tuple[float, Real]:
        """The error, and its slopes in the real and imaginary parts of F."""
        combiner = _complex(parts)
        heard = self.rows @ combiner
        magnitudes = np.abs(heard)
        short = self.shares * np.maximum(0.0, 1.0 - magnitudes)
        direction = heard / np.maximum(magnitudes, np.finfo(np.float64).tiny)
        slope = 2.0 * (self.noise * combiner - (short * direction) @ self.rows.conj())
        value = float(short @ (short / self.shares)) + self.noise * float(parts @ parts)
        return value, np.concatenate([slope.real, slope.imag])

    def best_scale(self, direction: Complex) -> float:
        """Equation 1a behind a combiner of this direction."""
        magnitudes = np.abs(self.rows @ direction)
        weakest_first = np.argsort(magnitudes, kind="stable")
        reach, shares = magnitudes[weakest_first], self.shares[weakest_first]
        candidates = np.cumsum(shares * reach) / (self.noise + np.cumsum(shares * reach**2))
        return float(np.nanmax(candidates))


def _complex(parts: Real) -> Complex:
    half = len(parts) // 2
    return np.asarray(parts[:half] + 1j * parts[half:])
