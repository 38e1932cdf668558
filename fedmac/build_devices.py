"""From a scenario to what its devices work with: data, model and training.

Apart from the rest of :mod:`fedmac.build`, because a device's process, which a deployment starts anew for every
message, needs no more than this and must not wait for more to be imported.
"""

from __future__ import annotations

import torch

from clients.app import Workplace
from clients.data import FederatedData, load
from clients.losses import LOSSES
from clients.models import build as build_named_model
from clients.training import Trainer, Training, compute_device
from fedmac.build_defences import build_attack
from fedmac.scenario import Scenario


def build_data(scenario: Scenario, seed: int) -> FederatedData:
    """The scenario's data, split and handed out to its devices by `seed`."""
    d = scenario.data
    return load(
        d.source,
        devices=d.devices,
        partition=d.partition,
        test_fraction=d.test_fraction,
        validation_fraction=d.validation_fraction,
        shuffle_seed=d.shuffle_seed,
        seed=seed,
        alpha=d.alpha,
        shards=d.shards,
        column=d.column,
        samples_per_device=d.samples_per_device,
        dtype=dtype_of(scenario),
    ).grouped()


def build_model(scenario: Scenario, data: FederatedData, seed: int) -> torch.nn.Module:
    """The scenario's model, initialised by `seed`."""
    return build_named_model(
        scenario.model.name,
        data.input_shape,
        data.num_classes,
        seed=seed,
        init=scenario.model.init,
        dtype=dtype_of(scenario),
        **scenario.model.parameters,
    )


def build_workplace(scenario: Scenario, seed: int, data: FederatedData | None = None) -> Workplace:
    """Model, data and training of the scenario's devices; with `data` of the one whose rows these are."""
    data = build_data(scenario, seed) if data is None else data
    t = scenario.training
    loss = LOSSES[t.loss]
    training = Training(
        learning_rate=t.learning_rate or 0.0,
        full_batch=t.full_batch,
        local_steps=t.local_steps or 1,
        local_epochs=t.local_epochs or 1,
        local_batches=t.local_batches,
        batch_size=t.batch_size or 32,
        warm_up=t.warm_up,
        momentum=t.momentum,
        l2=t.l2,
        clip_norm=t.clip_norm,
    )
    trainer = Trainer(build_model(scenario, data, seed), compute_device(t.device), loss)
    data = data if loss.of_classes else data.with_inputs_as_targets()
    return Workplace(trainer, data, training, seed, build_attack(scenario, seed))


def dtype_of(scenario: Scenario) -> torch.dtype:
    """The floating-point type of the scenario's inputs and model."""
    return torch.float64 if scenario.training.dtype == "float64" else torch.float32
