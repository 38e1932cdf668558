"""How a plan is made: what sending is charged by, what may be chosen, and for how long it is looked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from strategies.repurpose.arrangement import Penalty

PENALTIES = ("group", "edge")


@dataclass(frozen=True)
class Method:
    """Choices of :func:`~strategies.repurpose.restructure.repurpose`.

    Parameters
    ----------
    penalty : {"group", "edge"}
        Whether an activation is paid once for a worker, or once for each neuron that uses it.
    edge_cost : float
        lambda_in >= 0, what an edge inside a worker costs: owners are chosen with it, and edges that cost more than
        their loss are dropped.
    sweeps : int
        At most, for the arrangement of all layers and for each layer.
    refitted : bool
        Whether weights are refitted; without, they are cut only.
    arranged : bool
        Whether owners are chosen; without, units are dealt out in their order.

    Raises
    ------
    ValueError
        If one is not accepted.
    """

    penalty: Penalty = "group"
    edge_cost: float = 0.0
    sweeps: int = 12
    refitted: bool = True
    arranged: bool = True

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise ValueError(f"penalty = {self.penalty!r}; accepted: {', '.join(PENALTIES)}")
        if not 0 <= self.edge_cost < math.inf:
            raise ValueError(f"edge_cost = {self.edge_cost!r}; accepted: a finite number >= 0")
        if self.sweeps < 1:
            raise ValueError(f"sweeps = {self.sweeps!r}; accepted: a whole number >= 1")


USUAL = Method()
