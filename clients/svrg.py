"""Stochastic variance-reduced gradient steps on a device's part of a shared problem."""

from __future__ import annotations

import torch
from torch import Tensor

from clients.objective import Objective


def svrg(
    objective: Objective,
    w: Tensor,
    slope: Tensor,
    *,
    proximity: float,
    step_size: float,
    steps: int,
    draws: torch.Generator,
) -> Tensor:
    r"""Some steps towards the minimiser of a device's objective whose slope at w is replaced by a given one.

    .. math:: \min_u\; f_i(u) - \langle \nabla f_i(w) - s, u \rangle + \frac{\kappa}{2} \|u - w\|^2

    (DANE's local problem) from u = w by SVRG with w as its only reference point: with a row j drawn uniformly,

    .. math:: u \leftarrow u - \mathrm{step} \left( \nabla \ell_j(u) - \nabla \ell_j(w) + s + \kappa (u - w) \right).

    Each :math:`\ell_j` holds the whole L2 term, so that their mean is f_i.

    Parameters
    ----------
    objective : Objective
        f_i.
    w, slope : Tensor of shape (d,)
        Where the steps begin, and s.
    proximity : float
        kappa >= 0.
    step_size : float
        Size of each step.
    steps : int
        Their number, each two gradients of one row.
    draws : torch.Generator
        Draws the rows.

    Returns
    -------
    Tensor of shape (d,)
        u - w after the last step; not finite if the steps were too large.

    Notes
    -----
    R. Johnson, T. Zhang, "Accelerating stochastic gradient descent using predictive variance reduction", NIPS 2013.
    """
    change = torch.zeros_like(w)
    for row in torch.randint(objective.rows, (steps, 1), generator=draws):
        sample = objective.on_rows(row)
        direction = sample.value_and_gradient(w + change)[1] - sample.value_and_gradient(w)[1] + slope
        change = change - step_size * direction.add_(change, alpha=proximity)
    return change
