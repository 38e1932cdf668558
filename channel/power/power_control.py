"""What power control decides each round, and what it decides it from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Real = NDArray[np.float64]
Vector = TypeVar("Vector", Real, Tensor)


class PowerControlError(RuntimeError):
    """The optimiser did not return an allocation that can be trusted; the message names its status."""


@dataclass(frozen=True)
class Allocation(Generic[Vector]):
    r"""Transmit amplitudes and receive scale of one exchange.

    Attributes
    ----------
    amplitudes : ndarray or Tensor of float64, shape (K,)
        :math:`b_i \ge 0`, square root of the transmit power; of the kind of the gains it was computed from.
    receive_scale : float
        a, what the receiver multiplies its signal by; 0 when nobody can be heard.
    mse : float
        :math:`\sum_i (a |h_i| b_i - w_i)^2 + \sigma^2 a^2`, the error per entry of unit-variance,
        uncorrelated symbols.
    """

    amplitudes: Vector
    receive_scale: float
    mse: float


@dataclass(frozen=True)
class AllocationProblem:
    """Checked inputs of one allocation, shape (K,) each: what every policy solves from."""

    magnitudes: Real
    weights: Real
    power_limits: Real
    noise_power: float

    @property
    def peaks(self) -> Real:
        """Largest amplitudes, sqrt(P_i)."""
        return np.sqrt(self.power_limits)

    @property
    def reach(self) -> Real:
        """c_i = sqrt(P_i) |h_i|: the largest amplitude at which device i can arrive."""
        return self.magnitudes * self.peaks

    @property
    def wanted(self) -> NDArray[np.bool_]:
        """Devices that can be heard (c_i > 0) and count (w_i > 0)."""
        return (self.reach > 0) & (self.weights > 0)

    def mse(self, amplitudes: Real, receive_scale: float) -> float:
        """The error of an allocation; see :class:`Allocation`."""
        aligned = receive_scale * self.magnitudes * amplitudes
        return float(np.sum((aligned - self.weights) ** 2) + self.noise_power * receive_scale**2)

    def invert(self, receive_scale: float, devices: NDArray[np.bool_]) -> Real:
        """b_i = min(sqrt(P_i), w_i / (a |h_i|)) for the given devices, 0 for the others."""
        amplitudes = np.zeros_like(self.weights)
        if receive_scale > 0:
            wanted = self.weights[devices] / (receive_scale * self.magnitudes[devices])
            amplitudes[devices] = np.minimum(self.peaks[devices], wanted)
        return amplitudes


class PowerControl(ABC):
    """A policy that turns gains, weights and limits into amplitudes, once per exchange."""

    name: ClassVar[str]

    @overload
    def allocate(
        self, gains: Tensor, weights: ArrayLike | Tensor, power_limits: ArrayLike | Tensor, noise_power: float
    ) -> Allocation[Tensor]: ...
    @overload
    def allocate(
        self,
        gains: ArrayLike,
        weights: ArrayLike | Tensor,
        power_limits: ArrayLike | Tensor,
        noise_power: float,
    ) -> Allocation[Real]: ...
    def allocate(
        self,
        gains: ArrayLike | Tensor,
        weights: ArrayLike | Tensor,
        power_limits: ArrayLike | Tensor,
        noise_power: float,
    ) -> Allocation[Any]:
        r"""Amplitudes and receive scale: :math:`a(\sum_i |h_i| b_i s_i + n)` is to be :math:`\sum_i w_i s_i`.

        Parameters
        ----------
        gains : array or Tensor, shape (K,)
            Channel gains h_i, complex, or their magnitudes.
        weights : array or Tensor, shape (K,)
            w_i >= 0, for example n_i / n.
        power_limits : array or Tensor, shape (K,), or a scalar for all
            P_i >= 0, W (or multiples of the noise variance in normalised units). With symbols that are raw
            updates rather than unit-variance entries, E_i / ||x_i||^2.
        noise_power : float
            sigma^2 >= 0 per real use, in the same unit.

        Returns
        -------
        Allocation
            A device with no gain or no power cannot be heard and stays silent; if all are silent the receive
            scale is 0 and the error ||w||^2.

        Raises
        ------
        ValueError
            No devices, shapes that differ, values that are negative or not finite.
        PowerControlError
            An optimiser failed.
        """
        problem = _checked(gains, weights, power_limits, noise_power)
        if problem.wanted.any():
            amplitudes, receive_scale = self._solve(problem)
        else:
            amplitudes, receive_scale = np.zeros_like(problem.weights), 0.0
        mse = problem.mse(amplitudes, receive_scale)
        if isinstance(gains, Tensor):
            return Allocation(torch.from_numpy(amplitudes).to(gains.device), receive_scale, mse)
        return Allocation(amplitudes, receive_scale, mse)

    @abstractmethod
    def _solve(self, problem: AllocationProblem) -> tuple[Real, float]:
        """Amplitudes, shape (K,), and receive scale; at least one device is heard and wanted."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


def _checked(
    gains: ArrayLike | Tensor,
    weights: ArrayLike | Tensor,
    power_limits: ArrayLike | Tensor,
    noise_power: float,
) -> AllocationProblem:
    magnitudes = np.abs(_array("gains", gains)).astype(np.float64)
    if magnitudes.ndim != 1 or magnitudes.size == 0:
        raise ValueError(f"gains has shape {magnitudes.shape}; accepted: (K,) with K >= 1 devices")
    limits = _array("power_limits", power_limits)
    checked = {
        "weights": _array("weights", weights),
        "power_limits": np.full(magnitudes.shape, limits) if limits.ndim == 0 else limits,
    }
    for name, values in checked.items():
        if values.shape != magnitudes.shape:
            raise ValueError(f"{name} has shape {values.shape}; accepted: {magnitudes.shape}, as the gains")
        if np.iscomplexobj(values) or (values < 0).any():
            raise ValueError(f"{name} is {values}; accepted: real numbers >= 0")
    if not (np.isfinite(noise_power) and noise_power >= 0):
        raise ValueError(f"noise_power is {noise_power!r}; accepted: a finite number >= 0")
    return AllocationProblem(
        magnitudes,
        checked["weights"].astype(np.float64),
        checked["power_limits"].astype(np.float64),
        float(noise_power),
    )


def _array(name: str, values: ArrayLike | Tensor) -> NDArray[Any]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} has dtype {array.dtype}; accepted: numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is {array}; accepted: finite numbers")
    return array
