"""Training: the steps are those of the textbook, and only names decide the draws."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.data import Split
from clients.losses import RECONSTRUCTION
from clients.models import build
from clients.parameters import flat_state, load_arrays, model_arrays
from clients.training import Trainer, Training, compute_device

torch.set_num_threads(1)  # small products: threads would only wait for each other

Factory = Callable[[], nn.Module]


def network() -> nn.Module:
    """What the trainer writes out by hand: linear, ReLU, linear."""
    return build("mlp", (5,), 3, hidden=(4,), dtype=torch.float64)


def linear() -> nn.Module:
    model = build("softmax", (5,), 3, dtype=torch.float64)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(
                torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).sin().view_as(parameter) + number
            )
    return model


def curved() -> nn.Sequential:
    """What it leaves to automatic differentiation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)).double()


MODELS: dict[str, Factory] = {"mlp": network, "softmax": linear, "tanh": curved}
every_model = pytest.mark.parametrize("factory", MODELS.values(), ids=MODELS.keys())


def examples(count: int = 21, dtype: torch.dtype = torch.float64) -> Split:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, 5, generator=generator, dtype=torch.float64).to(dtype)
    return Split(inputs, torch.randint(0, 3, (count,), generator=generator))


def trained(factory: Factory, training: Training) -> tuple[Tensor, Tensor, float]:
    """Received state, trained state and loss of one device."""
    trainer = Trainer(factory())
    received = trainer.state.clone()
    state, loss = trainer.train(received, examples(), training, seed=0, round=1, device=0)
    return received, state.clone(), loss


def gradient(model: nn.Module, data: Split) -> Tensor:
    """Of the mean cross-entropy, by automatic differentiation."""
    loss = functional.cross_entropy(model(data.inputs), data.targets)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def vector(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


# Float64 throughout: references differ by rounding of sums of 21 terms, far below 1e-12.
def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@every_model
def test_a_full_batch_step_is_the_gradient_times_the_rate(factory: Factory) -> None:
    received, state, loss = trained(factory, Training(learning_rate=0.3, full_batch=True))
    model, data = factory(), examples()
    assert_same(received, vector(model))
    assert_same(state - received, -0.3 * gradient(model, data))
    assert loss == pytest.approx(functional.cross_entropy(model(data.inputs), data.targets).item(), rel=1e-12)


@every_model
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_steps_are_those_of_torch_sgd(factory: Factory, momentum: float, l2: float) -> None:
    """Weight decay is the gradient of (l2/2)||w||^2."""
    training = Training(learning_rate=0.2, full_batch=True, local_steps=5, momentum=momentum, l2=l2)
    _, state, loss = trained(factory, training)
    model, data = factory(), examples()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum, weight_decay=l2)
    losses = []
    for _ in range(5):
        optimiser.zero_grad()
        value = functional.cross_entropy(model(data.inputs), data.targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(value.item())
    assert_same(state, vector(model))
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)


@every_model
def test_the_proximal_term_pulls_back_to_the_received_model(factory: Factory) -> None:
    _, state, _ = trained(factory, Training(learning_rate=0.2, full_batch=True, local_steps=3, proximal_mu=0.7))
    model, data = factory(), examples()
    anchor, reference = vector(model), Trainer(model)
    for _ in range(3):
        step = gradient(reference.model, data) + 0.7 * (reference.state - anchor)
        reference.state -= 0.2 * step
    assert_same(state, reference.state)


@every_model
def test_the_l2_and_proximal_terms_are_not_part_of_the_reported_loss(factory: Factory) -> None:
    plain = trained(factory, Training(learning_rate=0.2, full_batch=True))
    with_terms = trained(factory, Training(learning_rate=0.2, full_batch=True, l2=3.0, proximal_mu=3.0))
    assert with_terms[2] == pytest.approx(plain[2], rel=1e-12)


class Recorder(nn.Module):
    """Notes the first feature of every example it sees, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3).double()
        self.seen: list[list[float]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x[:, 0].tolist())
        out: Tensor = self.layer(x)
        return out


def seen_by(training: Training, **names: int) -> list[list[float]]:
    model = Recorder()
    trainer = Trainer(model)
    trainer.train(trainer.state.clone(), examples(), training, **{"seed": 0, "round": 1, "device": 0, **names})
    return model.seen


def test_each_epoch_visits_each_row_once() -> None:
    seen = seen_by(Training(learning_rate=0.1, local_epochs=3, batch_size=8))
    assert [len(batch) for batch in seen] == [8, 8, 5] * 3
    rows = sorted(examples().inputs[:, 0].tolist())
    epochs = [[row for batch in seen[first : first + 3] for row in batch] for first in (0, 3, 6)]
    assert all(sorted(epoch) == rows for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_full_batch_is_all_rows_in_every_step() -> None:
    assert (
        seen_by(Training(learning_rate=0.1, full_batch=True, local_steps=2)) == [examples().inputs[:, 0].tolist()] * 2
    )


def test_seed_round_and_device_name_the_order_of_batches() -> None:
    training = Training(learning_rate=0.1, batch_size=8)
    first = seen_by(training)
    torch.rand(11)
    assert seen_by(training) == first
    for names in ({"seed": 1}, {"round": 2}, {"device": 1}):
        assert seen_by(training, **names) != first


@every_model
def test_mini_batch_steps_follow_the_same_rule(factory: Factory) -> None:
    """The same batches, one after the other, through autograd."""
    training = Training(learning_rate=0.2, local_epochs=2, batch_size=8)
    _, state, loss = trained(factory, training)
    model, data = factory(), examples()
    by_first = {float(x[0]): row for row, x in enumerate(data.inputs)}
    reference = Trainer(model)
    losses = 0.0
    for batch in seen_by(training):
        rows = torch.tensor([by_first[value] for value in batch])
        part = Split(data.inputs[rows], data.targets[rows])
        losses += functional.cross_entropy(model(part.inputs), part.targets).item() * len(rows)
        reference.state -= 0.2 * gradient(model, part)
    assert_same(state, reference.state)
    assert loss == pytest.approx(losses / (2 * len(data)), rel=1e-12)


@every_model
def test_momentum_is_forgotten_between_devices(factory: Factory) -> None:
    training = Training(learning_rate=0.2, full_batch=True, local_steps=3, momentum=0.9)
    trainer = Trainer(factory())
    received, data = trainer.state.clone(), examples()
    first = trainer.train(received, data, training, seed=0, round=1, device=0)[0].clone()
    second = trainer.train(received, data, training, seed=0, round=2, device=1)[0]
    assert torch.equal(first, second)


def test_all_arithmetic_is_in_the_models_precision() -> None:
    _, double, _ = trained(network, Training(learning_rate=0.3, full_batch=True, local_steps=4))
    single = Trainer(build("mlp", (5,), 3, hidden=(4,)))
    state, _ = single.train(
        single.state.clone(), examples(dtype=torch.float32),
        Training(learning_rate=0.3, full_batch=True, local_steps=4), seed=0, round=1, device=0,
    )  # fmt: skip
    assert double.dtype == torch.float64
    assert state.dtype == torch.float32
    torch.testing.assert_close(state.double(), double, rtol=0, atol=1e-5)  # float32 rounding of four steps


def test_a_rate_of_nothing_moves_nothing() -> None:
    received, state, _ = trained(network, Training(learning_rate=1e-320, local_epochs=2, batch_size=4))
    assert torch.equal(received, state)


@every_model
@pytest.mark.parametrize("batch_size", [4, 2048])
def test_evaluation_is_mean_cross_entropy_and_the_fraction_of_right_answers(factory: Factory, batch_size: int) -> None:
    model, data = factory(), examples(50)
    result = Trainer(factory()).evaluate(vector(model), data, batch_size)
    logits = model(data.inputs).detach().numpy()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    assert result.loss == pytest.approx(-log_probability[np.arange(50), data.targets.numpy()].mean(), rel=1e-10)
    assert result.accuracy == np.mean(logits.argmax(axis=1) == data.targets.numpy())
    assert result.examples == 50


def test_evaluation_of_nothing_is_not_a_number() -> None:
    result = Trainer(network()).evaluate(vector(network()), Split(torch.zeros(0, 5).double(), torch.zeros(0).long()))
    assert math.isnan(result.loss)
    assert math.isnan(result.accuracy)
    assert result.examples == 0


def test_training_does_not_change_the_received_model() -> None:
    trainer = Trainer(network())
    received = trainer.state.clone()
    kept = received.clone()
    trainer.train(received, examples(), Training(learning_rate=1.0), seed=0, round=1, device=0)
    assert torch.equal(received, kept)


def test_parameters_that_need_no_gradient_stay() -> None:
    model = curved()
    model[0].requires_grad_(False)
    trainer = Trainer(model)
    received = trainer.state.clone()
    state, _ = trainer.train(received, examples(), Training(learning_rate=1.0), seed=0, round=1, device=0)
    frozen = sum(p.numel() for p in model[0].parameters())
    assert torch.equal(state[:frozen], received[:frozen])
    assert not torch.equal(state[frozen:], received[frozen:])


# Other losses.


def reconstructing(rows: int = 21, dtype: torch.dtype = torch.float64) -> Split:
    inputs = examples(rows, dtype).inputs
    return Split(inputs, inputs)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "relu"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_autoencoder_takes_the_steps_of_torch_sgd_on_its_own_loss(activation: str, momentum: float) -> None:
    model, data = build("autoencoder", (5,), 3, hidden=(4, 2), activation=activation, dtype=torch.float64), examples()
    trainer = Trainer(copy.deepcopy(model), loss=RECONSTRUCTION)
    training = Training(learning_rate=0.2, full_batch=True, local_steps=3, momentum=momentum, l2=0.1)
    state, loss = trainer.train(trainer.state.clone(), reconstructing(), training, seed=0, round=1, device=0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.2, momentum=momentum, weight_decay=0.1)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        value = (model(data.inputs) - data.inputs).square().sum(dim=1).mean() / 2
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert_same(state, vector(model))
    assert loss == pytest.approx(np.mean(losses), rel=1e-12)


def test_steps_written_out_for_cross_entropy_are_not_taken_on_another_loss() -> None:
    """5-4-5 with ReLU is what the trainer knows by hand, but its formula is that of cross-entropy."""
    model = build("autoencoder", (5,), 3, hidden=(4,), activation="relu")
    assert Trainer(model).dense is not None
    assert Trainer(model, loss=RECONSTRUCTION).dense is None


@pytest.mark.parametrize("batch_size", [4, 2048])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evaluation_of_a_reconstruction_is_its_mean_and_has_no_accuracy(batch_size: int, dtype: torch.dtype) -> None:
    model, data = build("autoencoder", (5,), 3, hidden=(2,), dtype=dtype), reconstructing(50, dtype)
    result = Trainer(copy.deepcopy(model), loss=RECONSTRUCTION).evaluate(vector(model), data, batch_size)
    expected = (model(data.inputs) - data.inputs).double().square().sum(dim=1).mean().item() / 2
    # 250 terms of order one; float32 rounds at 6e-8.
    assert result.loss == pytest.approx(expected, rel=1e-5 if dtype == torch.float32 else 1e-12)
    assert result.accuracy is None
    assert result.examples == 50


def test_evaluation_of_nothing_has_no_accuracy_where_the_loss_has_none() -> None:
    trainer = Trainer(build("autoencoder", (5,), 3, hidden=(2,)), loss=RECONSTRUCTION)
    result = trainer.evaluate(trainer.state.clone(), Split(torch.zeros(0, 5), torch.zeros(0, 5)))
    assert math.isnan(result.loss)
    assert result.accuracy is None


# The flat state.


def normalised() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def test_the_flat_state_and_the_model_are_the_same_memory() -> None:
    model = normalised()
    names = [name for name, t in model.state_dict().items() if t.is_floating_point()]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    flat = flat_state(model)
    assert torch.equal(flat, torch.cat([before[name].reshape(-1) for name in names]))
    flat.fill_(0.5)
    assert all(bool((model.state_dict()[name] == 0.5).all()) for name in names)
    with torch.no_grad():
        dict(model.named_parameters())["3.bias"][1] = 7.0
    assert flat[-2] == 7.0
    assert model.state_dict()["1.num_batches_tracked"] == 0


def test_running_statistics_are_trained_and_part_of_the_state() -> None:
    model = normalised()
    trainer = Trainer(model)
    received = trainer.state.clone()
    data = examples(dtype=torch.float32)
    first = model[:1]
    norm: Any = model[1]
    mean = first(data.inputs).mean(dim=0).detach()
    state, _ = trainer.train(received, data, Training(learning_rate=0.1, full_batch=True), seed=0, round=1, device=0)
    # BatchNorm's momentum is 0.1, from a running mean of zero; weight and bias come before it in the state.
    torch.testing.assert_close(norm.running_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    assert torch.equal(state[24 + 8 : 24 + 12], norm.running_mean)
    assert int(norm.num_batches_tracked) == 1


def test_tied_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="tied weights"):
        flat_state(model)


def test_mixed_precision_and_no_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="one floating-point dtype, found"):
        flat_state(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double()))
    with pytest.raises(ValueError, match="found none"):
        flat_state(nn.ReLU())


def test_arrays_of_a_model_load_into_another_and_are_copies() -> None:
    model, other = normalised(), normalised()
    arrays = model_arrays(model)
    load_arrays(other, arrays)
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    flat_state(model).zero_()
    assert any(array.any() for array in arrays.values())
    with pytest.raises(RuntimeError, match="Missing key"):
        load_arrays(other, {"0.weight": arrays["0.weight"]})


@pytest.mark.parametrize(("name", "complaint"), [("gpu", "not a device"), ("meta", "not supported")])
def test_an_unknown_device_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=rf"training\.device: '{name}' .*{complaint}.*accepted: auto, cpu, cuda"):
        compute_device(name)


def test_the_device_named_is_the_device_taken() -> None:
    assert compute_device("cpu").type == "cpu"
    assert compute_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no GPU; accepted here: auto, cpu"):
            compute_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", ["softmax", "mlp", "cnn"])
def test_devices_that_share_a_gpu_train_as_on_the_cpu(name: str) -> None:
    shape = (1, 12, 12) if name == "cnn" else (5,)
    draws = torch.Generator().manual_seed(1)
    splits = [
        Split(torch.randn(n, *shape, generator=draws).double(), torch.randint(3, (n,), generator=draws))
        for n in (7, 20, 11)
    ]
    steps = Training(learning_rate=0.1, local_epochs=2, batch_size=4)
    here, there = (Trainer(build(name, shape, 3, dtype=torch.float64), device) for device in ("cpu", "cuda"))
    received = here.state.clone()
    for device, split in enumerate(splits):
        expected, loss = here.train(received, split, steps, seed=0, round=1, device=device)
        found, found_loss = there.train(received, split, steps, seed=0, round=1, device=device)
        # the same batches in float64; sums may be taken in another order
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-12)
        assert found_loss == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_a_number_of_batches_is_that_many_of_the_epochs_batches(count: int) -> None:
    epochs = seen_by(Training(learning_rate=0.1, local_epochs=3, batch_size=8))
    assert seen_by(Training(learning_rate=0.1, local_batches=count, batch_size=8)) == epochs[:count]
