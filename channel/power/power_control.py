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
Ids = NDArray[np.int64]
Vector = TypeVar("Vector", Real, Tensor)


class PowerControlError(RuntimeError):
    """The optimiser did not return an allocation that can be trusted; the message names its status."""


class ConstraintsInfeasible(PowerControlError):
    """No allocation meets the constraints: there is nothing to put in its place."""


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
    warning : str
        What was done instead where a policy could not do what it was asked to; empty otherwise. To be recorded.
    """

    amplitudes: Vector
    receive_scale: float
    mse: float
    warning: str = ""


@dataclass(frozen=True)
class AllocationProblem:
    """Checked inputs of one allocation, shape (K,) each: what every policy solves from."""

    magnitudes: Real
    weights: Real
    power_limits: Real
    noise_power: float
    devices: Ids

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
    """A policy that turns gains, weights and limits into amplitudes, once per exchange.

    A policy whose ``needs_statistics`` is true is shown simulated states of the channel by :meth:`learn` before
    its first exchange.
    """

    name: ClassVar[str]
    needs_statistics: ClassVar[bool] = False

    def learn(  # noqa: B027 most policies have nothing to learn
        self, magnitudes: ArrayLike, power_limits: ArrayLike, noise_power: float, weights: ArrayLike
    ) -> None:
        """Prepare for a channel from simulated states of it.

        Parameters
        ----------
        magnitudes : array, shape (T, N)
            |h| of all N devices of the scenario in T states.
        power_limits : array, shape (N,)
            P_i, as :meth:`allocate` will be given them.
        noise_power : float
            sigma^2.
        weights : array, shape (N,), or (T, N) with zeros for devices that do not take part in a state
            w_i; only their ratios count.
        """

    @overload
    def allocate(
        self,
        gains: Tensor,
        weights: ArrayLike | Tensor,
        power_limits: ArrayLike | Tensor,
        noise_power: float,
        devices: ArrayLike | None = None,
    ) -> Allocation[Tensor]: ...
    @overload
    def allocate(
        self,
        gains: ArrayLike,
        weights: ArrayLike | Tensor,
        power_limits: ArrayLike | Tensor,
        noise_power: float,
        devices: ArrayLike | None = None,
    ) -> Allocation[Real]: ...
    def allocate(
        self,
        gains: ArrayLike | Tensor,
        weights: ArrayLike | Tensor,
        power_limits: ArrayLike | Tensor,
        noise_power: float,
        devices: ArrayLike | None = None,
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
        devices : array of int, shape (K,), optional
            Ids of the devices, for policies that remember each one's past; 0..K-1 if not given.

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
        problem = _checked(gains, weights, power_limits, noise_power, devices)
        warning = ""
        if problem.wanted.any():
            solved = self._solve(problem)
            amplitudes, receive_scale = solved[0], solved[1]
            warning = solved[2] if len(solved) == 3 else ""
        else:
            amplitudes, receive_scale = np.zeros_like(problem.weights), 0.0
            warning = self._nobody_heard(problem)
        mse = problem.mse(amplitudes, receive_scale)
        if isinstance(gains, Tensor):
            return Allocation(torch.from_numpy(amplitudes).to(gains.device), receive_scale, mse, warning)
        return Allocation(amplitudes, receive_scale, mse, warning)

    @abstractmethod
    def _solve(self, problem: AllocationProblem) -> tuple[Real, float] | tuple[Real, float, str]:
        """Amplitudes, shape (K,), receive scale and maybe a warning; at least one device is heard and wanted."""

    def _nobody_heard(self, problem: AllocationProblem) -> str:
        """Warning where no device can be heard or none counts; a policy that must not accept this raises."""
        return ""

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({fields})"


def _checked(
    gains: ArrayLike | Tensor,
    weights: ArrayLike | Tensor,
    power_limits: ArrayLike | Tensor,
    noise_power: float,
    devices: ArrayLike | None,
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
        _ids(devices, magnitudes.size),
    )


def _ids(devices: ArrayLike | None, count: int) -> Ids:
    if devices is None:
        return np.arange(count)
    ids = np.asarray(devices)
    distinct = ids.shape == (count,) and ids.dtype.kind in "iu" and (ids >= 0).all() and np.unique(ids).size == count
    if not distinct:
        raise ValueError(f"devices is {devices!r}; accepted: {count} different ids >= 0, one per gain")
    return ids.astype(np.int64)


def _array(name: str, values: ArrayLike | Tensor) -> NDArray[Any]:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{name} has dtype {array.dtype}; accepted: numbers")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} is {array}; accepted: finite numbers")
    return array
