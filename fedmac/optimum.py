"""The least value of a scenario's objective, to measure objective gaps from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.objective import Operator
from fedmac.build import rehearse
from fedmac.build_devices import build_workplace
from fedmac.scenario import Scenario

Array = NDArray[np.float64]

ITERATIONS = 20_000
"""Most iterations of L-BFGS; Newton-CG then needs some tens."""


@dataclass(frozen=True)
class Optimum:
    """Where the search ended.

    Attributes
    ----------
    objective : float
        f there.
    gradient_norm : float
        What is left of its gradient: by strong convexity f is within ``gradient_norm² / (2 l2)`` of the least value.
    variants : tuple of str
        The variants of the scenario that have this objective.
    """

    objective: float
    gradient_norm: float
    variants: tuple[str, ...]


def optimum(
    source: str | Path | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | None = None
) -> list[Optimum]:
    r"""The least value of :math:`f = \frac1m \sum_i f_i` over all models, by pooling the devices' data.

    L-BFGS from the initial model, then Newton-CG (both SciPy's), in float64. For a convex objective this is the least
    value; for any other a value at which the gradient vanishes, found from that start.

    Parameters
    ----------
    source, overrides
        A scenario and keys to set in it, see :meth:`fedmac.Scenario.load`.

    Returns
    -------
    list of Optimum
        One for each objective that the scenario's variants have: those of equal data, model, l2 and loss share one.

    Raises
    ------
    ScenarioError
        If the scenario is invalid.
    """
    scenario = Scenario.load(source, {"training.dtype": "float64"} | dict(overrides or {}))
    rehearse(scenario)
    names: dict[str, list[str]] = {}
    chosen: dict[str, Scenario] = {}
    for variant in scenario.resolve():
        key = _what_is_minimised(variant.scenario)
        names.setdefault(key, []).append(variant.name)
        chosen.setdefault(key, variant.scenario)
    return [_search(chosen[key], tuple(variants)) for key, variants in names.items()]


def _what_is_minimised(scenario: Scenario) -> str:
    training = scenario.training.model_dump(include={"l2", "loss"})
    return repr((scenario.seed, scenario.data.model_dump(), scenario.model.model_dump(), training))


def _search(scenario: Scenario, variants: tuple[str, ...]) -> Optimum:
    from scipy import optimize

    minimize: Callable[..., Any] = optimize.minimize  # its stub has no overload for a product without a Hessian
    f = _OfArrays(scenario)
    options = {"maxiter": ITERATIONS, "maxfun": 2 * ITERATIONS, "maxcor": 50, "ftol": 0.0, "gtol": 1e-6}
    near = minimize(f.value_and_gradient, f.start, jac=True, method="L-BFGS-B", options=options)
    there = minimize(
        f.value_and_gradient, near.x, jac=True, hessp=f.product, method="Newton-CG", options={"xtol": 1e-10}
    )
    best = min((near, there), key=lambda found: float(np.linalg.norm(found.jac)))
    return Optimum(float(best.fun), float(np.linalg.norm(best.jac)), variants)


class _OfArrays:
    """The mean objective of a scenario's devices as SciPy calls it."""

    def __init__(self, scenario: Scenario) -> None:
        workplace = build_workplace(scenario, scenario.seed)
        self.objective = workplace.mean_objective()
        self.device = workplace.trainer.device
        self.start: Array = workplace.trainer.state.cpu().numpy().copy()
        self._at: Array | None = None
        self._hessian: Operator | None = None

    def value_and_gradient(self, w: Array) -> tuple[float, Array]:
        value, gradient = self.objective.value_and_gradient(self._tensor(w))
        return value, gradient.cpu().numpy()

    def product(self, w: Array, v: Array) -> Array:
        """H(w) v; Newton-CG asks for many at one w."""
        if self._hessian is None or self._at is None or not np.array_equal(self._at, w):
            self._at, self._hessian = w.copy(), self.objective.hessian(self._tensor(w))
        product: Array = self._hessian(self._tensor(v)).cpu().numpy()
        return product

    def _tensor(self, array: Array) -> torch.Tensor:
        return torch.from_numpy(array.copy()).to(self.device)
