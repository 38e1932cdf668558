"""Several receive antennas: the combiner that makes one signal of theirs, and the allocation that goes with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from channel.power.power_control import Allocation, PowerControl

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Combined:
    r"""What the receiver multiplies its antennas with, and what devices send for it.

    The estimate is :math:`a f^H y`; device i turns its phase by :math:`e^{-j\arg f^H h_i}`.

    Attributes
    ----------
    combiner : ndarray of complex128, shape (M,)
        f, of unit norm.
    allocation : Allocation
        Amplitudes and receive scale for the gains :math:`|f^H h_i|`. Its error is that of
        :math:`\sum_i w_i s_i` over the selected devices.
    selected : ndarray of bool, shape (K,), optional
        Devices that the estimate is of where others were left out on purpose, which are silent; None: of all.
    """

    combiner: Complex
    allocation: Allocation[Real]
    selected: Mask | None = None

    def rescaled(self, factor: float) -> Combined:
        r"""The same transmission, read as `factor` times the sum.

        The receive scale times `factor`, the error times its square. Where devices were left out, `factor`
        :math:`= 1/\sum_{selected} w_i`, w the weights of the *mean*, makes the estimate the mean of those selected.
        """
        allocation = replace(
            self.allocation,
            receive_scale=factor * self.allocation.receive_scale,
            mse=factor**2 * self.allocation.mse,
        )
        return replace(self, allocation=allocation)


@dataclass(frozen=True)
class CombiningProblem:
    """Checked inputs of one combiner: gains (K, M), weights and power limits (K,), noise power."""

    gains: Complex
    weights: Real
    power_limits: Real
    noise_power: float

    @property
    def wanted(self) -> Mask:
        """Devices that can be heard on some antenna and count."""
        heard: Mask = (self.gains != 0).any(axis=1)
        return (self.weights > 0) & (self.power_limits > 0) & heard

    @property
    def scaled(self) -> Complex:
        r"""g_i = sqrt(P_i) h_i / w_i of the wanted devices: :math:`|f^H g_i| \ge 1/a` is what aligns device i."""
        wanted = self.wanted
        strength = np.sqrt(self.power_limits[wanted]) / self.weights[wanted]
        return np.asarray(strength[:, None] * self.gains[wanted])

    def only(self, chosen: Mask) -> CombiningProblem:
        """The same with weight 0 for the others."""
        return replace(self, weights=np.where(chosen, self.weights, 0.0))

    def arriving(self, combiner: Complex) -> Complex:
        """f^H h_i, shape (K,)."""
        return np.asarray(self.gains @ combiner.conj())

    def allocate(self, combiner: Complex, power_control: PowerControl, devices: ArrayLike | None = None) -> Combined:
        """What the policy allocates behind this combiner, which need not have unit norm."""
        unit = combiner / np.linalg.norm(combiner)
        magnitudes = np.abs(self.arriving(unit))
        allocation = power_control.allocate(
            magnitudes, self.weights, self.power_limits, self.noise_power, devices=devices
        )
        return Combined(unit, allocation)


class Combining(ABC):
    """A rule for the combiner f of a receiver with M antennas, once per exchange and resource block.

    After :math:`f^H`, with ||f|| = 1, the scalar problem of :class:`~channel.power.power_control.PowerControl` is
    left: gains :math:`|f^H h_i|`, noise :math:`\\sigma^2` as on one antenna.
    """

    name: ClassVar[str]

    def combine(
        self,
        gains: ArrayLike,
        weights: ArrayLike,
        power_limits: ArrayLike,
        noise_power: float,
        power_control: PowerControl,
        devices: ArrayLike | None = None,
    ) -> Combined:
        """Combiner and allocation.

        Parameters
        ----------
        gains : array of complex, shape (K, M)
            h_i as the receiver knows them, path loss included.
        weights, power_limits, noise_power
            As for :meth:`~channel.power.power_control.PowerControl.allocate`; the noise is that of each antenna.
        power_control : PowerControl
            Allocates behind the combiner.
        devices : array of int, shape (K,), optional
            Ids, for policies that remember devices.

        Returns
        -------
        Combined
            With one antenna f = 1, and the allocation is what `power_control` alone would give.

        Raises
        ------
        ValueError
            Gains that are not (K, M) finite numbers, or weights, limits or noise that power control refuses.
        PowerControlError
            Power control failed.
        """
        problem = _checked(gains, weights, power_limits, noise_power)
        if problem.gains.shape[1] == 1 or not problem.wanted.any():
            return self._behind_one(problem, power_control, devices)
        return self._combine(problem, power_control, devices)

    @abstractmethod
    def direction(self, problem: CombiningProblem) -> Complex:
        """f up to a factor, shape (M,); M > 1 and some device is wanted."""

    def _combine(self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None) -> Combined:
        return problem.allocate(self.direction(problem), power_control, devices)

    def _behind_one(
        self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None
    ) -> Combined:
        """The first antenna alone: the only one, or as good as any where nobody can be heard."""
        return problem.allocate(np.eye(1, problem.gains.shape[1], dtype=np.complex128)[0], power_control, devices)

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


class Matched(Combining):
    r"""Maximum-ratio combining of the sum: :math:`f \propto \sum_i w_i h_i`.

    All the receiver needs to know is this one vector: what it hears when all devices send one pilot together, each
    with amplitude w_i. With independent Rayleigh channels :math:`f^H h_i = w_i\|h_i\|^2 + \sum_{j\ne i} w_j h_j^H h_i`:
    over M the first term settles at :math:`w_i\beta_i`, so that devices arrive in proportion to their weights, and the
    rest falls as :math:`\sum_{j \ne i} w_j^2 \beta_j\beta_i/M`, which for equal devices is K/M of what is wanted.

    Blind over-the-air learning of Amiri, Duman and Gündüz (IEEE Trans. Wireless Commun. 20(8), 2021) is this with
    equal weights and with devices that know nothing, not even the phase of :math:`f^H h_i`; here they do.
    """

    name = "mrc"

    def direction(self, problem: CombiningProblem) -> Complex:
        """The weighted sum of the channels; the strongest channel where that sum is zero."""
        total = np.asarray(problem.weights @ problem.gains)
        norms = problem.weights * np.linalg.norm(problem.gains, axis=1)
        if np.linalg.norm(total) <= 1e-12 * norms.sum():
            return np.asarray(problem.gains[np.argmax(norms)])
        return total


def _checked(gains: ArrayLike, weights: ArrayLike, power_limits: ArrayLike, noise_power: float) -> CombiningProblem:
    channel = np.asarray(gains)
    if channel.ndim != 2 or 0 in channel.shape:
        raise ValueError(f"gains has shape {channel.shape}; accepted: (K, M), K >= 1 devices at M >= 1 antennas")
    if channel.dtype.kind not in "biufc" or not np.isfinite(channel).all():
        raise ValueError(f"gains is {gains!r}; accepted: finite complex numbers")
    count = channel.shape[0]
    limits = np.asarray(power_limits)
    values = {"weights": np.asarray(weights), "power_limits": np.full(count, limits) if limits.ndim == 0 else limits}
    for name, array in values.items():
        if array.shape != (count,) or array.dtype.kind not in "biuf" or not (np.isfinite(array) & (array >= 0)).all():
            raise ValueError(f"{name} is {array!r}; accepted: {count} finite numbers >= 0, one per device")
    if not (np.isfinite(noise_power) and noise_power >= 0):
        raise ValueError(f"noise_power is {noise_power!r}; accepted: a finite number >= 0")
    checked = {name: array.astype(np.float64) for name, array in values.items()}
    return CombiningProblem(channel.astype(np.complex128), noise_power=float(noise_power), **checked)
