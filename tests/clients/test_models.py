"""Models: sizes, shapes, reproducible starts, clear refusals."""

from __future__ import annotations

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
    ],
)
def test_parameter_counts_are_the_textbook_ones(name: str, parameters: dict[str, object], count: int) -> None:
    assert count_parameters(build(name, (784,), 10, **parameters)) == count


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(784,), (64,), (3, 32, 32), (28, 28)])
def test_every_model_maps_a_batch_to_logits(name: str, shape: tuple[int, ...]) -> None:
    logits = build(name, shape, 7, dtype=torch.float64)(torch.ones(5, *shape, dtype=torch.float64))
    assert logits.shape == (5, 7)
    assert logits.dtype == torch.float64


@pytest.mark.parametrize("name", ["mlp", "cnn"])
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
