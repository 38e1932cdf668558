r"""The error of nested dithered quantisation in closed form, entry by entry.

In units of the fine step, with :math:`a = \alpha z`, what the receiver unwraps is a + e, e uniform on [-1/2, 1/2]; it
finds :math:`a + e - \rho k`, :math:`k = \mathrm{rint}((a + e)/\rho)`, and the entry wraps if k is not 0. All functions
take z = x - y and the steps, of one shape and in the same units, and give zeros where a step is zero: all of a bucket
is, and the receiver knows it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def error_without_wraps(z: Tensor, steps: Tensor, alpha: float) -> Tensor:
    r""":math:`(1-\alpha^2)^2 z^2 + \alpha^2 \Delta_1^2/12`, the mean squared error if k = 0."""
    return torch.where(steps > 0, (1 - alpha**2) ** 2 * z.square() + alpha**2 * steps.square() / 12, 0.0)


def error_with_wraps(z: Tensor, steps: Tensor, alpha: float, ratio: int) -> Tensor:
    r"""The mean squared error over the dither, whatever k is.

    In units of the step, the mean over e of :math:`[-(1-\alpha^2) z + \alpha (e - \rho k)]^2`. As e moves over its
    interval k takes at most two values, and changes at one e.
    """
    z = z / where_positive(steps)
    a = alpha * z
    below, above = ((a - 0.5) / ratio).round_(), ((a + 0.5) / ratio).round_()
    turn = torch.where(below < above, ratio * (below + 0.5) - a, 0.5).clamp_(-0.5, 0.5)
    errors = torch.zeros_like(z)
    for k, first, last in ((below, torch.full_like(turn, -0.5), turn), (above, turn, torch.full_like(turn, 0.5))):
        c = (alpha**2 - 1) * z - alpha * ratio * k
        errors += c.square() * (last - first) + c * alpha * (last**2 - first**2) + alpha**2 * (last**3 - first**3) / 3
    return torch.where(steps > 0, errors * steps.square(), 0.0)


def wrap_chance(z: Tensor, steps: Tensor, alpha: float, ratio: int) -> Tensor:
    r"""Probability over the dither that an entry wraps: :math:`|a| + 1/2 - \rho/2`, and 0 or 1 beyond these."""
    chance = (alpha * z.abs() / where_positive(steps) + (1 - ratio) / 2).clamp_(0, 1)
    return torch.where(steps > 0, chance, 0.0)


def where_positive(steps: Tensor) -> Tensor:
    """Steps to divide by: 1 in place of 0."""
    return torch.where(steps > 0, steps, 1.0)
