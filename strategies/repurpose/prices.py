"""What sending a unit costs in the objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from strategies.repurpose.network import Network, Step
from strategies.repurpose.owners import EVERYWHERE, Owners, Real
from strategies.repurpose.workers import Links


@dataclass(frozen=True)
class Prices:
    """Lambda of the layer, times the numbers in a unit, times the link's relative cost.

    Parameters
    ----------
    network : Network
    communication_cost : float or mapping of str to float
        lambda_x, of all layers or by name.
    links : Links
    """

    network: Network
    communication_cost: float | Mapping[str, float]
    links: Links

    def __post_init__(self) -> None:
        given = self.communication_cost
        names = [step.name for step in self.network.layers]
        for name, value in given.items() if isinstance(given, Mapping) else [("", given)]:
            if name and name not in names:
                raise ValueError(f"communication_cost: no layer {name!r}; accepted: {', '.join(names)}")
            if not 0 <= value < math.inf:
                raise ValueError(f"communication_cost = {value!r}; accepted: a finite number >= 0")

    @property
    def free(self) -> bool:
        """Whether sending costs nothing at all."""
        given = self.communication_cost
        return not any(given.values()) if isinstance(given, Mapping) else not given

    def of(self, step: Step, owners: Owners) -> Real:
        """Prices of the units that a step takes, shape (units, P)."""
        cost = self.links.relative_cost()
        given = self.communication_cost
        value = given.get(step.name, 0.0) if isinstance(given, Mapping) else given
        price = value * self.network.elements(step.sources[0]) * cost[owners]
        return np.where(owners[:, None] == EVERYWHERE, 0.0, price)

    def bound_to(self, step: Step) -> Callable[[Owners], Real]:
        """Prices of a step as a function of the owners."""
        return lambda owners: self.of(step, owners)
