"""A PyTorch model's state as one flat vector, so that a device's work costs two copies beside its gradient steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def flat_state(model: nn.Module) -> Tensor:
    """Move a model's floating-point state into one flat vector and return it.

    Afterwards the model's parameters and buffers are views of the vector: writing to the one changes the other, so a
    model is loaded with a single copy.

    Parameters
    ----------
    model : nn.Module
        Changed in place.

    Returns
    -------
    Tensor of shape (d,)
        In the order of ``model.state_dict()``.

    Raises
    ------
    ValueError
        If the state mixes dtypes, or two names share one tensor (tied weights).
    """
    state = {name: t for name, t in model.state_dict(keep_vars=True).items() if t.is_floating_point()}
    dtypes = {t.dtype for t in state.values()}
    if len(dtypes) != 1:
        raise ValueError(f"model: expected one floating-point dtype, found {sorted(map(str, dtypes)) or 'none'}")
    if len({id(t) for t in state.values()}) != len(state):
        raise ValueError("model: two names share one tensor (tied weights); give each its own tensor")
    flat = torch.cat([t.detach().reshape(-1) for t in state.values()])
    offset = 0
    for tensor in state.values():
        tensor.data = flat[offset : offset + tensor.numel()].view(tensor.shape)
        offset += tensor.numel()
    return flat


def model_arrays(model: nn.Module) -> dict[str, NDArray[np.generic]]:
    """A model's state as named NumPy arrays (copies)."""
    return {name: t.detach().cpu().numpy().copy() for name, t in model.state_dict().items()}


def load_arrays(model: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Load named NumPy arrays into a model; names and shapes must match exactly."""
    model.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
