"""A device's objective, its gradient and its curvature are those of the plain formula."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parameters_to_vector

from clients.data import Split
from clients.models import build
from clients.objective import Objective
from clients.softmax_regression import SoftmaxRegression

FEATURES, CLASSES, ROWS = 64, 3, 13
STEPS = [1.0, 0.5, 2.0**-20, 0.0, -0.25]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products are fastest so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tanh_network() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES)).double()


def normalised_network() -> nn.Module:
    """Batch norm with statistics of its own, dropout, and a frozen first layer."""
    model = nn.Sequential(
        nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Softplus(), nn.Dropout(0.5), nn.Linear(4, CLASSES)
    )
    model[0].requires_grad_(False)
    model[1].running_mean.fill_(0.3)
    model[1].running_var.fill_(2.0)
    return model.double()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: build("softmax", (FEATURES,), CLASSES, dtype=torch.float64),
    "softmax without bias": lambda: build("softmax", (FEATURES,), CLASSES, bias=False, dtype=torch.float64),
    "linear layer": lambda: nn.Linear(FEATURES, CLASSES).double(),
    "relu": lambda: build("mlp", (FEATURES,), CLASSES, hidden=(5, 4), dtype=torch.float64),
    "tanh": tanh_network,
    "cnn": lambda: build("cnn", (FEATURES,), CLASSES, channels=(2,), hidden=4, dtype=torch.float64),
    "batch norm, dropout, frozen": normalised_network,
}
every_model = pytest.mark.parametrize("name", MODELS)


def make(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return MODELS[name]()


def draw(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_rows(count: int = ROWS, classes: int = CLASSES, features: int = FEATURES, seed: int = 0) -> Split:
    """Random inputs; every fourth feature is zero in all rows, as at the rim of an image."""
    inputs = draw(count, features, seed=seed)
    inputs[:, ::4] = 0
    targets = torch.randint(0, classes, (count,), generator=torch.Generator().manual_seed(seed))
    return Split(inputs, targets)


def plain(model: nn.Module, data: Split, l2: float, loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """The formula, as one function of w for automatic differentiation."""
    model = copy.deepcopy(model).eval()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def of(w: Tensor) -> Tensor:
        flat = w.split([p.numel() for p in trainable.values()])
        parameters = {name: part.view(p.shape) for (name, p), part in zip(trainable.items(), flat, strict=True)}
        return loss(functional_call(model, parameters, (data.inputs,)), data.targets) + l2 / 2 * w.square().sum()

    return of


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """All values here are of order one; float64 rounds at 1e-16, and sums have at most a few thousand terms."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def through_autograd(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that the objective doesn't recognise."""
    return functional.cross_entropy(outputs, targets)


@every_model
def test_value_and_gradient_are_those_of_the_plain_loss(name: str) -> None:
    model, data = make(name), some_rows()
    objective, reference = (
        Objective(model, data, l2=0.3),
        plain(model, data, 0.3, functional.cross_entropy),
    )
    w = draw(objective.size, seed=2, scale=0.5).requires_grad_()
    expected = reference(w)
    (slope,) = torch.autograd.grad(expected, w)
    value, gradient = objective.value_and_gradient(w.detach())
    assert value == pytest.approx(expected.item(), rel=1e-13)
    assert objective.value(w.detach()) == pytest.approx(value, rel=1e-13)
    close(gradient, slope, 1e-12)


@pytest.mark.parametrize("name", ["softmax", "tanh"])
def test_gradient_is_the_limit_of_central_differences(name: str) -> None:
    """With h = 1e-5 the truncation error is of order h^2 and rounding of order 1e-16 / h, both near 1e-10."""
    objective = Objective(make(name), some_rows(), l2=0.1)
    w, h = draw(objective.size, seed=2, scale=0.5), 1e-5
    _, gradient = objective.value_and_gradient(w)
    for seed in range(3):
        p = draw(objective.size, seed=10 + seed, scale=0.3)
        difference = (objective.value(w + h * p) - objective.value(w - h * p)) / (2 * h)
        assert difference == pytest.approx(float(gradient @ p), abs=1e-8)


@every_model
def test_hessian_product_is_that_of_the_dense_hessian(name: str) -> None:
    model, data = make(name), some_rows()
    objective = Objective(model, data, l2=0.3)
    w = draw(objective.size, seed=2, scale=0.5)
    dense = torch.autograd.functional.hessian(plain(model, data, 0.3, functional.cross_entropy), w)
    product = objective.hessian(w)
    for seed in range(3):
        v = draw(objective.size, seed=20 + seed)
        close(product(v), dense @ v)


@every_model
def test_hessian_is_symmetric_and_linear(name: str) -> None:
    objective = Objective(make(name), some_rows(), l2=0.3)
    product = objective.hessian(draw(objective.size, seed=2, scale=0.5))
    u, v = draw(objective.size, seed=3), draw(objective.size, seed=4)
    assert float(u @ product(v)) == pytest.approx(float(v @ product(u)), rel=1e-10, abs=1e-10)
    close(product(2 * u - 3 * v), 2 * product(u) - 3 * product(v))
    assert not product(torch.zeros_like(v)).any()


@every_model
@pytest.mark.parametrize("block_rows", [5, ROWS])
def test_hessian_belongs_to_its_point_whatever_becomes_of_the_vector(name: str, block_rows: int) -> None:
    objective = Objective(make(name), some_rows(), block_rows=block_rows)
    w, v = draw(objective.size, seed=2, scale=0.5), draw(objective.size, seed=3)
    product = objective.hessian(w)
    before = product(v)
    w.zero_()
    objective.value_and_gradient(w)
    close(product(v), before, 0.0)


@every_model
def test_l2_adds_its_own_value_gradient_and_curvature(name: str) -> None:
    model, data, l2 = make(name), some_rows(), 0.7
    bare, regularised = Objective(model, data), Objective(model, data, l2=l2)
    w, v = draw(bare.size, seed=2, scale=0.5), draw(bare.size, seed=3)
    assert regularised.value(w) == pytest.approx(bare.value(w) + l2 / 2 * float(w @ w), rel=1e-13)
    close(regularised.value_and_gradient(w)[1], bare.value_and_gradient(w)[1] + l2 * w, 1e-13)
    close(regularised.hessian(w)(v), bare.hessian(w)(v) + l2 * v, 1e-13)


@every_model
@pytest.mark.parametrize("block_rows", [1, 7])
def test_blocks_of_any_size_agree(name: str, block_rows: int) -> None:
    model, data = make(name), some_rows()
    whole, blocks = Objective(model, data, l2=0.1), Objective(model, data, l2=0.1, block_rows=block_rows)
    w, v = draw(whole.size, seed=2, scale=0.5), draw(whole.size, seed=3, scale=0.5)
    assert blocks.value(w) == pytest.approx(whole.value(w), rel=1e-13)
    close(blocks.value_and_gradient(w)[1], whole.value_and_gradient(w)[1], 1e-12)
    close(blocks.hessian(w)(v), whole.hessian(w)(v), 1e-12)
    for mine, theirs in zip(
        blocks.along(w, v, STEPS, gradients=True), whole.along(w, v, STEPS, gradients=True), strict=True
    ):
        assert mine is not None
        assert theirs is not None
        close(mine, theirs, 1e-12)


@every_model
def test_along_a_line_are_the_values_and_gradients_of_its_points(name: str) -> None:
    objective = Objective(make(name), some_rows(), l2=0.3)
    w, p = draw(objective.size, seed=2, scale=0.5), draw(objective.size, seed=3, scale=0.5)
    values, gradients = objective.along(w, p, STEPS, gradients=True)
    assert gradients is not None
    for k, step in enumerate(STEPS):
        value, gradient = objective.value_and_gradient(w + step * p)
        assert float(values[k]) == pytest.approx(value, rel=1e-12)
        close(gradients[k], gradient, 1e-12)
    alone, none = objective.along(w, p, STEPS, gradients=False)
    assert none is None
    close(alone, values, 1e-13)


@every_model
def test_no_steps_give_empty_results(name: str) -> None:
    objective = Objective(make(name), some_rows())
    w = draw(objective.size, seed=2)
    values, gradients = objective.along(w, w, [], gradients=True)
    assert gradients is not None
    assert values.shape == (0,)
    assert gradients.shape == (0, objective.size)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    features=st.integers(1, 9),
    classes=st.integers(2, 11),
    bias=st.booleans(),
    block_rows=st.integers(1, 25),
    seed=st.integers(0, 1000),
)
def test_softmax_regression_written_out_equals_automatic_differentiation(
    rows: int, features: int, classes: int, bias: bool, block_rows: int, seed: int
) -> None:
    """Also when some features, or all, are zero in every row, and for numbers of classes that are padded or not."""
    data = some_rows(rows, classes, features, seed)
    model = build("softmax", (features,), classes, bias=bias, dtype=torch.float64)
    written = Objective(model, data, l2=0.1, block_rows=block_rows)
    differentiated = Objective(model, data, l2=0.1, loss=through_autograd)
    w, v = draw(written.size, seed=seed), draw(written.size, seed=seed + 1)
    assert isinstance(written._mean(w), SoftmaxRegression)
    assert not isinstance(differentiated._mean(w), SoftmaxRegression)
    value, gradient = written.value_and_gradient(w)
    expected, slope = differentiated.value_and_gradient(w)
    assert value == pytest.approx(expected, rel=1e-12)
    assert written.value(w) == pytest.approx(expected, rel=1e-12)
    close(gradient, slope, 1e-12)
    close(written.hessian(w)(v), differentiated.hessian(w)(v), 1e-12)
    for mine, theirs in zip(
        written.along(w, v, STEPS, gradients=True), differentiated.along(w, v, STEPS, gradients=True), strict=True
    ):
        assert mine is not None
        assert theirs is not None
        close(mine, theirs, 1e-12)


def test_softmax_regression_starts_at_the_loss_of_a_guess_with_the_gradient_of_the_formula() -> None:
    """At W = 0 the loss is log K and the gradient (1/s) (1/K - Y)^T X."""
    data = some_rows()
    objective = Objective(make("softmax without bias"), data)
    value, gradient = objective.value_and_gradient(torch.zeros(objective.size, dtype=torch.float64))
    assert value == pytest.approx(torch.tensor(CLASSES).double().log().item(), rel=1e-14)
    residuals = 1 / CLASSES - functional.one_hot(data.targets, CLASSES).double()
    close(gradient.view(CLASSES, FEATURES), residuals.t() @ data.inputs / ROWS, 1e-14)


def test_softmax_curvature_is_positive_and_flat_along_a_shift_of_all_classes() -> None:
    objective = Objective(make("softmax"), some_rows())
    product = objective.hessian(draw(objective.size, seed=2))
    for seed in range(5):
        v = draw(objective.size, seed=seed)
        assert float(v @ product(v)) > 0
    shift = torch.cat([draw(FEATURES, seed=3).repeat(CLASSES), torch.ones(CLASSES, dtype=torch.float64)])
    close(product(shift), torch.zeros_like(shift), 1e-13)


@every_model
def test_mean_over_devices_of_equal_parts_is_the_pooled_objective(name: str) -> None:
    model, data = make(name), some_rows(12)
    pooled = Objective(model, data, l2=0.2)
    devices = [
        Objective(model, Split(data.inputs[i : i + 4], data.targets[i : i + 4]), l2=0.2) for i in range(0, 12, 4)
    ]
    w, v = draw(pooled.size, seed=2, scale=0.5), draw(pooled.size, seed=3)
    assert sum(device.value(w) for device in devices) / 3 == pytest.approx(pooled.value(w), rel=1e-13)
    close(
        torch.stack([device.value_and_gradient(w)[1] for device in devices]).mean(0),
        pooled.value_and_gradient(w)[1],
        1e-12,
    )
    close(torch.stack([device.hessian(w)(v) for device in devices]).mean(0), pooled.hessian(w)(v), 1e-12)


@every_model
def test_the_order_of_rows_does_not_matter(name: str) -> None:
    model, data = make(name), some_rows()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(5))
    one, other = Objective(model, data), Objective(model, Split(data.inputs[order], data.targets[order]))
    w, v = draw(one.size, seed=2, scale=0.5), draw(one.size, seed=3)
    assert one.value(w) == pytest.approx(other.value(w), rel=1e-13)
    close(one.value_and_gradient(w)[1], other.value_and_gradient(w)[1], 1e-12)
    close(one.hessian(w)(v), other.hessian(w)(v), 1e-12)


@pytest.mark.parametrize("kind", ["autoencoder", "regression"])
def test_other_losses_are_differentiated(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        outputs = 6 if kind == "autoencoder" else 1
        model = nn.Sequential(nn.Linear(6, 3), nn.Sigmoid(), nn.Linear(3, outputs)).double()
    inputs = draw(9, 6, seed=0)
    data = Split(inputs, inputs if kind == "autoencoder" else draw(9, 1, seed=1))
    objective = Objective(model, data, l2=0.2, loss=functional.mse_loss, block_rows=4)
    w, v = draw(objective.size, seed=2), draw(objective.size, seed=3)
    reference = plain(model, data, 0.2, functional.mse_loss)
    assert objective.value(w) == pytest.approx(float(reference(w)), rel=1e-13)
    close(objective.value_and_gradient(w)[1], torch.autograd.functional.jacobian(reference, w), 1e-12)
    close(objective.hessian(w)(v), torch.autograd.functional.hessian(reference, w) @ v)


def test_no_more_than_a_block_of_rows_is_worked_on_at_once() -> None:
    sizes = []

    def recording(outputs: Tensor, targets: Tensor) -> Tensor:
        sizes.append(len(outputs))
        return functional.cross_entropy(outputs, targets)

    objective = Objective(make("relu"), some_rows(), loss=recording, block_rows=5)
    w = draw(objective.size, seed=2)
    objective.value_and_gradient(w)
    objective.hessian(w)(w)
    assert sizes == [5, 5, 3] * 2


def test_products_at_a_point_share_one_pass_over_the_rows() -> None:
    passes = []

    def recording(outputs: Tensor, targets: Tensor) -> Tensor:
        passes.append(len(outputs))
        return functional.cross_entropy(outputs, targets)

    objective = Objective(make("relu"), some_rows(), loss=recording)
    product = objective.hessian(draw(objective.size, seed=2))
    for seed in range(5):
        product(draw(objective.size, seed=seed))
    assert passes == [ROWS]


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature() -> None:
    objective = Objective(
        nn.Linear(3, 1).double(), Split(draw(4, 3, seed=0), draw(4, seed=1)), loss=lambda h, _: h.mean()
    )
    w = draw(objective.size, seed=2)
    assert not objective.hessian(w)(w).any()


@every_model
def test_the_model_the_data_and_the_random_state_stay_as_they_were(name: str) -> None:
    model, data = make(name).train(), some_rows()
    before, rows, random = copy.deepcopy(model.state_dict()), data.inputs.clone(), torch.random.get_rng_state()
    objective = Objective(model, data, l2=0.1)
    w = draw(objective.size, seed=2)
    with torch.no_grad():
        objective.hessian(w)(w)
        objective.along(w, w, STEPS, gradients=True)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(data.inputs, rows)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.equal(w, draw(objective.size, seed=2))


def test_the_present_parameters_are_the_objective_at_their_vector() -> None:
    model, data = make("relu"), some_rows()
    with torch.no_grad():
        expected = functional.cross_entropy(model(data.inputs), data.targets).item()
        w = parameters_to_vector(model.parameters())
    assert Objective(model, data).value(w) == pytest.approx(expected, rel=1e-14)


@every_model
def test_the_vector_decides_the_precision(name: str) -> None:
    """float32 rounds at 6e-8, and errors of some hundred terms add up: 1e-4 leaves a margin of ten."""
    objective = Objective(make(name), some_rows(), l2=0.1)
    w, v = draw(objective.size, seed=2, scale=0.5), draw(objective.size, seed=3)
    exact = objective.value_and_gradient(w)[1], objective.hessian(w)(v)
    single = objective.value_and_gradient(w.float())[1], objective.hessian(w.float())(v.float())
    for found, expected in zip(single, exact, strict=True):
        assert found.dtype == torch.float32
        close(found.double(), expected, 1e-4)
    close(objective.hessian(w)(v), exact[1], 0.0)  # the float32 copy of the rows has not replaced the rows
    values, gradients = objective.along(w.float(), v.float(), STEPS, gradients=True)
    assert gradients is not None
    assert (values.dtype, gradients.dtype) == (torch.float64, torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@every_model
def test_a_gpu_computes_the_same(name: str) -> None:
    model, data = make(name), some_rows()
    here, there = Objective(model, data, l2=0.1), Objective(model, data, l2=0.1, device="cuda", block_rows=5)
    w, v = draw(here.size, seed=2, scale=0.5), draw(here.size, seed=3)
    close(there.value_and_gradient(w.cuda())[1].cpu(), here.value_and_gradient(w)[1])
    close(there.hessian(w.cuda())(v.cuda()).cpu(), here.hessian(w)(v))
    close(there.along(w.cuda(), v.cuda(), STEPS, gradients=True)[0].cpu(), here.along(w, v, STEPS, gradients=True)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    objective = Objective(make("softmax"), some_rows())
    with pytest.raises(ValueError, match=r"accepted: torch\.float32, torch\.float64"):
        objective.value(torch.zeros(objective.size, dtype=dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": -1.0}, "l2 = -1.0"),
        ({"l2": float("nan")}, "l2 = nan"),
        ({"block_rows": 0}, "block_rows = 0"),
        ({"data": Split(torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64))}, "data: 0 inputs"),
        ({"data": Split(torch.zeros(2, FEATURES), torch.tensor([0, 1, 1]))}, "2 inputs and 3 targets"),
        ({"data": Split(torch.zeros(2, FEATURES), torch.tensor([0, CLASSES]))}, "class 3; accepted: 0 to 2"),
        ({"data": Split(torch.zeros(2, FEATURES), torch.tensor([0, -100]))}, "class -100; accepted"),
        ({"model": nn.Sequential(nn.Flatten())}, "no trainable parameters"),
        ({"model": nn.Sequential(nn.BatchNorm1d(FEATURES, track_running_stats=False))}, "batch norm with"),
    ],
)
def test_what_is_no_objective_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"model": make("softmax"), "data": some_rows(), **change}
    with pytest.raises(ValueError, match=message):
        Objective(**arguments)  # type: ignore[arg-type]


def test_a_vector_of_another_length_or_dtype_is_refused() -> None:
    objective = Objective(make("softmax"), some_rows())
    w = torch.zeros(objective.size, dtype=torch.float64)
    with pytest.raises(ValueError, match="w: shape"):
        objective.value(w[1:])
    with pytest.raises(ValueError, match="v: shape"):
        objective.hessian(w)(w.float())
    with pytest.raises(ValueError, match="p: shape"):
        objective.along(w, w[1:], STEPS, gradients=False)


def test_a_loss_that_is_no_mean_is_refused() -> None:
    objective = Objective(
        make("softmax"), some_rows(), loss=lambda h, y: functional.cross_entropy(h, y, reduction="none")
    )
    with pytest.raises(ValueError, match="mean over rows"):
        objective.value(torch.zeros(objective.size, dtype=torch.float64))
