"""Models: sizes, shapes, reproducible starts, clear refusals."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from clients.models import MODELS, build, count_parameters


@pytest.mark.parametrize(
    ("name", "parameters", "count"),
    [
        ("softmax", {}, 7_850),
        ("softmax", {"bias": False}, 7_840),
        ("mlp", {}, 101_770),
        ("mlp", {"hidden": []}, 7_850),
        ("mlp", {"activation": "tanh"}, 101_770),
        ("autoencoder", {}, 209_968),
        ("autoencoder", {"hidden": [8]}, 13_336),  # 784 x 8 + 8 and 8 x 784 + 784
        ("autoencoder", {"hidden": [400, 200, 100, 50, 25, 6]}, 842_340),
    ],
)
def test_parameter_counts_are_the_textbook_ones(name: str, parameters: dict[str, object], count: int) -> None:
    assert count_parameters(build(name, (784,), 10, **parameters)) == count


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(784,), (64,), (3, 32, 32), (28, 28)])
def test_every_model_maps_a_batch_to_logits_and_the_autoencoder_to_its_inputs(
    name: str, shape: tuple[int, ...]
) -> None:
    outputs = build(name, shape, 7, dtype=torch.float64)(torch.ones(5, *shape, dtype=torch.float64))
    assert outputs.shape == (5, math.prod(shape) if name == "autoencoder" else 7)
    assert outputs.dtype == torch.float64


def test_an_autoencoder_mirrors_its_hidden_layers_around_the_code() -> None:
    layers = [
        part for part in build("autoencoder", (10,), 2, hidden=(8, 5, 3)).children() if isinstance(part, nn.Linear)
    ]
    sizes = [(layer.in_features, layer.out_features) for layer in layers]
    assert sizes == [(10, 8), (8, 5), (5, 3), (3, 5), (5, 8), (8, 10)]


ACTIVATED = {"relu": lambda z: z.clamp(min=0), "tanh": torch.tanh, "softplus": lambda z: (1 + z.exp()).log()}


@pytest.mark.parametrize("name", ["mlp", "autoencoder"])
@pytest.mark.parametrize("activation", ACTIVATED)
def test_the_activation_stands_after_every_hidden_layer_and_not_after_the_last(name: str, activation: str) -> None:
    model = build(name, (6,), 3, hidden=(5, 4), activation=activation, dtype=torch.float64)
    rows = torch.linspace(-2, 2, 12, dtype=torch.float64).view(2, 6)
    layers = [part for part in model.children() if isinstance(part, nn.Linear)]
    expected = rows
    for layer in layers[:-1]:
        expected = ACTIVATED[activation](layer(expected))
    # A few dozen terms of order one in float64.
    torch.testing.assert_close(model(rows), layers[-1](expected), rtol=1e-13, atol=1e-13)


def test_the_start_does_not_depend_on_the_activation() -> None:
    relu, tanh = (build("mlp", (6,), 3, activation=name).state_dict() for name in ("relu", "tanh"))
    assert all(torch.equal(relu[name], tanh[name]) for name in relu)


@pytest.mark.parametrize("name", ["mlp", "cnn", "autoencoder"])
def test_seed_alone_fixes_the_start(name: str) -> None:
    def start(seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(build(name, (64,), 10, seed=seed).parameters())

    first = start(1)
    torch.rand(17)
    assert torch.equal(first, start(1))
    assert not torch.equal(first, start(2))


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    build("mlp", (64,), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_softmax_starts_at_zero_and_zeros_does_so_for_all() -> None:
    for model in (build("softmax", (64,), 10), build("cnn", (64,), 10, init="zeros")):
        assert all(torch.count_nonzero(parameter) == 0 for parameter in model.parameters())


def test_float64_starts_where_float32_does() -> None:
    single, double = build("mlp", (64,), 10), build("mlp", (64,), 10, dtype=torch.float64)
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(a.double(), b)


def test_flat_and_square_images_are_the_same_to_the_cnn() -> None:
    image = torch.rand(2, 1, 8, 8)
    flat, square = build("cnn", (64,), 10), build("cnn", (1, 8, 8), 10)
    assert torch.equal(flat(image.flatten(1)), square(image))


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_models.py").write_text(
        "import math, torch\n"
        "def tiny(input_shape, num_classes, width=3):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(math.prod(input_shape), width), "
        "torch.nn.Linear(width, num_classes))\n"
        "def nothing(input_shape, num_classes): return None\n"
        "number = 3\n"
    )
    (tmp_path / "broken_models.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_models", "broken_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_models"


def test_a_model_can_come_from_an_import_path(factories: str) -> None:
    model = build(f"{factories}:tiny", (4,), 2, width=5, seed=1)
    assert count_parameters(model) == 4 * 5 + 5 + 5 * 2 + 2
    assert torch.equal(model[0].weight, build(f"{factories}:tiny", (4,), 2, width=5, seed=1)[0].weight)  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("resnet", {}, ValueError, r"'resnet' is not known; accepted: softmax, mlp, cnn"),
        ("missing_module:tiny", {}, ValueError, r"no module 'missing_module'"),
        ("own_models:large", {}, ValueError, r"module 'own_models' has no 'large'"),
        ("own_models:number", {}, TypeError, r"of type int, which can't be called"),
        ("own_models:nothing", {}, TypeError, r"returned NoneType"),
        ("own_models:tiny", {"depth": 1}, ValueError, r"'depth'; accepted: width"),
        ("broken_models:tiny", {}, ModuleNotFoundError, r"a_package_that_is_missing"),
        ("mlp", {"layers": 1}, ValueError, r"'layers'; accepted: hidden"),
        (
            "mlp",
            {"activation": "gelu"},
            ValueError,
            r"activation = 'gelu' is not known; accepted: relu, tanh, softplus",
        ),
        ("autoencoder", {"activation": "gelu"}, ValueError, r"activation = 'gelu' .* accepted: relu, tanh, softplus"),
        ("autoencoder", {"hidden": []}, ValueError, r"hidden = \[\] leaves no code; accepted: at least one"),
        ("autoencoder", {"hidden": [3, 0]}, ValueError, r"hidden = \[3, 0\] must be whole numbers"),
        ("mlp", {"hidden": [0]}, ValueError, r"hidden = \[0\] must be whole numbers"),
        ("mlp", {"init": "ones"}, ValueError, r"init = 'ones' is not known; accepted: default, zeros"),
        ("cnn", {"channels": [1] * 5}, ValueError, r"use at most 3 entries"),
    ],
)
@pytest.mark.usefixtures("factories")
def test_a_bad_model_is_refused(name: str, parameters: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(name, (64,), 10, **parameters)  # type: ignore[arg-type]


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input_shape = \(5,\) is no image"):
        build("cnn", (5,), 10)
    with pytest.raises(ValueError, match="input_shape"):
        build("mlp", (0,), 10)
    with pytest.raises(ValueError, match="num_classes = 1 must be"):
        build("mlp", (4,), 1)
