"""Clipping: what a device sends is never larger than it was told."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def clip_to_norm(update: Tensor, limit: float) -> Tensor:
    r"""The update, scaled down to the limit if its norm is beyond: :math:`x \min(1, C/\|x\|)`.

    The counterpart of a power limit: a device's pull on the mean is at most its weight times C, and so is what the
    mean tells of it.

    Parameters
    ----------
    update : Tensor of shape (d,)
        x; an update within the limit comes back as it is, not a copy.
    limit : float
        C > 0.

    Returns
    -------
    Tensor of shape (d,)

    Raises
    ------
    ValueError
        A limit that is not a finite number > 0.
    """
    if not 0 < limit < math.inf:
        raise ValueError(f"limit is {limit!r}; accepted: a finite number > 0")
    norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
    return update if norm <= limit or not math.isfinite(norm) else update * (limit / norm)
