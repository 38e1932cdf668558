"""A trained model with its calibration set: what every plan of it starts from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strategies.repurpose.layer_sweeps import losses
from strategies.repurpose.moments import moments_of
from strategies.repurpose.network import Network
from strategies.repurpose.owners import Real
from strategies.repurpose.ownership import ownership
from strategies.repurpose.plan_hash import hash_of_model
from strategies.repurpose.read_model import read_model
from strategies.repurpose.readable_layers import UnsupportedLayer

COMPARED = 8
"""Inputs on which the model read is compared with the model."""


@dataclass(frozen=True)
class Calibration:
    """Attributes
    ----------
    network : Network
        The model, read.
    inputs : Tensor
        Shape (N, ...).
    model_hash : str
        See :func:`~strategies.repurpose.plan_hash.hash_of_model`.
    losses : mapping of str to ndarray
        Of each layer that does not take the model's input, e_ji (:mod:`~strategies.repurpose.arrangement`).
    ridge : float
        Share of the mean variance of a layer's inputs that is added to each.
    """

    network: Network
    inputs: Tensor
    model_hash: str
    losses: Mapping[str, Real]
    ridge: float


def calibrate(model: nn.Module, calibration_inputs: Tensor, ridge: float = 1e-5) -> Calibration:
    """Read a model and run it over its calibration set.

    Parameters
    ----------
    model : torch.nn.Module
    calibration_inputs : Tensor
        Shape (N, ...), N >= 2, floating point.
    ridge : float
        > 0.

    Raises
    ------
    UnsupportedLayer
        If a layer cannot be split, or what is read of the model gives other outputs than the model.
    ValueError
        If the model does not take the inputs, or weights or what layers make of the inputs are not finite.
    """
    if not isinstance(calibration_inputs, Tensor):
        raise ValueError(f"calibration_inputs is a {type(calibration_inputs).__name__}; accepted: a torch.Tensor")
    if calibration_inputs.dim() < 2 or len(calibration_inputs) < 2 or not calibration_inputs.is_floating_point():
        raise ValueError(
            f"calibration_inputs of shape {tuple(calibration_inputs.shape)} and type {calibration_inputs.dtype}; "
            "accepted: floating point, (N, ...), N >= 2"
        )
    if not torch.isfinite(calibration_inputs).all():
        raise ValueError("calibration_inputs hold numbers that are not finite; accepted: finite numbers")
    if not 0 < ridge < math.inf:
        raise ValueError(f"ridge = {ridge!r}; accepted: a finite number > 0")
    with torch.no_grad():
        network = read_model(model, calibration_inputs)
        for name, own in network.weights.items():
            if not (torch.isfinite(own.weight).all() and torch.isfinite(own.bias).all()):
                raise ValueError(f"{name}: weights that are not finite; accepted: finite numbers")
        shared = ownership(network)
        values, found = network.values(calibration_inputs, len(network.steps)), {}
        for number, step in enumerate(network.steps, start=1):
            if not torch.isfinite(values[number]).all():
                raise ValueError(f"{step.name}: its outputs are not finite; accepted: inputs of which they are")
        _check_outputs(model, calibration_inputs[:COMPARED], values[-1][:COMPARED])
        for step in network.layers:
            if not shared.everywhere(shared.before(step)):
                moments = moments_of(network, step, values[step.sources[0]], ridge)
                found[step.name] = losses(network.matrix(step), moments)
    return Calibration(network, calibration_inputs, hash_of_model(model), found, ridge)


def _check_outputs(model: nn.Module, inputs: Tensor, read: Tensor) -> None:
    """Refuse a model of which something was read in another way than it is meant."""
    was_training = model.training
    try:
        own = model.eval()(inputs)
    finally:
        model.train(was_training)
    # sums in another order and folded batch norm differ by roundings, far below the root of one
    allowed = math.sqrt(torch.finfo(own.dtype).eps) * float(own.abs().max())
    if read.shape != own.shape or not (difference := float((read - own).abs().max())) <= allowed:
        how = f"shape {tuple(read.shape)}" if read.shape != own.shape else f"a difference of {difference:.3g}"
        raise UnsupportedLayer(
            f"model {type(model).__name__}: as it is read it gives other outputs, of {how} from those of shape "
            f"{tuple(own.shape)} and size {float(own.abs().max()):.3g}; accepted: a difference of {allowed:.3g}"
        )
