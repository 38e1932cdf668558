"""What all devices minimise together: the mean of their objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clients.objective import Objective, Operator


class MeanObjective:
    r""":math:`f(w) = \frac1m \sum_i f_i(w)`, the plain mean over the devices, as second-order strategies take it.

    For whoever has all devices' data at hand: to watch a run, or to find the optimum that runs are held to. With
    parts of equal size it is the objective of the pooled rows.

    Parameters
    ----------
    objectives : sequence of Objective
        f_i, of the same model; at least one.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        if not objectives:
            raise ValueError("objectives: none given; accepted: one for each device, at least one")
        self.objectives = tuple(objectives)

    @property
    def size(self) -> int:
        """d, the length of w."""
        return self.objectives[0].size

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """f(w) and its gradient of shape (d,)."""
        values, total = [], torch.zeros_like(w)
        for objective in self.objectives:
            value, gradient = objective.value_and_gradient(w)
            values.append(value)
            total += gradient
        return math.fsum(values) / len(values), total / len(values)

    def hessian(self, w: Tensor) -> Operator:
        r"""The operator :math:`v \mapsto \nabla^2 f(w)\, v`."""
        products = [objective.hessian(w) for objective in self.objectives]

        def mean(v: Tensor) -> Tensor:
            total = products[0](v)
            for product in products[1:]:
                total += product(v)
            return total.div_(len(products))

        return mean
