"""Losses by name: reconstruction is the formula, its gradient too, and its linear optimum is the PCA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from clients.data import Split, load
from clients.losses import LOSSES, reconstruction
from clients.models import build
from clients.objective import Objective

torch.set_num_threads(1)  # small products: threads would only wait for each other

ROWS, FEATURES, CODE = 40, 6, 2


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stretched(rows: int = ROWS, features: int = FEATURES) -> Tensor:
    """Rows with mean zero whose directions carry very different energies."""
    inputs = draw(rows, features, seed=0) @ draw(features, features, seed=1)
    return inputs - inputs.mean(dim=0)


def linear(code: int = CODE, features: int = FEATURES) -> nn.Sequential:
    """h(x) = V U x."""
    return nn.Sequential(nn.Linear(features, code, bias=False), nn.Linear(code, features, bias=False)).double()


def vector(*matrices: Tensor) -> Tensor:
    return torch.cat([matrix.reshape(-1) for matrix in matrices])


def test_the_names_are_those_a_scenario_chooses_from() -> None:
    assert LOSSES.keys() == {"cross-entropy", "reconstruction"}
    assert LOSSES["cross-entropy"].mean is functional.cross_entropy  # by which the written-out steps know it
    assert [loss.of_classes for loss in LOSSES.values()] == [True, False]


@given(rows=st.integers(1, 5), features=st.integers(1, 4), seed=st.integers(0, 100))
def test_reconstruction_is_half_the_squared_distance_of_a_row_on_average(rows: int, features: int, seed: int) -> None:
    outputs, targets = draw(rows, features, seed=seed), draw(rows, features, seed=seed + 1)
    by_hand = [sum((h - x) ** 2 for h, x in zip(*row, strict=True)) / 2 for row in zip(outputs, targets, strict=True)]
    # At most twenty terms of order one in float64.
    assert float(reconstruction(outputs, targets)) == pytest.approx(float(sum(by_hand)) / rows, rel=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_batch_means_weighted_by_their_rows_are_the_mean_of_all(name: str) -> None:
    loss, outputs = LOSSES[name], draw(7, 3, seed=0)
    targets = torch.tensor([0, 1, 2, 1, 0, 2, 2]) if loss.of_classes else draw(7, 3, seed=1)
    parts = [float(loss.mean(outputs[a:b], targets[a:b])) * (b - a) for a, b in ((0, 3), (3, 4), (4, 7))]
    assert sum(parts) / 7 == pytest.approx(float(loss.mean(outputs, targets)), rel=1e-14)


def test_images_and_their_flat_rows_are_the_same() -> None:
    images, rows = draw(3, 1, 2, 4, seed=0), draw(3, 8, seed=1)
    assert reconstruction(images, rows) == reconstruction(images.flatten(1), rows)


def test_outputs_of_another_size_are_refused_where_broadcasting_would_pass() -> None:
    with pytest.raises(ValueError, match=r"outputs: shape \(3, 1\); the targets' is \(3, 4\)"):
        reconstruction(torch.zeros(3, 1), torch.zeros(3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_of_a_linear_autoencoder_are_the_formula(dtype: torch.dtype) -> None:
    """h(x) = VUx and E = (VU - 1)C, C = (1/n) sum xx^T: f = tr((VU - 1)C(VU - 1)^T)/2, df/dV = EU^T, df/dU = V^T E."""
    inputs = stretched()
    objective = Objective(linear(), Split(inputs, inputs), loss=reconstruction, block_rows=16)
    encoder, decoder = draw(CODE, FEATURES, seed=2), draw(FEATURES, CODE, seed=3)
    covariance, error = inputs.T @ inputs / ROWS, decoder @ encoder - torch.eye(FEATURES, dtype=torch.float64)
    value, gradient = objective.value_and_gradient(vector(encoder, decoder).to(dtype))
    expected = vector(decoder.T @ error @ covariance, error @ covariance @ encoder.T)
    # Sums of 40 x 6 terms; float32 rounds at 6e-8, float64 at 1e-16.
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert gradient.dtype == dtype
    assert value == pytest.approx(float(torch.trace(error @ covariance @ error.T)) / 2, rel=tolerance)
    torch.testing.assert_close(gradient.double(), expected, rtol=tolerance, atol=tolerance * float(expected.norm()))


def test_hessian_of_a_linear_layer_is_the_covariance_of_the_inputs() -> None:
    """f(W) is a quadratic: its Hessian takes a direction D to DC, wherever W is."""
    inputs = stretched()
    model = nn.Linear(FEATURES, FEATURES, bias=False).double()
    objective = Objective(model, Split(inputs, inputs), loss=reconstruction)
    direction = draw(FEATURES, FEATURES, seed=4)
    found = objective.hessian(draw(objective.size, seed=5))(vector(direction))
    torch.testing.assert_close(found, vector(direction @ inputs.T @ inputs / ROWS), rtol=1e-12, atol=1e-12)


def principal(inputs: Tensor, code: int) -> tuple[Tensor, float]:
    """The k leading eigenvectors of the covariance, shape (features, k), and half the sum of the other eigenvalues."""
    eigenvalues, eigenvectors = torch.linalg.eigh(inputs.T @ inputs / len(inputs))
    return eigenvectors[:, -code:], float(eigenvalues[:-code].sum()) / 2


@pytest.mark.parametrize("code", [1, 2, 5])
def test_the_optimum_of_a_linear_autoencoder_is_the_error_of_the_pca(code: int) -> None:
    inputs = stretched()
    objective = Objective(linear(code), Split(inputs, inputs), loss=reconstruction)
    directions, least = principal(inputs, code)
    optimum = vector(directions.T, directions)
    value, gradient = objective.value_and_gradient(optimum)
    # The eigenvectors carry errors of about 1e-15 times the spread of the eigenvalues.
    assert value == pytest.approx(least, rel=1e-12)
    assert float(gradient.abs().max()) < 1e-11
    for seed in range(20):  # nothing near it is lower, nor anything far away
        for scale in (0.01, 1.0):
            assert objective.value(optimum + scale * draw(objective.size, seed=seed)) > least


def test_a_tanh_autoencoder_approaches_the_pca_error_in_its_linear_limit() -> None:
    """tanh(z) = z - z^3/3 + ...: with the encoder times s and the decoder over s the code is off by a share of s^2.

    What is off lies within the principal directions, at right angles to what they leave out: the excess is of order
    s^4.
    """
    inputs = stretched()
    model = build("autoencoder", (FEATURES,), 2, hidden=(CODE,), dtype=torch.float64)
    objective = Objective(model, Split(inputs, inputs), loss=reconstruction)
    directions, least = principal(inputs, CODE)
    biases = torch.zeros(CODE).double(), torch.zeros(FEATURES).double()
    large, small = (
        objective.value(vector(s * directions.T, biases[0], directions / s, biases[1])) - least for s in (0.01, 0.005)
    )
    # The next term of the series is smaller by s^2 z^2, with |z| up to 10 about 1 %; both excesses are far above 1e-12.
    assert small > 1e-9
    assert large / small == pytest.approx(2**4, rel=0.03)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_an_autoencoders_curvature_is_that_of_the_dense_hessian(activation: str) -> None:
    inputs = stretched(9, 4)
    model: Any = build("autoencoder", (4,), 2, hidden=(3, 2), activation=activation, dtype=torch.float64)
    objective = Objective(model, Split(inputs, inputs), l2=0.1, loss=reconstruction, block_rows=4)
    w, v = draw(objective.size, seed=2), draw(objective.size, seed=3)
    h = 1e-5  # truncation h^2 and rounding 1e-16 / h are both about 1e-10, times values of order 10 to 100
    above, below = (objective.value_and_gradient(w + sign * h * v)[1] for sign in (1, -1))
    torch.testing.assert_close(objective.hessian(w)(v), (above - below) / (2 * h), rtol=1e-6, atol=1e-7)


def test_inputs_as_targets_are_views_of_the_same_rows_in_every_split() -> None:
    classes = load("digits", devices=3, partition="shards", shards=2, validation_fraction=0.1).grouped()
    data = classes.with_inputs_as_targets()
    for split, before in (
        (data.train, classes.train),
        (data.validation, classes.validation),
        (data.test, classes.test),
    ):
        assert len(split) == len(before) > 0
        assert torch.equal(split.targets, split.inputs.flatten(1))
        assert split.targets.data_ptr() == before.inputs.data_ptr()
    for device in range(3):
        mine = data.device(device)
        assert torch.equal(mine.inputs, classes.device(device).inputs)
        assert mine.targets.data_ptr() == mine.inputs.data_ptr()
