"""Devices trained in one computation get the updates that they get alone, whatever they have and however they train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clients.batched_training import COPIES, BatchedTrainer, CannotBatch, largest_batch
from clients.data import Split
from clients.losses import CROSS_ENTROPY, RECONSTRUCTION, Loss
from clients.models import build
from clients.training import Trainer, Training

torch.set_num_threads(1)  # small products: threads would only wait for each other

COUNTS = (8, 20, 11, 3, 20)  # no mini-batch below is of one row, over which nothing can be normalised
NAMES = (5, 0, 12, 3, 9)
"""Numbers of the devices: they name the order of mini-batches, and need not be their places in the batch."""


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().double()


def normalised() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(9, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)))


def batch_normalised() -> nn.Module:
    """Normalised over the rows of a batch, without running statistics: rows are not independent."""
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return seeded(lambda: nn.Sequential(nn.Linear(9, 4), norm, nn.Linear(4, 3)))


def partly_frozen() -> nn.Module:
    model = normalised()
    next(model.children()).requires_grad_(False)
    return model


def without_bias() -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(9, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)))


class Scaled(nn.Module):
    """With a parameter that has no dimension, read before the layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.layer = nn.Linear(9, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.scale * self.layer(inputs)
        return outputs


def named(name: str, **parameters: Any) -> Callable[[], nn.Module]:
    return lambda: build(name, (9,), 3, dtype=torch.float64, seed=1, **parameters)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax": named("softmax"),
    "mlp": named("mlp", hidden=(6, 4)),
    "without bias": without_bias,
    "tanh": named("mlp", hidden=(4,), activation="tanh"),
    "cnn": named("cnn", channels=(2,), hidden=4),
    "layer norm": normalised,
    "batch norm": batch_normalised,
    "frozen": partly_frozen,
    "a scalar": lambda: seeded(Scaled),
}
TRAININGS = {
    "epochs": Training(0.2, local_epochs=2, batch_size=8),
    "full batch": Training(0.2, full_batch=True, local_steps=3),
    "batches": Training(0.2, local_batches=4, batch_size=6),
    "l2": Training(0.2, batch_size=4, l2=0.3),
    "momentum": Training(0.1, local_epochs=2, batch_size=8, momentum=0.9),
    "proximal": Training(0.2, local_epochs=2, batch_size=8, proximal_mu=0.7),
    "all of them": Training(0.1, local_epochs=3, batch_size=9, momentum=0.5, proximal_mu=0.7, l2=0.3),
}


def splits(
    counts: Sequence[int] = COUNTS, shape: tuple[int, ...] = (9,), dtype: torch.dtype = torch.float64
) -> list[Split]:
    draws = torch.Generator().manual_seed(1)
    inputs = [torch.randn(n, *shape, generator=draws, dtype=torch.float64).to(dtype) for n in counts]
    return [Split(x, torch.randint(3, (len(x),), generator=draws)) for x in inputs]


def alone(
    model: nn.Module, rows: Sequence[Split], training: Training, names: Sequence[int], loss: Loss = CROSS_ENTROPY
) -> tuple[Tensor, list[float]]:
    """The trained states and losses, one device after the other."""
    trainer = Trainer(model, loss=loss)
    received = start(trainer)
    states, losses = [], []
    for split, device in zip(rows, names, strict=True):
        state, value = trainer.train(received, split, training, seed=4, round=2, device=device)
        states.append(state.clone())
        losses.append(value)
    return torch.stack(states), losses


def start(trainer: Trainer) -> Tensor:
    """A point that is not where the model itself is."""
    return trainer.state + torch.linspace(-0.3, 0.3, trainer.size).to(trainer.state)


def together(
    model: nn.Module, rows: Sequence[Split], training: Training, names: Sequence[int], loss: Loss = CROSS_ENTROPY
) -> tuple[Tensor, list[float]]:
    trainer = Trainer(model, loss=loss)
    received = start(trainer)
    return BatchedTrainer(trainer).train(received, rows, training, seed=4, round=2, devices=names)


# float64: the same products of at most 20 rows, perhaps added up in another order, over at most 9 steps.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS.keys())
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_batch_of_devices_trains_as_each_does_alone(make: Callable[[], nn.Module], training: Training) -> None:
    model = make()
    expected, losses = alone(copy.deepcopy(model), splits(), training, NAMES)
    states, found = together(model, splits(), training, NAMES)
    torch.testing.assert_close(states, expected, **CLOSE)
    assert found == pytest.approx(losses, rel=1e-10)
    moved = (expected - expected[0]).norm(dim=1)
    assert bool((moved[1:] > 1e-3).all())  # the devices differ, so that one in another's place would show


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 17), min_size=1, max_size=6),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    batches=st.none() | st.integers(1, 8),
    name=st.sampled_from(["mlp", "tanh"]),
)
def test_any_numbers_of_examples_and_steps_do(
    counts: list[int], batch_size: int, epochs: int, batches: int | None, name: str
) -> None:
    training = Training(0.1, local_epochs=epochs, local_batches=batches, batch_size=batch_size)
    model, rows, names = MODELS[name](), splits(counts), range(len(counts))
    expected, losses = alone(copy.deepcopy(model), rows, training, names)
    states, found = together(model, rows, training, names)
    torch.testing.assert_close(states, expected, **CLOSE)
    assert found == pytest.approx(losses, rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "tanh"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_how_many_devices_are_in_a_batch_does_not_matter(name: str, size: int) -> None:
    model, rows = MODELS[name](), splits()
    everyone, losses = together(copy.deepcopy(model), rows, TRAININGS["epochs"], NAMES)
    parts = [
        together(copy.deepcopy(model), rows[i : i + size], TRAININGS["epochs"], NAMES[i : i + size])
        for i in range(0, len(rows), size)
    ]
    torch.testing.assert_close(torch.cat([states for states, _ in parts]), everyone, **CLOSE)
    assert [value for _, part in parts for value in part] == pytest.approx(losses, rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_images_of_any_shape_are_taken_as_they_are(name: str) -> None:
    shape, parameters = {"mlp": ((1, 3, 3), {"hidden": (4,)}), "cnn": ((3, 3), {"channels": (2,), "hidden": 4})}[name]
    model = build(name, shape, 3, dtype=torch.float64, **parameters)
    rows = splits(shape=shape)
    expected, _ = alone(copy.deepcopy(model), rows, TRAININGS["epochs"], NAMES)
    states, _ = together(model, rows, TRAININGS["epochs"], NAMES)
    torch.testing.assert_close(states, expected, **CLOSE)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_reconstruction_is_lowered_in_batches_too(momentum: float) -> None:
    model = build("autoencoder", (9,), 3, hidden=(4, 2), dtype=torch.float64)
    rows = [Split(split.inputs, split.inputs) for split in splits()]
    training = Training(0.05, local_epochs=2, batch_size=8, momentum=momentum)
    expected, losses = alone(copy.deepcopy(model), rows, training, NAMES, RECONSTRUCTION)
    states, found = together(model, rows, training, NAMES, RECONSTRUCTION)
    torch.testing.assert_close(states, expected, **CLOSE)
    assert found == pytest.approx(losses, rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "tanh", "cnn"])
def test_all_arithmetic_is_in_the_models_precision(name: str) -> None:
    model, rows = MODELS[name]().float(), splits(dtype=torch.float32)
    expected, losses = alone(copy.deepcopy(model), rows, TRAININGS["epochs"], NAMES)
    states, found = together(model, rows, TRAININGS["epochs"], NAMES)
    assert states.dtype == torch.float32
    # float32 rounds at 6e-8; entries are of order one, and a few steps carry roundings on.
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-6)
    assert found == pytest.approx(losses, rel=1e-5)


def test_a_device_that_diverges_leaves_the_others_alone() -> None:
    rows = splits()
    rows[1].inputs[4] = torch.inf
    for name in ("mlp", "tanh", "cnn"):
        states, losses = together(MODELS[name](), rows, TRAININGS["epochs"], NAMES)
        finite = [bool(states[i].isfinite().all()) for i in range(len(rows))]
        assert finite == [True, False, True, True, True]
        assert [loss == loss for loss in losses] == finite


def test_the_received_model_and_earlier_results_stay_as_they_are() -> None:
    trainer = Trainer(MODELS["mlp"]())
    received, batched = start(trainer), BatchedTrainer(trainer)
    kept = received.clone()
    first, _ = batched.train(received, splits(), TRAININGS["epochs"], seed=0, round=1, devices=NAMES)
    copied = first.clone()
    batched.train(received, splits(), TRAININGS["epochs"], seed=0, round=2, devices=NAMES)
    assert torch.equal(received, kept)
    assert torch.equal(first, copied)


def test_a_model_with_running_statistics_is_refused() -> None:
    model = nn.Sequential(nn.Linear(9, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    with pytest.raises(CannotBatch, match=r"buffer '1\.running_mean'"):
        together(model, splits(), TRAININGS["epochs"], NAMES)


def test_mixed_precision_is_refused() -> None:
    trainer = Trainer(MODELS["mlp"]())
    trainer.autocast = torch.bfloat16
    with pytest.raises(CannotBatch, match=r"autocast = torch\.bfloat16"):
        BatchedTrainer(trainer).train(trainer.state, splits(), TRAININGS["epochs"], seed=0, round=1, devices=NAMES)


def test_layers_that_draw_are_not_batched_with_other_draws() -> None:
    """Their numbers could not be those that each device draws alone."""
    model = nn.Sequential(nn.Linear(9, 4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    with pytest.raises(RuntimeError, match="random"):
        together(model, splits(), TRAININGS["epochs"], NAMES)


def test_a_parameter_without_a_gradient_is_an_error_as_it_is_alone() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(9, 3), nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.used(inputs)
            return outputs

    for train in (alone, together):
        with pytest.raises(RuntimeError, match="not have been used"):
            train(Unused().double(), splits(), TRAININGS["epochs"], NAMES)


def test_a_device_without_examples_is_named() -> None:
    with pytest.raises(ValueError, match=r"device = 12: no examples; accepted: at least one"):
        together(MODELS["mlp"](), splits((8, 20, 0, 3, 20)), TRAININGS["epochs"], NAMES)


def test_a_batch_is_as_large_as_memory_and_the_limit_allow() -> None:
    a_device = COPIES * 1000 * 4
    assert [largest_batch(1000, 4, memory, most=8) for memory in (0, a_device, 5 * a_device + 1, 10**9)] == [1, 1, 5, 8]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS.keys())
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_batch_on_a_gpu_trains_as_one_by_one_on_the_cpu(make: Callable[[], nn.Module], training: Training) -> None:
    model = make()
    expected, losses = alone(copy.deepcopy(model), splits(), training, NAMES)
    trainer = Trainer(model, "cuda")
    received = start(trainer)
    states, found = BatchedTrainer(trainer).train(received, splits(), training, seed=4, round=2, devices=NAMES)
    # the same batches in float64; sums may be taken in another order
    torch.testing.assert_close(states, expected, rtol=1e-9, atol=1e-12)
    assert found == pytest.approx(losses, rel=1e-9)
