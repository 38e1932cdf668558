"""What rounds of Gaussian noise tell of a device: epsilon at a delta, by Rényi differential privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def epsilon_of(leak: float, delta: float) -> float:
    r"""Epsilon of a Gaussian mechanism of sensitivity over noise :math:`\mu = 1/z`.

    Its Rényi divergence of order :math:`\alpha` is :math:`\alpha\mu^2/2`; epsilon is the least that any order gives.

    Parameters
    ----------
    leak : float
        mu >= 0; infinite without noise.
    delta : float
        In (0, 1).

    Returns
    -------
    float
        0 where nothing is told, infinite where nothing is hidden.

    Raises
    ------
    ValueError
        A parameter outside the above.
    ImportError
        Without dp-accounting.

    References
    ----------
    I. Mironov, "Rényi differential privacy", CSF 2017; dp-accounting's ``RdpAccountant``.
    """
    _check_delta(delta)
    if math.isnan(leak) or leak < 0:
        raise ValueError(f"leak is {leak!r}; accepted: a number >= 0")
    if leak == 0 or math.isinf(leak):
        return leak
    library = _library()
    accountant = library.rdp.RdpAccountant(neighboring_relation=library.NeighboringRelation.REPLACE_SPECIAL)
    return float(accountant.compose(library.GaussianDpEvent(1.0 / leak)).get_epsilon(delta))


def needed_noise_multiplier(epsilon: float, delta: float, rounds: int) -> float:
    """Least noise over sensitivity of each of `rounds` equal rounds that keeps them all within epsilon.

    Raises
    ------
    ValueError
        An epsilon that is not finite and > 0, a delta outside (0, 1), or fewer rounds than one.
    ImportError
        Without dp-accounting.
    """
    _check_delta(delta)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon!r}; accepted: a finite number > 0")
    if rounds < 1:
        raise ValueError(f"rounds is {rounds!r}; accepted: an integer >= 1")
    library = _library()

    def accountant() -> Any:
        return library.rdp.RdpAccountant(neighboring_relation=library.NeighboringRelation.REPLACE_SPECIAL)

    def event(multiplier: float) -> Any:
        return library.SelfComposedDpEvent(library.GaussianDpEvent(multiplier), rounds)

    return float(library.calibrate_dp_mechanism(accountant, event, epsilon, delta))


class PrivacyAccountant:
    r"""What has been told of each device so far.

    Gaussian mechanisms of :math:`\mu_1, \mu_2, \dots` compose to one of :math:`\mu^2 = \sum_t \mu_t^2`. Devices take
    part in different rounds and are heard at different strengths, so each has its own; the run's epsilon is that of
    the device of which most is known.

    Parameters
    ----------
    delta : float
        In (0, 1).

    Raises
    ------
    ValueError
        A delta outside (0, 1).
    """

    def __init__(self, delta: float) -> None:
        _check_delta(delta)
        self.delta = delta
        self._told: dict[int, float] = {}

    def spend(self, devices: ArrayLike, leaks: ArrayLike) -> float:
        """Enter one exchange, in which each of the devices (K,) is heard at its mu (K,); epsilon of it alone."""
        values = np.asarray(leaks, dtype=np.float64)
        for device, leak in zip(np.asarray(devices).tolist(), values.tolist(), strict=True):
            self._told[device] = self._told.get(device, 0.0) + leak * leak
        return epsilon_of(float(values.max(initial=0.0)), self.delta)

    def epsilon(self) -> float:
        """Of all exchanges so far."""
        return epsilon_of(math.sqrt(max(self._told.values(), default=0.0)), self.delta)

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {str(device): told for device, told in self._told.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`."""
        self._told = {int(device): float(told) for device, told in state.items()}


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; accepted: a number > 0 and < 1")


def _library() -> Any:
    try:
        return import_module("dp_accounting")
    except ImportError as error:
        raise ImportError("accounting for privacy needs dp-accounting: pip install 'fedmac[privacy]'") from error
